"""How well masks that were predicted, at one threshold, cover what is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .arrays import Array, check_finite, to_numpy

SMOOTHING = 1e-6
Counts = tuple[int, int, int, int]
"""True positive, false positive, false negative and true negative pixels of an image."""


@dataclass(frozen=True)
class Confusion:
    """True positive, false positive, false negative and true negative pixels, one number per image [N] or one in all.

    The ratios are (a + s) / (b + s) with a small s, `smoothing`: 1 where there is nothing to find and nothing was found. s = 0 makes these
    NaN. AnoDDPM and DTU-Net's code count as "FP" what is missed, so that their precision is the recall here, and their recall the precision.
    """

    tp: np.ndarray
    fp: np.ndarray
    fn: np.ndarray
    tn: np.ndarray
    smoothing: float = SMOOTHING

    @staticmethod
    def of(predicted: Sequence[Array], masks: Sequence[Array], smoothing: float = SMOOTHING) -> Confusion:
        """Of predicted and true boolean masks [H, W]; raises ValueError for other dtypes and shapes that do not match."""
        if len(predicted) != len(masks):
            raise ValueError(f"There are {len(predicted)} predicted masks and {len(masks)} masks; give one for each.")
        return Confusion.of_counts([pixel_counts(*pair) for pair in zip(predicted, masks, strict=True)], smoothing)

    @staticmethod
    def of_counts(counts: Sequence[Counts], smoothing: float = SMOOTHING) -> Confusion:
        return Confusion(*np.array(counts, np.int64).reshape(-1, 4).T, smoothing)

    def pooled(self) -> Confusion:
        """All images as one."""
        return Confusion(self.tp.sum(), self.fp.sum(), self.fn.sum(), self.tn.sum(), self.smoothing)

    def __getitem__(self, images: np.ndarray) -> Confusion:
        """Some of the images."""
        return Confusion(self.tp[images], self.fp[images], self.fn[images], self.tn[images], self.smoothing)

    def dice(self) -> np.ndarray:
        """2 TP / (2 TP + FP + FN), also called F1."""
        return self._ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn)

    def iou(self) -> np.ndarray:
        """TP / (TP + FP + FN)."""
        return self._ratio(self.tp, self.tp + self.fp + self.fn)

    def precision(self) -> np.ndarray:
        """TP / (TP + FP): how much of what was found is wrong."""
        return self._ratio(self.tp, self.tp + self.fp)

    def recall(self) -> np.ndarray:
        """TP / (TP + FN): how much of what is wrong was found."""
        return self._ratio(self.tp, self.tp + self.fn)

    def balanced_accuracy(self) -> np.ndarray:
        """(recall + TN / (TN + FP)) / 2, which is the AUROC of the mask itself."""
        return (self.recall() + self._ratio(self.tn, self.tn + self.fp)) / 2

    def _ratio(self, part: np.ndarray, whole: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            return np.true_divide(part + self.smoothing, whole + self.smoothing)


RATIOS = {
    "Dice": Confusion.dice,
    "IoU": Confusion.iou,
    "Precision": Confusion.precision,
    "Recall": Confusion.recall,
    "BalancedAccuracy": Confusion.balanced_accuracy,
}


def mask_metrics(confusion: Confusion) -> dict[str, float | None]:
    """Dice, IoU, precision, recall and balanced accuracy: `pixel_Dice` of all pixels, `Dice_mean` and `Dice_sd` over images, and so on.

    Means and standard deviations (divisor N) are those of the anomalous images: a good one has nothing to be found. confusion: [N]. None for
    all where no pixel is anomalous.
    """
    anomalous = confusion.tp + confusion.fn > 0
    some, known = confusion[anomalous], bool(anomalous.any())
    found: dict[str, float | None] = {}
    for name, ratio in RATIOS.items():
        each = ratio(some)
        found[f"pixel_{name}"] = float(ratio(confusion.pooled())) if known else None
        found[f"{name}_mean"] = float(each.mean()) if known else None
        found[f"{name}_sd"] = float(each.std()) if known else None
    return found


def otsu_threshold(values: Array, bins: int = 256) -> float:
    """The threshold that makes the variance between the values above it and the others largest.

    Over the centres of `bins` equal bins from the lowest to the highest value; in float64, so that nothing wraps around. values: of any shape;
    the value itself where all are equal. Raises ValueError for NaN, infinite or no values. Source: Otsu 1979.
    """
    flat = to_numpy(values).ravel().astype(np.float64)
    check_finite(flat, "value")
    if not flat.size:
        raise ValueError("There is no threshold between no values.")
    if flat.min() == flat.max():
        return float(flat[0])
    counts, edges = np.histogram(flat, bins)
    centres = (edges[1:] + edges[:-1]) / 2
    below, sum_below = np.cumsum(counts)[:-1], np.cumsum(counts * centres)[:-1]
    above, sum_above = counts.sum() - below, (counts * centres).sum() - sum_below
    between = below * above * (sum_below / below - sum_above / above) ** 2.0
    return float(centres[between.argmax()])


def pixel_counts(predicted: Array, mask: Array) -> Counts:
    found, wrong = to_numpy(predicted), to_numpy(mask)
    if found.shape != wrong.shape or found.dtype != bool or wrong.dtype != bool:
        shapes = f"{list(found.shape)} ({found.dtype}) and {list(wrong.shape)} ({wrong.dtype})"
        raise ValueError(f"A predicted mask and its mask must both be boolean and of one shape, not {shapes}.")
    tp, p, t = (int(np.count_nonzero(m)) for m in (found & wrong, found, wrong))
    return tp, p - tp, t - tp, wrong.size - p - t + tp
