"""Masks and confidences against scikit-learn, scikit-image and the definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.filters import threshold_otsu
from sklearn.calibration import calibration_curve
from sklearn.metrics import (
    balanced_accuracy_score,
    f1_score,
    jaccard_score,
    precision_score,
    recall_score,
    roc_auc_score,
)

from diffnoise.metrics import Confusion, expected_calibration_error, mask_metrics, otsu_threshold

ORACLES = {
    "dice": f1_score,
    "iou": jaccard_score,
    "precision": precision_score,
    "recall": recall_score,
    "balanced_accuracy": balanced_accuracy_score,
}


def masks(count: int = 5) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Predicted and true ones of several sizes; the last image is good."""
    generator = np.random.default_rng(8)
    shapes = [(9, 7), (12, 5), (4, 4), (20, 3), (6, 6)][:count]
    true = [generator.random(shape) > 0.6 for shape in shapes]
    true[-1][:] = False
    return [generator.random(shape) > 0.5 for shape in shapes], true


@pytest.mark.parametrize("name", ORACLES)
def test_ratios_of_masks_are_those_of_scikit_learn(name):
    predicted, true = masks()
    confusion = Confusion.of([torch.from_numpy(p) for p in predicted], true)
    each = [ORACLES[name](t.ravel(), p.ravel()) for p, t in zip(predicted[:-1], true[:-1], strict=True)]
    assert getattr(confusion, name)()[:-1] == pytest.approx(each, abs=1e-6)
    exact = Confusion.of(predicted, true, smoothing=0)
    assert getattr(exact, name)()[:-1] == pytest.approx(each, abs=1e-15)
    pooled = ORACLES[name](np.concatenate([t.ravel() for t in true]), np.concatenate([p.ravel() for p in predicted]))
    assert getattr(exact.pooled(), name)() == pytest.approx(pooled, abs=1e-15)


def test_precision_and_recall_are_not_swapped():
    confusion = Confusion.of([np.array([[True, True, True, False]])], [np.array([[True, False, False, False]])])
    assert confusion.precision() == pytest.approx(1 / 3, abs=1e-5) and confusion.recall() == pytest.approx(1)


def test_nothing_to_find_and_nothing_found():
    nothing = np.zeros((3, 3), bool)
    confusion = Confusion.of([nothing, ~nothing], [nothing, nothing])
    for ratio in (confusion.dice(), confusion.iou(), confusion.precision()):
        assert ratio == pytest.approx([1, 0], abs=1e-6)
    unsmoothed = Confusion.of([nothing], [nothing], smoothing=0)
    assert np.isnan(unsmoothed.dice()) and np.isnan(unsmoothed.recall())


def test_balanced_accuracy_is_the_auroc_of_the_mask():
    predicted, true = masks()
    assert Confusion.of(predicted, true).balanced_accuracy()[0] == pytest.approx(
        roc_auc_score(true[0].ravel(), predicted[0].ravel()), abs=1e-6
    )


def test_means_are_over_anomalous_images():
    predicted, true = masks()
    found = mask_metrics(Confusion.of(predicted, true))
    each = [f1_score(t.ravel(), p.ravel()) for p, t in zip(predicted[:-1], true[:-1], strict=True)]
    assert found["Dice_mean"] == pytest.approx(np.mean(each), abs=1e-6)
    assert found["Dice_sd"] == pytest.approx(np.std(each), abs=1e-6)
    assert found["pixel_Recall"] == pytest.approx(
        recall_score(np.concatenate([t.ravel() for t in true]), np.concatenate([p.ravel() for p in predicted])),
        abs=1e-6,
    )
    assert len(found) == 15
    assert set(mask_metrics(Confusion.of(predicted[-1:], true[-1:])).values()) == {None}
    assert set(mask_metrics(Confusion.of([], [])).values()) == {None}


@pytest.mark.parametrize("seed", range(5))
def test_otsu_is_that_of_scikit_image(seed):
    generator = np.random.default_rng(seed)
    values = np.append(generator.normal(0, 1, 900), generator.normal(seed, 0.5, 100 * (seed + 1))).astype(np.float32)
    step = float(np.ptp(values)) / 256
    assert otsu_threshold(values) == pytest.approx(threshold_otsu(values), abs=step * 1e-3)
    assert otsu_threshold(torch.from_numpy(values), 64) == pytest.approx(threshold_otsu(values, 64), abs=step * 1e-3)


def test_otsu_does_not_wrap_around():
    """As 8-bit numbers 250 and 300 become 250 and 44."""
    values = np.repeat([10.0, 250.0, 300.0], [50, 30, 20])
    assert 10 < otsu_threshold(values) < 250
    assert otsu_threshold(np.full((3, 3), 7.5)) == 7.5


def test_calibration_error_by_hand():
    confidence = np.array([[0.05, 0.05, 0.95, 1.0]])
    mask = np.array([[False, True, True, True]])
    # 0.0 to 0.1: half are anomalous; 0.9 to 1.0, the right edge included: all are.
    assert expected_calibration_error([confidence], [mask]) == pytest.approx(0.5 * 0.45 + 0.5 * 0.025)


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_calibration_error_from_the_curve_of_scikit_learn(bins):
    generator = np.random.default_rng(bins)
    confidence = np.append(generator.random(4000), [0.0, 1.0, 1.0, 0.0]).astype(np.float32).reshape(4, -1)
    mask = generator.random(confidence.shape) < confidence**2
    share, mean = calibration_curve(mask.ravel(), confidence.ravel().astype(float), n_bins=bins)
    counts, _ = np.histogram(confidence.ravel().astype(float), np.linspace(0, 1, bins + 1))
    expected = (np.abs(share - mean) * counts).sum() / counts.sum()
    assert expected_calibration_error(confidence[:, None], mask[:, None], bins=bins) == pytest.approx(expected)


def test_calibration_error_of_errors():
    generator = np.random.default_rng(2)
    errors, mask = generator.gamma(1, 3, (2, 8, 8)), generator.random((2, 8, 8)) > 0.7
    expected = expected_calibration_error(np.minimum(errors / 5, 1), mask)
    assert expected_calibration_error(errors, mask, scale=5) == pytest.approx(expected)
    assert expected_calibration_error(mask.astype(np.float32), mask) == 0


def test_misuse_is_refused():
    predicted, true = masks()
    for call, reason in (
        (lambda: Confusion.of(predicted, true[:2]), "5 predicted masks and 2 masks"),
        (lambda: Confusion.of(predicted[::-1], true), r"of one shape, not \[6, 6\]"),
        (lambda: Confusion.of([p.astype(np.uint8) for p in predicted], true), "uint8"),
        (lambda: otsu_threshold(np.array([1.0, np.nan])), "NaN or infinite"),
        (lambda: otsu_threshold(np.zeros(0)), "no values"),
        (lambda: expected_calibration_error([2.0 * true[0]], true[:1]), "give a scale"),
        (lambda: expected_calibration_error([-1.0 * true[0]], true[:1], scale=3.0), r"lie in \[0, 1\]"),
        (lambda: expected_calibration_error([1.0 * true[0]], true[:1], scale=0), "scale must be"),
        (lambda: expected_calibration_error([1.0 * true[0]], true[:1], bins=0), "bins must be"),
        (lambda: expected_calibration_error([], []), "no pixels"),
    ):
        with pytest.raises(ValueError, match=reason):
            call()
