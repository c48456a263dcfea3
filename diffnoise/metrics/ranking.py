"""Detection metrics from counts of good and anomalous values over falling thresholds."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

FPR_LIMIT = 0.3


@dataclass(frozen=True)
class Ranking:
    """How many values there are at falling thresholds; the leading axes are rankings of their own.

    An entry holds values that are equal, or that lie between two such without an anomalous one among them: there the curves are
    parallel to an axis, so that what follows is exact.
    """

    good: np.ndarray  # [..., K]
    anomalous: np.ndarray  # [..., K]
    # [..., K], what finding the values of an entry adds to the mean overlap of regions
    overlap: np.ndarray | None = None
    # bool [K]: whether an entry's values are known to differ, but not in which order they lie
    spread: np.ndarray | None = None

    @cached_property
    def wrong(self) -> np.ndarray:
        """Good values in an entry or before it, [..., K]."""
        return np.cumsum(self.good, -1)

    @cached_property
    def found(self) -> np.ndarray:
        """Anomalous values in an entry or before it, [..., K]."""
        return np.cumsum(self.anomalous, -1)

    @property
    def both_classes(self) -> np.ndarray:
        return self.good.any(-1) & self.anomalous.any(-1)

    def auroc(self) -> np.ndarray:
        """Area under the ROC curve; ties count half."""
        before = (self.found - self.anomalous / 2) / self.found[..., -1:]
        return np.sum(self.good * before, -1) / self.wrong[..., -1]

    def aupro(self, fpr_limit: float) -> np.ndarray:
        """Area under the mean overlap against the false positive rate up to the limit, divided by it."""
        if not 0 < fpr_limit <= 1:
            raise ValueError(f"fpr_limit must be above 0 and at most 1, not {fpr_limit}.")
        assert self.overlap is not None, "only pixels have regions"
        limit = fpr_limit * self.wrong[..., -1:]
        width = np.clip(limit - (self.wrong - self.good), 0, self.good)  # up to the limit
        height = np.cumsum(self.overlap, -1) - self.overlap * (1 - _ratio(width, self.good) / 2)
        return np.sum(width * height, -1) / limit[..., 0]

    def average_precision(self) -> np.ndarray:
        """The sum of precision x gain in recall over falling thresholds."""
        precision = _ratio(self.found, self.found + self.wrong)
        if self.spread is not None:
            precision = np.where(self.spread, self._mean_precision(), precision)
        return np.sum(self.anomalous * precision, -1) / self.found[..., -1]

    def f1_max(self) -> tuple[np.ndarray, np.ndarray]:
        """The largest F1 and the first entry that reaches it when its values are found, too."""
        f1 = 2 * self.found / (self.found + self.wrong + self.found[..., -1:])
        best = f1.argmax(-1)
        return np.take_along_axis(f1, best[..., None], -1)[..., 0], best

    def pixel_metrics(self, fpr_limit: float) -> dict[str, np.ndarray]:
        """All that is said of a ranking of pixels, under anomalib's names."""
        return {
            "pixel_AUROC": self.auroc(),
            "pixel_AP": self.average_precision(),
            "pixel_AUPRO": self.aupro(fpr_limit),
            "pixel_F1Max": self.f1_max()[0],
        }

    def _mean_precision(self) -> np.ndarray:
        """Mean over an entry's p anomalous values of the precision at each, with the n good ones evenly among them.

        The sum over i = 1..p of (found before + i) / (chosen before + i + i n / (p + 1)) by Gauss's quadrature for whole numbers (Gram's
        polynomial of degree 3), which three points make exact up to p = 3.
        """
        p = self.anomalous
        found_before = self.found - p
        chosen_before = found_before + self.wrong - self.good
        reach = np.sqrt(np.maximum(3 * p * p - 7, 1) / 20.0)
        outer = (p * p - 1) / 24 / reach**2
        total = np.zeros(self.found.shape)
        for offset, weight in ((-reach, outer), (0, 1 - 2 * outer), (reach, outer)):
            i = (p + 1) / 2 + offset
            total += weight * _ratio(found_before + i, chosen_before + i * (1 + self.good / (p + 1)))
        return total


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """0 where the denominator is."""
    return np.divide(numerator, denominator, out=np.zeros(numerator.shape), where=denominator > 0)
