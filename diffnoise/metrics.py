"""How well scores and anomaly maps find what is wrong: exact, over all thresholds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

Array = np.ndarray | Tensor


def image_auroc(scores: Array | Sequence[float], labels: Array | Sequence[int]) -> float:
    """Area under the ROC curve of image scores [N] against labels [N] (0 good, 1 anomalous); ties count half.

    Raises ValueError for NaN or infinite scores, other labels, or labels of one class only.
    """
    flat_scores, flat_labels = _image_level(scores, labels)
    return _auroc(_Ranking.of(flat_scores), flat_labels)


def f1_max(scores: Array | Sequence[float], labels: Array | Sequence[int]) -> tuple[float, float]:
    """The largest F1 over all thresholds, and the highest such threshold, where score >= threshold means anomalous.

    scores, labels: [N]. Raises ValueError where `image_auroc` does.
    """
    flat_scores, flat_labels = _image_level(scores, labels)
    ranking = _Ranking.of(flat_scores)
    f1 = 2 * ranking.cumulate(flat_labels) / (ranking.counts + np.count_nonzero(flat_labels))
    best = int(f1.argmax())
    return float(f1[best]), float(flat_scores[ranking.order[ranking.counts[best] - 1]])


def pixel_auroc(maps: Sequence[Array], masks: Sequence[Array]) -> float:
    """Area under the ROC curve of the pixels of all images pooled; maps and boolean masks are [H, W], sizes may differ.

    Raises ValueError for NaN or infinite values, shapes that do not match, or masks of one class only.
    """
    values, anomalous = _pixel_level(maps, masks)
    return _auroc(_Ranking.of(values), anomalous)


def pixel_ap(maps: Sequence[Array], masks: Sequence[Array]) -> float:
    """Average precision, the sum of precision x gain in recall over falling thresholds, of the pixels of all images.

    Arguments and errors as for `pixel_auroc`.
    """
    values, anomalous = _pixel_level(maps, masks)
    return _average_precision(_Ranking.of(values), anomalous)


def aupro(maps: Sequence[Array], masks: Sequence[Array], fpr_limit: float = 0.3) -> float:
    """Area under the per-region overlap curve up to a pixel false positive rate of `fpr_limit`, divided by it.

    The overlap is the recall of an 8-connected region of the masks; all regions of all images have the same weight in
    the mean. Every distinct map value is a threshold; the curve is integrated by trapezoids and interpolated at the
    limit (Bergmann et al., IJCV 2021). Arguments and errors as for `pixel_auroc`; ValueError also for a limit outside
    (0, 1].
    """
    values, anomalous = _pixel_level(maps, masks)
    return _aupro(_Ranking.of(values), anomalous, _region_weights(masks), fpr_limit)


def evaluate(
    scores: Array | Sequence[float],
    labels: Array | Sequence[int],
    maps: Sequence[Array] | None = None,
    masks: Sequence[Array | None] | None = None,
) -> dict[str, float | None]:
    """All metrics of one category under anomalib's names, None for each whose inputs are missing or of one class only.

    scores, labels: [N]; maps, masks: N arrays [H, W]. A mask of None means no defect where the label is 0; an anomalous
    image without a mask takes no part in the pixel metrics. Raises ValueError for NaN or infinite scores or maps,
    labels other than 0 and 1, and lengths or shapes that do not match.
    """
    flat_scores, flat_labels = _scores_and_labels(scores, labels)
    result: dict[str, float | None] = dict.fromkeys(
        ("image_AUROC", "image_F1Max", "pixel_AUROC", "pixel_AP", "pixel_AUPRO")
    )
    if _both_classes(flat_labels):
        result["image_AUROC"] = image_auroc(flat_scores, flat_labels)
        result["image_F1Max"] = f1_max(flat_scores, flat_labels)[0]
    if maps is None:
        return result
    masks = [None] * len(maps) if masks is None else masks
    if not len(maps) == len(masks) == len(flat_labels):
        raise ValueError(f"{len(flat_labels)} labels, {len(maps)} maps and {len(masks)} masks do not match.")
    known_maps, known_masks = [], []
    for anomaly_map, mask, label in zip(maps, masks, flat_labels, strict=True):
        anomaly_map = _numpy(anomaly_map)
        _check_finite(anomaly_map, "anomaly map")
        if mask is not None or not label:
            known_maps.append(anomaly_map)
            known_masks.append(np.zeros(anomaly_map.shape, dtype=bool) if mask is None else _numpy(mask))
    values, anomalous = _pool(known_maps, known_masks)
    if _both_classes(anomalous):
        ranking = _Ranking.of(values)
        result["pixel_AUROC"] = _auroc(ranking, anomalous)
        result["pixel_AP"] = _average_precision(ranking, anomalous)
        result["pixel_AUPRO"] = _aupro(ranking, anomalous, _region_weights(known_masks), fpr_limit=0.3)
    return result


@dataclass(frozen=True)
class _Ranking:
    """Values in falling order; every distinct one is a threshold."""

    order: np.ndarray  # [n] indices
    counts: np.ndarray  # [thresholds]: how many values are at or above each

    @classmethod
    def of(cls, values: np.ndarray) -> _Ranking:
        order = np.argsort(values)[::-1]
        ordered = values[order]
        return cls(order, np.append(np.flatnonzero(ordered[1:] != ordered[:-1]) + 1, len(values)))

    def cumulate(self, weights: np.ndarray) -> np.ndarray:
        """The sum of the weights [n] of all values at or above each threshold."""
        return np.cumsum(weights[self.order])[self.counts - 1]


def _auroc(ranking: _Ranking, anomalous: np.ndarray) -> float:
    found = ranking.cumulate(anomalous)
    wrong = ranking.counts - found
    return _area(wrong / wrong[-1], found / found[-1])


def _average_precision(ranking: _Ranking, anomalous: np.ndarray) -> float:
    found = ranking.cumulate(anomalous)
    return float(np.sum(np.diff(found, prepend=0) / found[-1] * (found / ranking.counts)))


def _aupro(ranking: _Ranking, anomalous: np.ndarray, region_weights: np.ndarray, fpr_limit: float) -> float:
    if not 0 < fpr_limit <= 1:
        raise ValueError(f"fpr_limit must be above 0 and at most 1, not {fpr_limit}.")
    wrong = ranking.counts - ranking.cumulate(anomalous)
    fpr, overlap = wrong / wrong[-1], ranking.cumulate(region_weights)
    inside = int(np.searchsorted(fpr, fpr_limit, side="right"))
    at_limit = np.interp(fpr_limit, np.append(0.0, fpr), np.append(0.0, overlap))
    return _area(np.append(fpr[:inside], fpr_limit), np.append(overlap[:inside], at_limit)) / fpr_limit


def _area(x: np.ndarray, y: np.ndarray) -> float:
    """The area under the polygon from (0, 0) through the points (x, y)."""
    return float(np.sum(np.diff(x, prepend=0.0) * (y + np.append(0.0, y[:-1]))) / 2)


def _region_weights(masks: Sequence[Array]) -> np.ndarray:
    """What every pixel, when found, adds to the mean overlap; sums to 1."""
    from scipy.ndimage import label

    weights, regions = [], 0
    for mask in masks:
        components, count = label(_numpy(mask), structure=np.ones((3, 3)))
        area = np.bincount(components.ravel())
        share = np.append(0.0, 1.0 / area[1:])  # component 0 is the background
        weights.append(share[components.ravel()])
        regions += count
    return np.concatenate(weights) / regions


def _image_level(scores: Array | Sequence[float], labels: Array | Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    flat_scores, flat_labels = _scores_and_labels(scores, labels)
    if not _both_classes(flat_labels):
        raise ValueError("The labels hold one class only; this metric needs good and anomalous images.")
    return flat_scores, flat_labels


def _scores_and_labels(scores: Array | Sequence[float], labels: Array | Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    flat_scores, flat_labels = _numpy(scores), _numpy(labels)
    if flat_scores.ndim != 1 or flat_scores.shape != flat_labels.shape:
        raise ValueError(f"Scores {flat_scores.shape} and labels {flat_labels.shape} must be lists of the same length.")
    if not np.isin(flat_labels, (0, 1)).all():
        raise ValueError("Labels must be 0 (good) or 1 (anomalous).")
    _check_finite(flat_scores, "score")
    return flat_scores, flat_labels.astype(bool)


def _pixel_level(maps: Sequence[Array], masks: Sequence[Array]) -> tuple[np.ndarray, np.ndarray]:
    values, anomalous = _pool(maps, masks)
    if not _both_classes(anomalous):
        raise ValueError("The masks hold one class only; this metric needs good and anomalous pixels.")
    return values, anomalous


def _pool(maps: Sequence[Array], masks: Sequence[Array]) -> tuple[np.ndarray, np.ndarray]:
    """The pixels of all maps in one row, and whether each is anomalous."""
    map_arrays, mask_arrays = [_numpy(m) for m in maps], [_numpy(m) for m in masks]
    if len(map_arrays) != len(mask_arrays):
        raise ValueError(f"There are {len(map_arrays)} maps and {len(mask_arrays)} masks; give one mask for each map.")
    for anomaly_map, mask in zip(map_arrays, mask_arrays, strict=True):
        if anomaly_map.ndim != 2 or anomaly_map.shape != mask.shape or mask.dtype != bool:
            shapes = f"{list(anomaly_map.shape)} and {list(mask.shape)} ({mask.dtype})"
            raise ValueError(f"A map and its mask must both be [H, W] and the mask boolean, not {shapes}.")
        _check_finite(anomaly_map, "anomaly map")
    if not map_arrays:
        return np.zeros(0), np.zeros(0, dtype=bool)
    return np.concatenate([m.ravel() for m in map_arrays]), np.concatenate([m.ravel() for m in mask_arrays])


def _both_classes(labels: np.ndarray) -> bool:
    return bool(labels.any() and not labels.all())


def _check_finite(values: np.ndarray, what: str) -> None:
    if not np.isfinite(values).all():
        raise ValueError(f"A {what} is NaN or infinite; report the image as failed instead of scoring it.")


def _numpy(values: Array | Sequence[float]) -> np.ndarray:
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        return (values.float() if values.is_floating_point() else values).numpy()
    return np.asarray(values)
