"""What scoring gives, and what good images say about it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from torch import Tensor


class PredictionBatch(NamedTuple):
    """Results for B images of one size, with anomalib's names first."""

    pred_score: Tensor  # float32 [B]
    pred_label: Tensor  # bool [B]
    anomaly_map: Tensor  # float32 [B, 1, H, W]
    pred_mask: Tensor  # bool [B, 1, H, W]
    reconstruction: Tensor  # float32 [B, C, H, W] in [-1, 1]


@dataclass(frozen=True)
class ImageResult:
    """The result for one image file; either `error` says why there is none, or all the rest is there."""

    path: Path
    error: str = ""
    pred_score: float | None = None
    pred_label: int | None = None
    image: Tensor | None = None  # [C, H, W] in [-1, 1]
    anomaly_map: Tensor | None = None  # [1, H, W]
    pred_mask: Tensor | None = None  # bool [1, H, W]
    reconstruction: Tensor | None = None  # [C, H, W]


@dataclass(frozen=True)
class Calibration:
    """What good images that were kept out of the training say about the maps.

    scales: offset and unit of the errors of each noise scale (and of its features, if any), such as the mean and standard deviation of
    their pixels; maps are reported in these units. image_threshold: the conformal threshold of the image score; pixel_threshold: the same for the largest pixel, so that a good image has any pixel
    above it only as often. high: end of the colour scale. good_images: how many there were.
    """

    scales: tuple[tuple[float, float], ...]
    image_threshold: float
    pixel_threshold: float
    high: float
    good_images: int
