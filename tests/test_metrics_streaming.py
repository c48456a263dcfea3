"""The histogram of pixels against the exact metrics."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from diffnoise.metrics import PixelHistogram, pixel_metrics
from diffnoise.metrics.ranking import Ranking
from diffnoise.metrics.streaming import bins_of

RANKS = ("pixel_AUROC", "pixel_AP", "pixel_AUPRO")


def realistic(count: int, size: int = 128) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Smooth squared errors, larger where one of a few ellipses lies."""
    generator = np.random.default_rng(3)
    y, x = np.mgrid[:size, :size]
    maps, masks = [], []
    for _ in range(count):
        mask = np.zeros((size, size), bool)
        for _ in range(generator.integers(0, 4)):
            (cy, cx), (a, b) = generator.integers(8, size - 8, 2), generator.uniform(3, 12, 2)
            mask |= ((y - cy) / a) ** 2 + ((x - cx) / b) ** 2 < 1
        errors = 6 * gaussian_filter(generator.standard_normal(mask.shape), 3)
        errors += generator.uniform(0, 3) * gaussian_filter(mask.astype(float), 3)
        maps.append((errors**2).astype(np.float32))
        masks.append(mask)
    return maps, masks


def histogram(maps: list[np.ndarray], masks: list[np.ndarray]) -> PixelHistogram:
    found = PixelHistogram()
    for anomaly_map, mask in zip(maps, masks, strict=True):
        found.update(anomaly_map, mask)
    return found


def test_within_a_millionth_of_the_exact_metrics():
    maps, masks = realistic(100)
    exact, found = pixel_metrics(maps, masks), histogram(maps, masks).compute()
    for name in RANKS:
        assert found[name] == pytest.approx(exact[name], abs=1e-6)
    assert found["pixel_F1Max"] == pytest.approx(exact["pixel_F1Max"], abs=1e-4)


@pytest.mark.parametrize("levels", [1, 2, 7, 200])
def test_ties_are_exact(levels):
    generator = np.random.default_rng(levels)
    maps = [(generator.integers(-levels, levels, (30, 40)) / 3).astype(np.float32) for _ in range(3)]
    masks = [generator.random((30, 40)) > 0.8 for _ in range(3)]
    for limit in (0.05, 0.3, 1.0):
        expected = pytest.approx(pixel_metrics(maps, masks, limit), abs=1e-12)
        assert histogram(maps, masks).compute(limit) == expected


def test_bins_are_in_the_order_of_the_values():
    generator = np.random.default_rng(0)
    values = (generator.standard_normal(1000) * 10.0 ** generator.integers(-30, 30, 1000)).astype(np.float32)
    bins = bins_of(np.sort(values))
    assert (np.diff(bins) >= 0).all() and bins.min() >= 0 and bins.max() < 1 << 20
    assert bins_of(np.array([-0.0])) == bins_of(np.array([0.0]))
    neighbours = bins_of(np.array([1, 1 + 2**-11 - 2**-23, 1 + 2**-11, -1, -1 - 2**-11], np.float32))
    assert (neighbours - neighbours[0])[:3].tolist() == [0, 0, 1] and neighbours[3] - neighbours[4] == 1


def test_merging_and_the_state(tmp_path):
    maps, masks = realistic(6)
    whole, first, second = (histogram(maps[a:b], masks[a:b]) for a, b in ((0, 6), (0, 2), (2, 6)))
    np.savez(tmp_path / "state.npz", **second.state())
    with np.load(tmp_path / "state.npz") as state:
        first.merge(PixelHistogram.from_state(state))
    assert first.compute() == pytest.approx(whole.compute(), abs=1e-14)
    merged, expected = first.state(), whole.state()
    for name in ("good", "anomalous", "weights", "mixed", "regions"):
        np.testing.assert_allclose(merged[name], expected[name], rtol=1e-12)
    assert (bins_of(merged["value"]) == bins_of(expected["value"])).all()
    tied, other = (histogram([np.full((2, 2), value)], masks=[np.eye(2, dtype=bool)]) for value in (1.0, 1.0001))
    tied.merge(tied)
    assert not tied.mixed.any()
    tied.merge(other)
    assert tied.mixed.sum() == 1 and tied.good.max() == 6
    with pytest.raises(ValueError, match=r"needs anomalous of shape \[1048576\]"):
        PixelHistogram.from_state({"good": first.good})


def test_misuse_is_refused():
    maps, masks = realistic(2)
    empty = PixelHistogram()
    for call, reason in (
        (empty.compute, "one class only"),
        (lambda: empty.update(np.full((2, 2), np.nan), np.zeros((2, 2), bool)), "NaN or infinite"),
        (lambda: empty.update(maps[0], masks[0][:3]), "must both be"),
        (lambda: histogram(maps, masks).compute(0), "fpr_limit"),
    ):
        with pytest.raises(ValueError, match=reason):
            call()


@pytest.mark.parametrize(("anomalous", "good"), [(1, 0), (1, 5), (2, 9), (3, 4), (8, 100), (60, 300)])
def test_precision_of_values_in_no_known_order(anomalous, good):
    """Against shuffling them: an entry behind another one, in which 2500 of 3000 are anomalous."""
    generator = np.random.default_rng(anomalous)
    ranking = Ranking(np.array([500, good]), np.array([2500, anomalous]), spread=np.array([False, True]))
    order = np.arange(anomalous + good) < anomalous
    precisions = []
    for _ in range(1000):
        found = np.cumsum(generator.permuted(order))
        at = np.flatnonzero(np.diff(found, prepend=0))
        precisions.append(((2500 + found) / (3001 + np.arange(len(order))))[at].mean())
    share = anomalous / (2500 + anomalous)
    expected = (1 - share) * 2500 / 3000 + share * np.mean(precisions)
    chance = 5 * np.std(precisions) / 1000**0.5 * share
    assert float(ranking.average_precision()) == pytest.approx(expected, abs=chance + 1e-7)
    tied = float(Ranking(ranking.good, ranking.anomalous).average_precision())
    assert good < 100 or tied < expected - 5 * chance
