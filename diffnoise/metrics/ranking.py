"""Detection metrics from counts of good and anomalous values over falling thresholds."""

from __future__ import annotations

from dataclasses import dataclass

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
    overlap: np.ndarray | None = (
        None  # [..., K], what finding the values of an entry adds to the mean overlap of regions
    )
    spread: np.ndarray | None = (
        None  # bool [K]: whether an entry's values are known to differ, but not in which order they lie
    )

    @property
    def both_classes(self) -> np.ndarray:
        return self.good.any(-1) & self.anomalous.any(-1)

    def auroc(self) -> np.ndarray:
        """Area under the ROC curve; ties count half."""
        return _area(*_share(self.good), *_share(self.anomalous), 1.0)

    def aupro(self, fpr_limit: float) -> np.ndarray:
        """Area under the mean overlap against the false positive rate up to the limit, divided by it."""
        if not 0 < fpr_limit <= 1:
            raise ValueError(f"fpr_limit must be above 0 and at most 1, not {fpr_limit}.")
        assert self.overlap is not None, "only pixels have regions"
        before = np.cumsum(self.overlap, -1) - self.overlap
        return _area(*_share(self.good), before, self.overlap, fpr_limit) / fpr_limit

    def average_precision(self) -> np.ndarray:
        """The sum of precision x gain in recall over falling thresholds."""
        found, chosen = (np.cumsum(counts, -1) for counts in (self.anomalous, self.good + self.anomalous))
        precision = _ratio(found, chosen)
        if self.spread is not None:
            precision = np.where(self.spread, self._mean_precision(found, chosen), precision)
        return np.sum(self.anomalous * precision, -1) / found[..., -1]

    def f1_max(self) -> tuple[np.ndarray, np.ndarray]:
        """The largest F1 and the first entry that reaches it when its values are found, too."""
        found, chosen = (np.cumsum(counts, -1) for counts in (self.anomalous, self.good + self.anomalous))
        f1 = 2 * found / (chosen + found[..., -1:])
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

    def _mean_precision(self, found: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        """Mean over an entry's p anomalous values of the precision at each, with the n good ones evenly among them.

        The sum over i = 1..p of (found before + i) / (chosen before + i + i n / (p + 1)) by Gauss's quadrature for whole numbers (Gram's
        polynomial of degree 3), which three points make exact up to p = 3.
        """
        p = self.anomalous
        found_before, chosen_before = found - p, chosen - p - self.good
        reach = np.sqrt(np.maximum(3 * p * p - 7, 1) / 20.0)
        outer = (p * p - 1) / 24 / reach**2
        total = np.zeros(found.shape)
        for offset, weight in ((-reach, outer), (0, 1 - 2 * outer), (reach, outer)):
            i = (p + 1) / 2 + offset
            total += weight * _ratio(found_before + i, chosen_before + i * (1 + self.good / (p + 1)))
        return total


def _share(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of all, what comes before an entry and what it holds."""
    cumulated = np.cumsum(counts, -1)
    return (cumulated - counts) / cumulated[..., -1:], counts / cumulated[..., -1:]


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """0 where the denominator is."""
    return np.divide(numerator, denominator, out=np.zeros(numerator.shape), where=denominator > 0)


def _area(x: np.ndarray, dx: np.ndarray, y: np.ndarray, dy: np.ndarray, limit: float) -> np.ndarray:
    """Under the rising polygon with steps dx, dy from the points (x, y), up to x = limit."""
    width = np.clip(limit - x, 0, dx)
    return np.sum(width * (y + dy * _ratio(width, dx) / 2), -1)
