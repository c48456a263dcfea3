"""All metrics of one category at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .arrays import Array, Pair, both_classes, map_and_mask, scores_and_labels
from .detection import Pixels, f1_max, image_ap, image_auroc
from .segmentation import Confusion, Counts, mask_metrics, pixel_counts
from .streaming import PixelHistogram

NAMES = (
    *("image_AUROC", "image_AP", "image_F1Max"),
    *("pixel_AUROC", "pixel_AP", "pixel_AUPRO", "pixel_F1Max", "pixel_AUROC_per_image"),
)
EXACT_PIXELS = 1 << 28  # 1 GiB of maps


class Evaluation:
    """The metrics of images that come one by one; `result` gives them.

    Up to `most_pixels` the maps are kept and all metrics are exact; beyond, the pixel metrics are those of a `PixelHistogram`, in constant
    memory. With None they are always exact.
    """

    def __init__(self, most_pixels: int | None = None) -> None:
        self._most = most_pixels
        self._scores: list[float] = []
        self._labels: list[int] = []
        self._pairs: list[Pair] = []
        self._pixels = 0
        self._histogram: PixelHistogram | None = None
        self._per_image: list[float] = []
        self._predicted: list[Counts] = []

    @property
    def exact(self) -> bool:
        """Whether the pixel metrics are exact so far."""
        return self._histogram is None

    def add(
        self,
        score: float,
        label: int,
        anomaly_map: Array | None = None,
        mask: Array | None = None,
        predicted: Array | None = None,
    ) -> None:
        """One image: its score and label (0 good, 1 anomalous), map [H, W], boolean mask [H, W] and predicted mask [H, W], as far as there are any.

        A mask of None means no defect where the label is 0; an anomalous image without a mask takes no part in the pixel metrics. Raises
        ValueError for NaN or infinite scores or maps, labels other than 0 and 1, and shapes that do not match.
        """
        scores_and_labels([score], [label])
        if anomaly_map is None and predicted is not None:
            raise ValueError("A predicted mask needs its anomaly map.")
        pair = None
        if anomaly_map is not None:
            pair = map_and_mask(anomaly_map, np.broadcast_to(False, anomaly_map.shape) if mask is None else mask)
        self._scores.append(score)
        self._labels.append(label)
        if pair is None or (mask is None and label):
            return
        if both_classes(pair[1]):
            self._per_image.append(float(Pixels.of([pair]).ranking.auroc()))
        if predicted is not None:
            self._predicted.append(pixel_counts(predicted, pair[1]))
        self._pixels += pair[0].size
        if self._histogram is None:
            self._pairs.append(pair)
            if self._most is not None and self._pixels > self._most:
                self._histogram = PixelHistogram()
                for earlier in self._pairs:
                    self._histogram.update(*earlier)
                self._pairs.clear()
        else:
            self._histogram.update(*pair)

    def result(self) -> dict[str, float | None]:
        """All metrics under anomalib's names where it has them, None for each whose inputs are missing or of one class only.

        `pixel_AUROC_per_image` is the mean of `per_image_auroc`. Those of masks (see `mask_metrics`) are there if any were predicted.
        """
        found: dict[str, float | None] = dict.fromkeys(NAMES)
        scores, labels = scores_and_labels(np.array(self._scores), np.array(self._labels))
        if both_classes(labels):
            found["image_AUROC"] = image_auroc(scores, labels)
            found["image_AP"] = image_ap(scores, labels)
            found["image_F1Max"] = f1_max(scores, labels)[0]
        if self._histogram is not None and self._histogram.both_classes:
            found |= self._histogram.compute()
        elif self._histogram is None:
            pixels = Pixels.of(self._pairs)
            found |= pixels.metrics() if pixels.ranking.both_classes else {}
        if self._per_image:
            found["pixel_AUROC_per_image"] = float(np.mean(self._per_image))
        return found | (mask_metrics(Confusion.of_counts(self._predicted)) if self._predicted else {})


def evaluate(
    scores: Array | Sequence[float],
    labels: Array | Sequence[int],
    maps: Sequence[Array] | None = None,
    masks: Sequence[Array | None] | None = None,
    predicted: Sequence[Array | None] | None = None,
) -> dict[str, float | None]:
    """All metrics of one category under anomalib's names, None for each whose inputs are missing or of one class only.

    scores, labels: [N]; maps, masks, predicted: N arrays [H, W]. A mask of None means no defect where the label is 0; an anomalous
    image without a mask takes no part in the pixel metrics. With `predicted` masks their Dice, IoU, precision, recall and balanced accuracy are
    there, too: see `mask_metrics`. Raises ValueError for NaN or infinite scores or maps, labels other than 0 and 1, and lengths or
    shapes that do not match.
    """
    flat_scores, flat_labels = scores_and_labels(scores, labels)
    count, given = len(flat_labels), {"maps": maps, "masks": masks, "predicted masks": predicted}
    lengths = {"labels": count} | {name: len(values) for name, values in given.items() if values is not None}
    if set(lengths.values()) != {count}:
        raise ValueError(f"{', '.join(f'{length} {name}' for name, length in lengths.items())} do not match.")
    evaluation, missing = Evaluation(), [None] * count
    for image in zip(flat_scores, flat_labels, maps or missing, masks or missing, predicted or missing, strict=True):
        evaluation.add(*image)
    return evaluation.result()
