"""Intervals against scipy, against slow resampling, and by how often they hold the truth."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from sklearn.metrics import roc_auc_score
from test_metrics_streaming import realistic

from diffnoise.metrics import aupro, bootstrap, image_auroc, pixel_ap, pixel_auroc, pixel_intervals, pixel_metrics
from diffnoise.metrics.detection import pixel_f1_max


def scores(generator: np.random.Generator, good: int, anomalous: int) -> tuple[np.ndarray, np.ndarray]:
    values = np.append(generator.normal(0, 1, good), generator.normal(1, 1, anomalous))
    return values, np.repeat([0, 1], [good, anomalous])


def auroc(good: np.ndarray, anomalous: np.ndarray) -> float:
    return (good[:, None] < anomalous).mean() + (good[:, None] == anomalous).mean() / 2


def test_against_scipy():
    values, labels = scores(np.random.default_rng(1), 40, 25)
    expected = scipy.stats.bootstrap(
        (values[:40], values[40:]),
        auroc,
        vectorized=False,
        n_resamples=4000,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    found = bootstrap(image_auroc, values, labels, strata=labels)
    assert found.estimate == pytest.approx(roc_auc_score(labels, values), abs=1e-12)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.015)


def test_the_seed_decides():
    values = np.random.default_rng(2).random(30)
    first, again, other = (bootstrap(np.mean, values, replicates=50, seed=seed) for seed in (0, 0, 1))
    assert first == again and first != other


def test_of_a_mean_against_scipy():
    values = np.random.default_rng(2).random(80)
    expected = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=20000, confidence_level=0.8, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    found = bootstrap(np.mean, values, replicates=4000, confidence=0.8)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.003)


def test_how_often_the_interval_holds_the_truth():
    truth, held, trials = scipy.stats.norm.cdf(1 / 2**0.5), 0, 150
    for trial in range(trials):
        values, labels = scores(np.random.default_rng(trial), 40, 40)
        found = bootstrap(lambda v: auroc(v[:40], v[40:]), values, strata=labels, replicates=200)
        held += found.low <= truth <= found.high
    assert 0.88 <= held / trials <= 0.995


def test_pixel_intervals_are_those_of_slow_resampling():
    maps, masks = realistic(12, 48)
    has = np.array([mask.any() for mask in masks])
    assert 0 < has.sum() < 12
    found = pixel_intervals(maps, masks, replicates=30, seed=4)
    exact = pixel_metrics(maps, masks)
    slow = {
        "pixel_AUROC": pixel_auroc,
        "pixel_AP": pixel_ap,
        "pixel_AUPRO": aupro,
        "pixel_F1Max": lambda *a: pixel_f1_max(*a)[0],
    }
    for name, metric in slow.items():
        expected = bootstrap(
            lambda index, metric=metric: metric([maps[i] for i in index], [masks[i] for i in index]),
            np.arange(12),
            strata=has,
            replicates=30,
            seed=4,
        )
        assert found[name].estimate == exact[name] == expected.estimate
        assert found[name] == pytest.approx(expected, abs=1e-3 if name == "pixel_F1Max" else 2e-4)


def test_misuse_is_refused():
    values, labels = scores(np.random.default_rng(1), 4, 4)
    for call, reason in (
        (lambda: bootstrap(np.mean, []), r"not \[0\]"),
        (lambda: bootstrap(np.mean), r"not \[\]"),
        (lambda: bootstrap(image_auroc, values, labels[:3]), r"not \[3, 8\]"),
        (lambda: bootstrap(np.mean, values, strata=labels[:3]), r"not \[3, 8\]"),
        (lambda: bootstrap(np.mean, values, confidence=95), "confidence must lie"),
    ):
        with pytest.raises(ValueError, match=reason):
            call()
