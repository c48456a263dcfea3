"""Whether anomaly maps can be read as probabilities."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .arrays import Array, maps_and_masks


def expected_calibration_error(
    maps: Sequence[Array], masks: Sequence[Array], scale: float | None = None, bins: int = 10
) -> float:
    """ECE = sum_b |B_b| / n |share of anomalous pixels in B_b - mean confidence in B_b| over equal bins of [0, 1], n pixels in all.

    The bins are [k / bins, (k + 1) / bins), the last one with its right edge. maps, masks: [H, W] each; the maps are confidences in [0, 1], or,
    with a `scale`, errors whose confidence is min(error / scale, 1): take the scale from good or training images, not from the test. Raises
    ValueError for confidences outside [0, 1], NaN, no pixels, and shapes that do not match. Source: Guo et al. 2017, equation 3; Kumar et al. 2025
    (DTU-Net) print the number of bins as the divisor.
    """
    if scale is not None and not 0 < scale < np.inf:
        raise ValueError(f"scale must be a positive number, but is {scale}.")
    if bins < 1:
        raise ValueError(f"bins must be at least 1, but is {bins}.")
    edges = np.linspace(0, 1, bins + 1)[1:-1]
    gaps, pixels = np.zeros(bins), 0
    for values, anomalous in maps_and_masks(maps, masks):
        confidence = values.ravel().astype(np.float64)
        if scale is not None:
            confidence = np.minimum(confidence / scale, 1)
        if confidence.size and not (0 <= confidence.min() and confidence.max() <= 1):
            raise ValueError("Confidences must lie in [0, 1]; give a scale to divide errors by.")
        place = np.searchsorted(edges, confidence, side="right")
        gaps += np.bincount(place, anomalous.ravel() - confidence, bins)
        pixels += confidence.size
    if not pixels:
        raise ValueError("There is no calibration of no pixels.")
    return float(np.abs(gaps).sum() / pixels)
