from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from skimage.measure import label
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from diffnoise import ops
from diffnoise.metrics import (
    Evaluation,
    aupro,
    evaluate,
    f1_max,
    image_ap,
    image_auroc,
    mask_metrics,
    per_image_auroc,
    pixel_ap,
    pixel_auroc,
    pixel_f1_max,
    pixel_metrics,
)
from diffnoise.metrics.regions import region_shares
from diffnoise.metrics.segmentation import Confusion

RNG = np.random.default_rng(5)


def auroc_by_pairs(values: np.ndarray, anomalous: np.ndarray) -> float:
    """The share of (anomalous, good) pairs in the right order, ties being half right."""
    pairs = [(a > g) + (a == g) / 2 for a in values[anomalous] for g in values[~anomalous]]
    return float(np.mean(pairs))


def ap_by_thresholds(values: np.ndarray, anomalous: np.ndarray) -> float:
    """The sum of (gain in recall) x precision over falling distinct thresholds."""
    total, recall_before = 0.0, 0.0
    for threshold in sorted(set(values), reverse=True):
        found = values >= threshold
        recall = (found & anomalous).sum() / anomalous.sum()
        total += (recall - recall_before) * (found & anomalous).sum() / found.sum()
        recall_before = recall
    return total


def aupro_by_thresholds(maps: list[np.ndarray], masks: list[np.ndarray], limit: float) -> float:
    """The definition of Bergmann et al., one distinct threshold at a time."""
    good = sum(int((~mask).sum()) for mask in masks)
    points = [(0.0, 0.0)]
    for threshold in sorted({value for m in maps for value in m.ravel().tolist()}, reverse=True):
        wrong, overlaps = 0, []
        for anomaly_map, mask in zip(maps, masks, strict=True):
            found = anomaly_map.astype(np.float64) >= threshold
            wrong += int((found & ~mask).sum())
            regions = label(mask, connectivity=2)
            overlaps += [found[regions == i].mean() for i in range(1, regions.max() + 1)]
        points.append((wrong / good, float(np.mean(overlaps))))
    area = 0.0
    for (x0, y0), (x1, y1) in pairwise(points):
        if x0 >= limit:
            break
        if x1 > limit:
            x1, y1 = limit, y0 + (y1 - y0) * (limit - x0) / (x1 - x0)
        area += (x1 - x0) * (y0 + y1) / 2
    return area / limit


def f1_by_thresholds(values: np.ndarray, anomalous: np.ndarray) -> tuple[float, float]:
    """The largest F1 and the highest threshold that has it."""
    found = []
    for threshold in sorted(set(values.tolist())):
        chosen = values >= threshold
        found.append((2 * (chosen & anomalous).sum() / (chosen.sum() + anomalous.sum()), threshold))
    return max(found)


