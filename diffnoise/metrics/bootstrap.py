"""Confidence intervals by resampling images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from .arrays import Array, maps_and_masks, to_numpy
from .detection import pixel_metrics
from .ranking import FPR_LIMIT, Ranking
from .regions import region_shares
from .streaming import PixelHistogram, bins_of

CELLS = 4096  # of an image's histogram, about equally full over all images
AT_ONCE = 64  # replicates


class Interval(NamedTuple):
    """An estimate and the interval that its replicates lie in."""

    estimate: float
    low: float
    high: float


def bootstrap(
    metric: Callable[..., Any],
    *arrays: Array | Sequence[float],
    strata: Array | Sequence[int] | None = None,
    replicates: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """`metric(*arrays)` with its percentile interval when images are drawn anew, with replacement.

    arrays: one value per image, [N] each, such as scores and labels. strata: [N]; images are then drawn from those of the same stratum, so that
    every replicate has as many of each. Give the labels for AUROC, AP and F1, whose test sets have their numbers of good and anomalous images
    fixed; without, a replicate of one class is likely to raise in a small set. The same seed gives the same interval. Raises ValueError for arrays
    of different or no length and a confidence outside (0, 1). Source: Efron and Tibshirani 1993, chapter 13.
    """
    columns = [to_numpy(array) for array in arrays]
    lengths = {len(column) for column in columns} | ({len(to_numpy(strata))} if strata is not None else set())
    if len(lengths) != 1 or lengths == {0}:
        raise ValueError(f"The arrays must have one value for each of the same images, not {sorted(lengths)}.")
    drawn = _resamples(np.zeros(lengths.pop()) if strata is None else to_numpy(strata), replicates, seed)
    values = np.array([float(metric(*(column[index] for column in columns))) for index in drawn])
    return _interval(float(metric(*columns)), values, confidence)


def pixel_intervals(
    maps: Sequence[Array],
    masks: Sequence[Array],
    fpr_limit: float = FPR_LIMIT,
    replicates: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval]:
    """`pixel_metrics` with the percentile intervals of each when images are drawn anew, with replacement.

    Pixels of an image are no independent observations, images are. Drawn are as many images with anomalous pixels, and as many without, as there
    are. The estimates are exact; replicates are sums of one histogram per image, of 4096 cells, whose own error is far below the intervals. Arguments and errors as for `aupro` and
    `bootstrap`.
    """
    estimates = pixel_metrics(maps, masks, fpr_limit)
    pairs, histogram = maps_and_masks(maps, masks), PixelHistogram()
    for pair in pairs:
        histogram.update(*pair)
    cell, spread = _cells(histogram)
    tables = np.zeros((3, len(pairs), CELLS))  # good pixels, anomalous ones, region weights
    regions = np.zeros(len(pairs))
    for i, (values, mask) in enumerate(pairs):
        place = cell[bins_of(values)]
        shares, regions[i] = region_shares(mask)
        for table, chosen, weights in zip(tables, (~mask, mask, mask), (None, None, shares), strict=True):
            table[i] = np.bincount(place[chosen], weights, CELLS)
    drawn = _resamples(np.array([mask.any() for _, mask in pairs]), replicates, seed)
    times = np.array([np.bincount(index, minlength=len(pairs)) for index in drawn], np.float64)
    parts = []
    for i in range(0, replicates, AT_ONCE):
        some = times[i : i + AT_ONCE]
        good, anomalous, weights = some @ tables
        parts.append(Ranking(good, anomalous, weights / (some @ regions)[:, None], spread).pixel_metrics(fpr_limit))
    return {
        name: _interval(estimate, np.concatenate([part[name] for part in parts]), confidence)
        for name, estimate in estimates.items()
    }


def _cells(histogram: PixelHistogram) -> tuple[np.ndarray, np.ndarray]:
    """The cell of every bin, [BINS], falling with the values, and whether the values of a cell differ."""
    good, anomalous = histogram.good, histogram.anomalous
    mass = (good / good.sum() + anomalous / anomalous.sum()) / 2
    above = np.cumsum(mass[::-1])[::-1] - mass
    cell = np.minimum(above * CELLS, CELLS - 1).astype(np.int64)
    bins_used = np.bincount(cell[~np.isnan(histogram.value)], minlength=CELLS)
    return cell, (bins_used > 1) | (np.bincount(cell[histogram.mixed], minlength=CELLS) > 0)


def _resamples(strata: np.ndarray, replicates: int, seed: int) -> np.ndarray:
    """Indices [replicates, N] of images, drawn with replacement within each stratum."""
    generator = np.random.default_rng(seed)
    members = [np.flatnonzero(strata == stratum) for stratum in np.unique(strata)]
    return np.concatenate([generator.choice(m, (replicates, len(m))) for m in members], axis=1)


def _interval(estimate: float, values: np.ndarray, confidence: float) -> Interval:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, but is {confidence}.")
    low, high = np.quantile(values, ((1 - confidence) / 2, (1 + confidence) / 2))
    return Interval(estimate, float(low), float(high))
