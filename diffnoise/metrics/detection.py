"""How well scores and anomaly maps find what is wrong: exact, over all thresholds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..ops import interval_counts
from .arrays import Array, Pair, both_classes, maps_and_masks, scores_and_labels
from .ranking import FPR_LIMIT, Ranking
from .regions import region_shares

AT_ONCE = 1 << 23  # pixels that are copied to lie in one piece


def image_auroc(scores: Array | Sequence[float], labels: Array | Sequence[int]) -> float:
    """Area under the ROC curve of image scores [N] against labels [N] (0 good, 1 anomalous); ties count half.

    Raises ValueError for NaN or infinite scores, other labels, or labels of one class only.
    """
    return float(_image_level(scores, labels)[0].auroc())


def image_ap(scores: Array | Sequence[float], labels: Array | Sequence[int]) -> float:
    """Average precision, the sum of precision x gain in recall over falling thresholds, of image scores [N].

    Arguments and errors as for `image_auroc`.
    """
    return float(_image_level(scores, labels)[0].average_precision())


def f1_max(scores: Array | Sequence[float], labels: Array | Sequence[int]) -> tuple[float, float]:
    """The largest F1 over all thresholds, and the highest such threshold, where score >= threshold means anomalous.

    scores, labels: [N]. Raises ValueError where `image_auroc` does.
    """
    ranking, values = _image_level(scores, labels)
    best, at = ranking.f1_max()
    return float(best), float(values[at])


def pixel_auroc(maps: Sequence[Array], masks: Sequence[Array]) -> float:
    """Area under the ROC curve of the pixels of all images pooled; maps and boolean masks are [H, W], sizes may differ.

    Raises ValueError for NaN or infinite values, shapes that do not match, or masks of one class only.
    """
    return float(_pixel_level(maps, masks).ranking.auroc())


def pixel_ap(maps: Sequence[Array], masks: Sequence[Array]) -> float:
    """Average precision, the sum of precision x gain in recall over falling thresholds, of the pixels of all images.

    Arguments and errors as for `pixel_auroc`.
    """
    return float(_pixel_level(maps, masks).ranking.average_precision())


def pixel_f1_max(maps: Sequence[Array], masks: Sequence[Array]) -> tuple[float, float]:
    """The largest F1 of the pixels of all images, and the highest such threshold, where value >= threshold means anomalous.

    Arguments and errors as for `pixel_auroc`.
    """
    pixels = _pixel_level(maps, masks)
    best, at = pixels.ranking.f1_max()
    return float(best), float(pixels.values[at // 2])


def aupro(maps: Sequence[Array], masks: Sequence[Array], fpr_limit: float = FPR_LIMIT) -> float:
    """Area under the per-region overlap curve up to a pixel false positive rate of `fpr_limit`, divided by it.

    The overlap is the recall of an 8-connected region of the masks; all regions of all images have the same weight in
    the mean. Every distinct map value is a threshold; the curve is integrated by trapezoids and interpolated at the
    limit (Bergmann et al., IJCV 2021). Arguments and errors as for `pixel_auroc`; ValueError also for a limit outside
    (0, 1].
    """
    return float(_pixel_level(maps, masks).ranking.aupro(fpr_limit))


def pixel_metrics(maps: Sequence[Array], masks: Sequence[Array], fpr_limit: float = FPR_LIMIT) -> dict[str, float]:
    """`pixel_auroc`, `pixel_ap`, `aupro` and `pixel_f1_max` together, at the cost of one, under anomalib's names.

    Arguments and errors as for these.
    """
    return _pixel_level(maps, masks).metrics(fpr_limit)


def per_image_auroc(maps: Sequence[Array], masks: Sequence[Array]) -> np.ndarray:
    """The area under the ROC curve of the pixels of each image by itself, float64 [N], NaN where its mask is of one class.

    Their mean is the "AUC" of AnoDDPM and DTU-Net, another quantity than `pixel_auroc`. Arguments as for `pixel_auroc`; raises
    ValueError for NaN or infinite values and shapes that do not match.
    """
    pairs = maps_and_masks(maps, masks)
    return np.array([Pixels.of([p]).ranking.auroc() if both_classes(p[1]) else np.nan for p in pairs], np.float64)


@dataclass(frozen=True)
class Pixels:
    """The pixels of all images against the falling values of the anomalous ones.

    Only these are sorted: overlap and recall change nowhere else, and of the good pixels it is enough to know how many lie above
    each of the values, and how many at it.
    """

    ranking: Ranking  # [2 M + 1], in turn what lies above each of the M values, and at it; last what lies below all
    values: np.ndarray  # [M]

    def metrics(self, fpr_limit: float = FPR_LIMIT) -> dict[str, float]:
        return {name: float(value) for name, value in self.ranking.pixel_metrics(fpr_limit).items()}

    @staticmethod
    def of(pairs: Sequence[Pair]) -> Pixels:
        dtype = np.result_type(np.float32, *(values for values, _ in pairs))
        found = np.concatenate([np.zeros(0, dtype), *(values[mask] for values, mask in pairs)])
        values, place, counts = np.unique(found, return_inverse=True, return_counts=True)
        shares, regions = zip(*(region_shares(mask) for _, mask in pairs), strict=True) if pairs else ((), ())
        anomalous, overlap = np.zeros(2 * len(values) + 1, np.int64), np.zeros(2 * len(values) + 1)
        anomalous[1::2] = counts
        overlap[1::2] = np.bincount(place, np.concatenate([np.zeros(0), *shares]), len(values)) / max(1, sum(regions))
        edges, everything = torch.from_numpy(values), np.zeros_like(anomalous)
        for piece in _pieces(pairs, dtype):
            everything += interval_counts(torch.from_numpy(piece), edges).numpy()
        return Pixels(Ranking((everything - anomalous)[::-1], anomalous[::-1], overlap[::-1]), values[::-1])


def _pieces(pairs: Sequence[Pair], dtype: np.dtype) -> Iterator[np.ndarray]:
    """The values of all maps in a row, some maps at a time."""
    waiting: list[np.ndarray] = []
    for i, (values, _) in enumerate(pairs, start=1):
        waiting.append(values.ravel())
        if i == len(pairs) or sum(map(len, waiting)) >= AT_ONCE:
            yield np.concatenate(waiting, dtype=dtype)
            waiting = []


def _image_level(scores: Array | Sequence[float], labels: Array | Sequence[int]) -> tuple[Ranking, np.ndarray]:
    """The ranking of scores and their distinct values, falling."""
    flat_scores, flat_labels = scores_and_labels(scores, labels)
    if not both_classes(flat_labels):
        raise ValueError("The labels hold one class only; this metric needs good and anomalous images.")
    values, place = np.unique(flat_scores, return_inverse=True)
    anomalous = np.bincount(place[flat_labels], minlength=len(values))
    good = np.bincount(place[~flat_labels], minlength=len(values))
    return Ranking(good[::-1], anomalous[::-1]), values[::-1]


def _pixel_level(maps: Sequence[Array], masks: Sequence[Array]) -> Pixels:
    pixels = Pixels.of(maps_and_masks(maps, masks))
    if not pixels.ranking.both_classes:
        raise ValueError("The masks hold one class only; this metric needs good and anomalous pixels.")
    return pixels