def cases(levels: int | None) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Three maps of different sizes with blobs, some touching at a corner; quantised to `levels` for ties."""
    maps, masks = [], []
    for height, width in ((9, 14), (12, 7), (5, 5)):
        mask = RNG.random((height, width)) > 0.8
        values = RNG.random((height, width)) + 0.4 * mask
        maps.append((values if levels is None else np.floor(values * levels)).astype(np.float32))
        masks.append(mask)
    masks[2][:] = False
    return maps, masks


@pytest.mark.parametrize("levels", [None, 2, 5])
def test_against_the_definitions(levels):
    maps, masks = cases(levels)
    values, anomalous = np.concatenate([m.ravel() for m in maps]), np.concatenate([m.ravel() for m in masks])
    assert pixel_auroc(maps, masks) == pytest.approx(auroc_by_pairs(values, anomalous), abs=1e-12)
    assert image_auroc(values, anomalous) == pytest.approx(auroc_by_pairs(values, anomalous), abs=1e-12)
    assert pixel_ap(maps, masks) == pytest.approx(ap_by_thresholds(values, anomalous), abs=1e-12)
    assert pixel_auroc(maps, masks) == pytest.approx(roc_auc_score(anomalous, values), abs=1e-12)
    assert pixel_ap(maps, masks) == pytest.approx(average_precision_score(anomalous, values), abs=1e-12)
    assert image_ap(values, anomalous) == pytest.approx(average_precision_score(anomalous, values), abs=1e-12)
    assert pixel_f1_max(maps, masks) == pytest.approx(f1_by_thresholds(values, anomalous), abs=1e-12)
    assert f1_max(values, anomalous) == pytest.approx(f1_by_thresholds(values, anomalous), abs=1e-12)
    for limit in (0.05, 0.3, 1.0):
        assert aupro(maps, masks, limit) == pytest.approx(aupro_by_thresholds(maps, masks, limit), abs=1e-12)


@pytest.mark.parametrize("seed", range(30))
def test_random_maps_against_brute_force(seed, monkeypatch):
    """Any share of anomalous pixels, any number of ties, negative values, -0, several types and pieces."""
    monkeypatch.setattr("diffnoise.metrics.detection.AT_ONCE", 40)
    generator = np.random.default_rng(seed)
    levels, share = generator.choice([2, 3, 10, 1000]), generator.choice([0.02, 0.3, 0.7, 0.95])
    maps, masks = [], []
    for dtype in generator.choice([np.float32, np.float64, np.float16, np.int16], 4):
        shape = generator.integers(1, 12, 2)
        values = generator.integers(-levels, levels, shape) * generator.choice([-0.5, 0.5]) + generator.choice(
            [0.0, 1e4]
        )
        maps.append(values.astype(dtype))
        masks.append(generator.random(shape) < share)
    masks[0][0, 0], masks[1][0, 0] = True, False
    values, anomalous = np.concatenate([m.ravel() for m in maps]), np.concatenate([m.ravel() for m in masks])
    assert pixel_metrics(maps, masks, 0.2) == pytest.approx(
        {
            "pixel_AUROC": auroc_by_pairs(values, anomalous),
            "pixel_AP": ap_by_thresholds(values, anomalous),
            "pixel_AUPRO": aupro_by_thresholds(maps, masks, 0.2),
            "pixel_F1Max": f1_by_thresholds(values, anomalous)[0],
        },
        abs=1e-12,
    )


def test_without_the_kernel(monkeypatch):
    maps, masks = cases(5)
    expected = pixel_metrics(maps, masks)
    monkeypatch.setattr("diffnoise.metrics.detection.interval_counts", ops.interval_counts.reference)
    assert pixel_metrics(maps, masks) == expected


def test_what_is_given_may_be_read_only():
    maps, masks = cases(None)
    for array in (*maps, *masks):
        array.setflags(write=False)
    assert pixel_metrics(maps, masks)["pixel_AUROC"] == pixel_auroc(maps, masks)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.4, 1.0])
def test_regions(share):
    for height, width in ((17, 23), (1, 9), (9, 1)):
        mask = RNG.random((height, width)) < share
        regions = label(mask, connectivity=2)
        shares, count = region_shares(mask)
        assert count == regions.max()
        assert shares.tolist() == [1 / (regions == region).sum() for region in regions[mask]]


def test_auroc_of_each_image():
    maps, masks = cases(5)
    found = per_image_auroc(maps, masks)
    assert np.isnan(found[2])
    assert found[:2] == pytest.approx([roc_auc_score(masks[i].ravel(), maps[i].ravel()) for i in (0, 1)])


def test_aupro_by_hand():
    mask = np.array([[1, 0, 0, 1, 1], [0, 1, 0, 0, 0]], dtype=bool)  # two regions of two pixels, the left one diagonal
    assert aupro([mask.astype(float)], [mask]) == pytest.approx(1)
    assert aupro([np.zeros(mask.shape)], [mask]) == pytest.approx(0.15)  # one threshold: the diagonal, up to 0.3
    half = np.array([[1, 0, 0, 0, 0], [0, 1, 0, 0, 0]], dtype=float)  # the left region only
    assert aupro([half], [mask]) == pytest.approx((0.5 + 0.65) / 2)
    three_of_four = np.array([[1, 0, 0, 1, 0], [0, 1, 0, 0, 0]], dtype=float)
    assert aupro([three_of_four], [mask]) == pytest.approx((0.75 + 0.825) / 2)


def test_aupro_weighs_regions_and_not_pixels():
    mask = np.zeros((20, 20), dtype=bool)
    mask[:10, :10] = mask[15, 15] = True
    only_large = np.where(mask, 1.0, 0.0)
    only_large[15, 15] = -1
    assert aupro([only_large], [mask]) == pytest.approx(0.5)


def test_f1_max():
    scores, labels = [0.1, 0.4, 0.35, 0.8, 0.4], [0, 0, 1, 1, 1]
    assert f1_max(scores, labels) == pytest.approx((6 / 7, 0.35))
    precision, recall, _ = precision_recall_curve(labels, scores)
    assert f1_max(scores, labels)[0] == pytest.approx((2 * precision * recall / (precision + recall)).max())
    assert f1_max([3.0, 3.0], [0, 1]) == pytest.approx((2 / 3, 3.0))


def test_evaluate_names_and_values():
    maps, masks = cases(None)
    result = evaluate([0.9, 0.3, 0.5], [1, 1, 0], maps, [masks[0], masks[1], None])
    assert result == {
        "image_AUROC": 0.5,
        "image_AP": pytest.approx(average_precision_score([1, 1, 0], [0.9, 0.3, 0.5])),
        "image_F1Max": pytest.approx(0.8),
        "pixel_AUROC": pixel_auroc(maps, masks),
        "pixel_AP": pixel_ap(maps, masks),
        "pixel_AUPRO": aupro(maps, masks),
        "pixel_F1Max": pixel_f1_max(maps, masks)[0],
        "pixel_AUROC_per_image": np.nanmean(per_image_auroc(maps, masks)),
    }
    tensors = evaluate(
        torch.tensor([0.9, 0.3, 0.5]),
        torch.tensor([1, 1, 0]),
        [torch.from_numpy(m) for m in maps],
        [torch.from_numpy(m) for m in masks],
    )
    assert tensors == result
    predicted = [m > 0.7 for m in maps]
    with_masks = evaluate([0.9, 0.3, 0.5], [1, 1, 0], maps, [masks[0], masks[1], None], predicted)
    assert with_masks == result | mask_metrics(Confusion.of(predicted, masks))


def test_evaluate_gives_none_for_what_cannot_be_known():
    maps, masks = cases(None)
    image_keys = {"image_AUROC", "image_AP", "image_F1Max"}
    pixel_keys = {"pixel_AUROC", "pixel_AP", "pixel_AUPRO", "pixel_F1Max", "pixel_AUROC_per_image"}

    def known(*arguments: object) -> set[str]:
        return {key for key, value in evaluate(*arguments).items() if value is not None}

    scores = [0.1, 0.2, 0.3]
    assert known(scores, [0, 0, 0], maps, [None] * 3) == set()
    assert known(scores, [1, 1, 1], maps, masks) == pixel_keys
    assert known(scores, [0, 1, 0], maps, None) == image_keys
    assert known(scores, [0, 1, 0]) == image_keys
    assert known([], []) == set()
    assert known(scores, [0, 0, 0], maps, None, [m > 0.5 for m in maps]) == set()
    partly = evaluate(scores, [1, 1, 0], maps, [masks[0], None, None])
    assert partly["pixel_AP"] == pixel_ap([maps[0], maps[2]], [masks[0], masks[2]])


def test_large_sets_are_evaluated_in_constant_memory():
    maps, masks = cases(5)  # ties fill bins of their own: the histogram is exact
    images = list(zip([0.9, 0.3, 0.5], [1, 1, 0], maps, masks, strict=True))
    results = []
    for most in (None, 9 * 14 + 12 * 7, 9 * 14):
        evaluation = Evaluation(most)
        for image in images:
            evaluation.add(*image)
        assert evaluation.exact == (most is None)
        results.append(evaluation.result())
    assert results[1] == pytest.approx(results[0], abs=1e-12) and results[2] == pytest.approx(results[0], abs=1e-12)
    good = Evaluation(most_pixels=1)
    good.add(0.1, 0, maps[2])
    assert not good.exact and set(good.result().values()) == {None}


def test_what_is_not_finite_is_never_scored():
    maps, masks = cases(None)
    for bad in (math.nan, math.inf):
        with pytest.raises(ValueError, match="score is NaN or infinite"):
            evaluate([bad, 0.5], [0, 1])
        with pytest.raises(ValueError, match="score is NaN or infinite"):
            f1_max([bad, 0.5], [0, 1])
        maps[1][2, 3] = bad
        for metric in (pixel_auroc, pixel_ap, aupro):
            with pytest.raises(ValueError, match="map is NaN or infinite"):
                metric(maps, masks)
        with pytest.raises(ValueError, match="map is NaN or infinite"):
            evaluate([0.1, 0.2, 0.3], [0, 1, 0], maps, [None, None, None])


def test_misuse_is_refused():
    maps, masks = cases(None)
    for call, reason in (
        (lambda: image_auroc([0.1, 0.2], [1, 1]), "one class only"),
        (lambda: image_auroc([0.1, 0.2], [1, 2]), "Labels must be"),
        (lambda: image_auroc([0.1, 0.2], [1]), "same length"),
        (lambda: pixel_auroc(maps, [np.zeros_like(m) for m in masks]), "one class only"),
        (lambda: pixel_ap(maps, masks[:2]), "3 maps and 2 masks"),
        (lambda: pixel_ap(maps, masks[::-1]), r"not \[9, 14\] and \[5, 5\]"),
        (lambda: aupro(maps, [m.astype(np.uint8) for m in masks]), "uint8"),
        (lambda: aupro(maps, masks, 0), "fpr_limit"),
        (lambda: evaluate([0.1], [0], None, None, [masks[0]]), "needs its anomaly map"),
        (lambda: aupro([], []), "one class only"),
        (lambda: evaluate([0.1, 0.2], [0, 1], maps, masks), "2 labels, 3 maps, 3 masks do not match"),
    ):
        with pytest.raises(ValueError, match=reason):
            call()
