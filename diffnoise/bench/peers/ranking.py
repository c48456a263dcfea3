"""Counting values between the sorted anomalous ones, and what it is for: AUROC, AP and AUPRO of the pixels of many maps, together."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from . import ANYWHERE, Arguments, Peer

SIDE, FPR_LIMIT = 224, 0.3
Maps = tuple[list[np.ndarray], list[np.ndarray]]


def _searchsorted(arguments: Arguments) -> Callable[[], np.ndarray]:
    """Sorts the values and looks for the edges among them."""
    values, edges = arguments["values"].numpy(), arguments["edges"].numpy()

    def call() -> np.ndarray:
        ordered = np.sort(values)
        ends = np.stack([np.searchsorted(ordered, edges, side) for side in ("left", "right")], 1)
        return np.diff(ends.ravel(), prepend=0, append=len(ordered))

    return call


def _bincount(arguments: Arguments) -> Callable[[], Tensor]:
    """Looks for every value among the edges."""
    values, edges = arguments["values"], arguments["edges"]

    def call() -> Tensor:
        cells = torch.searchsorted(edges, values) + torch.searchsorted(edges, values, right=True)
        return torch.bincount(cells, minlength=2 * len(edges) + 1)

    return call


def maps_and_masks(pixels: int) -> Maps:
    """Smooth squared errors, larger inside two discs per map: as many maps of 224 x 224 as make so many pixels, 1.4 % of them anomalous."""
    side = min(SIDE, math.isqrt(pixels))
    count, generator = pixels // side**2, torch.Generator().manual_seed(0)
    coarse = torch.randn(count, 1, side // 8 + 2, side // 8 + 2, generator=generator)
    errors = F.interpolate(coarse, (side, side), mode="bicubic")[:, 0]
    centres = torch.rand(count, 2, 2, 1, 1, generator=generator) * side
    line = torch.arange(side)
    y, x = (line[:, None] - centres[:, :, 0]), (line - centres[:, :, 1])
    masks = (y**2 + x**2 < (0.048 * side) ** 2).any(1)
    return [*((errors + masks) ** 2).numpy()], [*masks.numpy()]


def auroc_by_searchsorted(values: np.ndarray, anomalous: np.ndarray) -> float:
    """Sorts each class by itself."""
    good, found = np.sort(values[~anomalous]), np.sort(values[anomalous])
    below = np.searchsorted(good, found).sum() + np.searchsorted(good, found, side="right").sum()
    return below / 2 / len(good) / len(found)


def aupro_by_sorting(maps: list[np.ndarray], masks: list[np.ndarray]) -> float:
    """Sorts all pixels, as MVTec's evaluation does."""
    from scipy.ndimage import label

    weights, regions = [], 0
    for mask in masks:
        components, count = label(mask, np.ones((3, 3)))
        area = np.bincount(components.ravel()).astype(np.float64)
        area[0] = np.inf
        weights.append(1 / area[components.ravel()])
        regions += count
    values, anomalous = _rows(maps, masks)
    order = np.argsort(values)[::-1]
    last = np.append(np.flatnonzero(np.diff(values[order])), len(order) - 1)
    fpr = np.append(0.0, np.cumsum(~anomalous[order])[last] / np.count_nonzero(~anomalous))
    overlap = np.append(0.0, np.cumsum(np.concatenate(weights)[order])[last] / regions)
    at_limit, inside = np.interp(FPR_LIMIT, fpr, overlap), fpr <= FPR_LIMIT
    return float(np.trapezoid(np.append(overlap[inside], at_limit), np.append(fpr[inside], FPR_LIMIT)) / FPR_LIMIT)


def _rows(maps: list[np.ndarray], masks: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    return np.concatenate([m.ravel() for m in maps]), np.concatenate([m.ravel() for m in masks])


def _ours(arguments: Arguments) -> Callable[[], list[float]]:
    from ...metrics import pixel_metrics

    maps, masks = maps_and_masks(len(arguments["values"]))
    return lambda: list(pixel_metrics(maps, masks, FPR_LIMIT).values())[:3]


def _theirs(auroc: Callable[[np.ndarray, np.ndarray], float] | None = None) -> Callable[[Arguments], Callable[[], Any]]:
    """scikit-learn's AUROC, or a quicker one, its AP, and AUPRO by sorting."""

    def prepare(arguments: Arguments) -> Callable[[], list[float]]:
        from sklearn.metrics import average_precision_score, roc_auc_score

        maps, masks = maps_and_masks(len(arguments["values"]))

        def call() -> list[float]:
            values, anomalous = _rows(maps, masks)
            first = auroc(values, anomalous) if auroc else roc_auc_score(anomalous, values)
            return [first, average_precision_score(anomalous, values), aupro_by_sorting(maps, masks)]

        return call

    return prepare


COUNTS = (
    Peer("numpy sort, searchsorted", _searchsorted, lowers=False),
    Peer("torch searchsorted, bincount", _bincount, devices=ANYWHERE),
)
OURS_TOGETHER = Peer("diffnoise.metrics: AUROC, AP and AUPRO", _ours)
THEIRS_TOGETHER = Peer("scikit-learn: AUROC and AP, numpy: AUPRO", _theirs(), ("sklearn",), lowers=False)
BEST_TOGETHER = Peer(
    "numpy: AUROC and AUPRO, scikit-learn: AP", _theirs(auroc_by_searchsorted), ("sklearn",), lowers=False
)
TOGETHER = (OURS_TOGETHER, THEIRS_TOGETHER, BEST_TOGETHER)
