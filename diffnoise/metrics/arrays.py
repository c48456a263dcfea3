"""What the metrics accept: arrays or tensors, checked and turned into numpy arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

Array = np.ndarray | Tensor
Pair = tuple[np.ndarray, np.ndarray]
"""An anomaly map, float32 or float64 [H, W], and its mask, bool [H, W]."""


def to_numpy(values: Array | Sequence[float]) -> np.ndarray:
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        return (values.float() if values.is_floating_point() and values.itemsize < 4 else values).numpy()
    return np.asarray(values)


def check_finite(values: np.ndarray, what: str) -> None:
    if not np.isfinite(values).all():
        raise ValueError(f"A {what} is NaN or infinite; report the image as failed instead of scoring it.")


def both_classes(labels: np.ndarray) -> bool:
    return bool(labels.any() and not labels.all())


def scores_and_labels(scores: Array | Sequence[float], labels: Array | Sequence[int]) -> Pair:
    """Scores [N] and labels as bool [N]."""
    flat_scores, flat_labels = to_numpy(scores), to_numpy(labels)
    if flat_scores.ndim != 1 or flat_scores.shape != flat_labels.shape:
        raise ValueError(f"Scores {flat_scores.shape} and labels {flat_labels.shape} must be lists of the same length.")
    if not np.isin(flat_labels, (0, 1)).all():
        raise ValueError("Labels must be 0 (good) or 1 (anomalous).")
    check_finite(flat_scores, "score")
    return flat_scores, flat_labels.astype(bool)


def map_and_mask(anomaly_map: Array, mask: Array) -> Pair:
    values, anomalous = to_numpy(anomaly_map), to_numpy(mask)
    if values.ndim != 2 or values.shape != anomalous.shape or anomalous.dtype != bool:
        shapes = f"{list(values.shape)} and {list(anomalous.shape)} ({anomalous.dtype})"
        raise ValueError(f"A map and its mask must both be [H, W] and the mask boolean, not {shapes}.")
    check_finite(values, "anomaly map")
    if values.dtype not in (np.float32, np.float64):
        values = values.astype(np.float32 if values.dtype == np.float16 else np.float64)
    return values, anomalous


def maps_and_masks(maps: Sequence[Array], masks: Sequence[Array]) -> list[Pair]:
    if len(maps) != len(masks):
        raise ValueError(f"There are {len(maps)} maps and {len(masks)} masks; give one mask for each map.")
    return [map_and_mask(anomaly_map, mask) for anomaly_map, mask in zip(maps, masks, strict=True)]
