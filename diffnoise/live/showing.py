"""Where drawn frames go: a folder, a video, a window. Each is a function of the frame's number and picture, uint8 [H, W, 3]."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from ..data import DataError
from .frames import opencv

CODECS = {".mp4": "mp4v", ".avi": "MJPG", ".mkv": "MJPG"}
ESCAPE = 27

Show = Callable[[int, np.ndarray], None]


class Closed(Exception):
    """The user has closed the window."""


def into_folder(folder: Path) -> Show:
    """JPEG files called by their number."""
    folder.mkdir(parents=True, exist_ok=True)

    def show(number: int, picture: np.ndarray) -> None:
        Image.fromarray(picture).save(folder / f"{number:06}.jpg", quality=90)

    return show


def into_video(path: Path, rate: float, stack: ExitStack) -> Show:
    """A video of so many frames per second, of the first frame's size, which the stack completes."""
    cv2 = opencv()
    path.parent.mkdir(parents=True, exist_ok=True)
    writer: Any = None
    size = (0, 0)

    def show(number: int, picture: np.ndarray) -> None:
        nonlocal writer, size
        if writer is None:
            height, width = picture.shape[:2]
            size = (width + width % 2, height + height % 2)  # codecs want even sides
            writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*CODECS[path.suffix.lower()]), rate, size)
            stack.callback(writer.release)
            if not writer.isOpened():
                raise DataError(f"OpenCV cannot write {path}; name another suffix ({', '.join(CODECS)}) or a folder.")
        if picture.shape[1::-1] != size:
            picture = np.asarray(ImageOps.pad(Image.fromarray(picture), size))
        writer.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))

    return show


def into_window(stack: ExitStack) -> Show:
    """A window, until q or Escape is pressed there: then `Closed` is raised."""
    cv2 = opencv()

    def close() -> None:
        with suppress(cv2.error):
            cv2.destroyAllWindows()

    def show(number: int, picture: np.ndarray) -> None:
        try:
            cv2.imshow("diffnoise", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
            key = cv2.waitKey(1)
        except cv2.error:
            raise RuntimeError(
                "This OpenCV opens no windows, or there is no display; use --output, or opencv-python in place of "
                "opencv-python-headless."
            ) from None
        if key in (ord("q"), ESCAPE):
            raise Closed

    stack.callback(close)
    return show
