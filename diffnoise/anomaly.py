"""Anomaly maps from images and their reconstructions, filters, image scores and thresholds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import torch
from torch import Tensor

from . import ops


def squared_error(x_0: Tensor, reconstruction: Tensor) -> Tensor:
    """Mean over channels of (x_0 - reconstruction)^2: [B, C, H, W] twice -> [B, 1, H, W] (Fucka et al. 2024 take the sum)."""
    return ops.anomaly_map(reconstruction, mean_taps(1).to(x_0.device), x_0)


def absolute_error(x_0: Tensor, reconstruction: Tensor) -> Tensor:
    """Mean over channels of |x_0 - reconstruction|: [B, C, H, W] twice -> [B, 1, H, W]."""
    return ops.anomaly_map(reconstruction, mean_taps(1).to(x_0.device), x_0, absolute=True)


def mean_filter(maps: Tensor, size: int) -> Tensor:
    """Mean over size x size pixels with reflected borders, [B, 1, H, W]. `size` must be odd."""
    return _filter(maps, mean_taps(size))


def gaussian_filter(maps: Tensor, sigma: float) -> Tensor:
    """Gaussian filter of width `sigma` pixels, cut at 4 sigma, with reflected borders, [B, 1, H, W] (33 taps for sigma 4)."""
    return _filter(maps, gaussian_taps(sigma))


def mean_taps(size: int) -> Tensor:
    """The taps of a mean over `size` pixels along each axis, float64 [size]. `size` must be odd."""
    if size < 1 or size % 2 == 0:
        raise ValueError(f"The size of a mean filter must be odd and positive, but is {size}.")
    return torch.full((size,), 1 / size, dtype=torch.float64)


def gaussian_taps(sigma: float) -> Tensor:
    """The taps of a Gaussian of width `sigma` pixels along each axis, cut at 4 sigma as in SciPy, float64."""
    if not sigma > 0:
        raise ValueError(f"The sigma of a Gaussian filter must be positive, but is {sigma}.")
    radius = int(4 * sigma + 0.5)
    taps = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, dtype=torch.float64) / sigma) ** 2)
    return taps / taps.sum()


def _filter(maps: Tensor, taps: Tensor) -> Tensor:
    if maps.ndim != 4 or maps.shape[1] != 1:
        raise ValueError(f"Maps must have shape [B, 1, H, W], but have shape {list(maps.shape)}.")
    return ops.anomaly_map(maps, taps.to(maps.device))


def image_score(anomaly_map: Tensor, top_k: int = 1) -> Tensor:
    """Mean of the `top_k` largest pixels of each map (1: the maximum), [B, 1, H, W] -> [B]; NaN if a map holds any.

    Fucka et al. 2024 and Tebbe and Tayyub 2024 take the maximum, Lu et al. 2023 the mean of the largest 64.
    """
    flat = anomaly_map.flatten(1)
    if not 1 <= top_k <= flat.shape[1]:
        raise ValueError(f"top_k must lie between 1 and the {flat.shape[1]} pixels of the map, but is {top_k}.")
    largest = flat.amax(1)  # NaN where there is one
    if top_k == 1:
        return largest
    # A sum of many values has other last bits for other thread counts; the cumulative one is taken in order.
    scores = flat.topk(top_k, dim=1).values.cumsum(1)[:, -1] / top_k
    return torch.where(largest.isnan(), largest, scores)


def threshold_from_good(scores: Sequence[float], false_alarm_rate: float) -> float:
    """The split-conformal threshold: a new good image scores above it with probability at most `false_alarm_rate`.

    The ceil((n + 1)(1 - rate))-th smallest of the n scores; the guarantee needs n >= 1 / rate - 1, with fewer the largest score is
    returned. Raises `ValueError` without scores, for scores that are not finite, or for a rate outside (0, 1).
    """
    if not 0 < false_alarm_rate < 1:
        raise ValueError(f"false_alarm_rate must lie between 0 and 1, but is {false_alarm_rate}.")
    ordered = sorted(scores)
    if not ordered or not all(math.isfinite(score) for score in ordered):
        raise ValueError("A threshold needs at least one good image, and only finite scores.")
    # In floating point 100 * (1 - 0.43) is a little more than 57.
    rank = math.ceil((len(ordered) + 1) * (1 - Fraction(str(false_alarm_rate))))
    return ordered[min(rank, len(ordered)) - 1]
