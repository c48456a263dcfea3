"""A scored frame as a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..data import read_image
from ..detector import Detector
from ..realtime import RealtimeResult
from ..report import overlay
from .frames import Frame

LEAST_WIDTH = 320  # pixels
RED, GREEN, AMBER = (170, 30, 30), (20, 110, 50), (150, 100, 0)


def draw(frame: Frame, result: RealtimeResult, detector: Detector, fps: float | None) -> np.ndarray:
    """The frame under its map, with its label, score, latency and frame rate above it, uint8 [H, W, 3].

    detector: the one that gave the result, whose thresholds make the contour and the colours. A frame with an error is black.
    """
    if result.anomaly_map is None or detector.calibration is None:
        picture = Image.new("RGB", (LEAST_WIDTH, LEAST_WIDTH))
    else:
        limits = detector.calibration.pixel_threshold, 0.0, detector.calibration.high
        picture = Image.fromarray(overlay(_pixels(frame, detector.channels), result.anomaly_map[0], *limits))
    factor = -(-LEAST_WIDTH // picture.width)  # 1 for all but small frames
    picture = picture.resize((factor * picture.width, factor * picture.height), Image.Resampling.NEAREST)
    colour, lines = _caption(result, fps)
    size = max(12, picture.width // 26)
    row, font = round(1.5 * size), ImageFont.load_default(size)
    image = Image.new("RGB", (picture.width, picture.height + len(lines) * row), colour)
    image.paste(picture, (0, len(lines) * row))
    pen = ImageDraw.Draw(image)
    for number, line in enumerate(lines):
        pen.text((size // 2, number * row + size // 5), line, fill="white", font=font)
    return np.asarray(image)


def _pixels(frame: Frame, channels: int) -> Tensor:
    """[C, H, W] in [-1, 1]."""
    if isinstance(frame.image, Path):
        return read_image(frame.image, channels)
    return torch.from_numpy(np.atleast_3d(frame.image)).permute(2, 0, 1).float() / 127.5 - 1


def _caption(result: RealtimeResult, fps: float | None) -> tuple[tuple[int, int, int], tuple[str, str]]:
    times = f"{result.latency_ms:.0f} ms"
    if result.late:
        times += " LATE"
    if fps is not None:
        times += f"   {fps:.1f} fps"
    if result.degraded:
        times += f"   level {result.level}"
    if result.error:
        return AMBER, (f"ERROR {result.error}", times)
    verdict = "ANOMALOUS" if result.pred_label else "good"
    return RED if result.pred_label else GREEN, (f"{verdict} {result.pred_score:.2f} ({result.threshold:.2f})", times)
