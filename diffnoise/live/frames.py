"""Where frames come from: a folder, a video, a camera."""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..data import DataError, find_samples
from ..data.image import SUFFIXES


@dataclass(frozen=True)
class Frame:
    name: str
    image: Path | np.ndarray  # a file, or uint8 [H, W] or [H, W, 3]
    since: float  # time.perf_counter() when it was there


def frames(source: str, channels: int) -> tuple[Generator[Frame], float | None]:
    """The frames of a source and, of a video or camera, its rate per second.

    source: a folder, image or CSV manifest, in the order of the paths; a video file; the number of a camera; the address of a stream. channels: 1
    or 3 for all but images. Raises `DataError` for a source that is missing, empty or unreadable, `RuntimeError` for a video
    without OpenCV.
    """
    path = Path(source)
    is_stream = source.isdecimal() or "://" in source
    if is_stream or (path.is_file() and path.suffix.lower() not in (*SUFFIXES, ".csv")):
        return _video(source, channels)
    samples = find_samples(path)
    return (Frame(str(sample.path), sample.path, time.perf_counter()) for sample in samples), None


def _video(source: str, channels: int) -> tuple[Generator[Frame], float | None]:
    cv2 = opencv()
    if channels not in (1, 3):
        raise DataError(f"A video has 1 or 3 channels, but the detector takes {channels}; give a folder of images.")
    capture = cv2.VideoCapture(int(source) if source.isdecimal() else source)
    capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # the newest image of a camera whose driver lets one choose
    there, first = capture.read()
    if not there:
        raise DataError(f"{source} gives no frames; name a video that OpenCV can read, a camera's number or a folder.")
    colours = cv2.COLOR_BGR2GRAY if channels == 1 else cv2.COLOR_BGR2RGB

    def read() -> Generator[Frame]:
        number, there, pixels = 0, True, first
        try:
            while there:
                since = time.perf_counter()
                yield Frame(f"{source}#{number}", cv2.cvtColor(pixels, colours), since)
                there, pixels = capture.read()
                number += 1
        finally:
            capture.release()

    rate = capture.get(cv2.CAP_PROP_FPS)
    return read(), rate if rate > 0 else None


def opencv() -> Any:
    """The module cv2; raises `RuntimeError` that says how to get it."""
    try:
        import cv2
    except ImportError:
        raise RuntimeError(
            'Videos, cameras and windows need OpenCV; install it with: pip install "diffnoise[live]"'
        ) from None
    return cv2
