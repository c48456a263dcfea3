"""Maps, filters, scores and thresholds against SciPy, NumPy and exact arithmetic."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from diffnoise import ops
from diffnoise.anomaly import (
    absolute_error,
    gaussian_filter,
    gaussian_taps,
    image_score,
    mean_filter,
    squared_error,
    threshold_from_good,
)

RNG = np.random.default_rng(0)
SIZES = ((1, 1), (1, 7), (2, 3), (5, 4), (17, 40), (33, 16))


def maps(height: int, width: int, batch: int = 2) -> Tensor:
    return torch.from_numpy(RNG.exponential(size=(batch, 1, height, width)))


def test_errors():
    x_0, reconstruction = RNG.normal(size=(2, 2, 3, 5, 7))
    arguments = torch.from_numpy(x_0), torch.from_numpy(reconstruction)
    difference = x_0 - reconstruction
    np.testing.assert_allclose(squared_error(*arguments), (difference**2).mean(1, keepdims=True), rtol=1e-12)
    np.testing.assert_allclose(absolute_error(*arguments), np.abs(difference).mean(1, keepdims=True), rtol=1e-12)


@pytest.mark.parametrize("size", (1, 3, 5, 11, 17))
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_mean_filter_is_that_of_scipy(height, width, size):
    """Also where the filter is several times as large as the image."""
    values = maps(height, width)
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 2e-6)):
        found = mean_filter(values.to(dtype), size)
        assert found.dtype == dtype and found.shape == values.shape
        for i in range(2):
            expected = ndimage.uniform_filter(values[i, 0].numpy(), size, mode="mirror")
            np.testing.assert_allclose(found[i, 0], expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("sigma", (0.1, 0.625, 1.0, 1.3, 2.4, 4.0))
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_gaussian_filter_is_that_of_scipy(height, width, sigma):
    values = maps(height, width)
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 2e-6)):
        found = gaussian_filter(values.to(dtype), sigma)
        assert found.dtype == dtype and found.shape == values.shape
        for i in range(2):
            expected = ndimage.gaussian_filter(values[i, 0].numpy(), sigma, mode="mirror", truncate=4)
            np.testing.assert_allclose(found[i, 0], expected, rtol=tolerance, atol=tolerance)


def test_gaussian_filter_has_33_taps_for_sigma_4():
    point = torch.zeros(1, 1, 1, 101, dtype=torch.float64)
    point[..., 50] = 1
    found = gaussian_filter(point, 4.0).flatten()
    assert found.nonzero().flatten().tolist() == list(range(34, 67))
    taps = np.exp(-0.5 * (np.arange(-16, 17) / 4) ** 2)
    np.testing.assert_allclose(found[34:67], taps / taps.sum(), rtol=1e-12)


@pytest.mark.parametrize(
    "smooth", (lambda m: mean_filter(m, 5), lambda m: gaussian_filter(m, 1.0)), ids=("mean", "gaussian")
)
def test_filters_leave_their_input_and_do_not_know_the_batch(smooth):
    values = maps(24, 31, batch=4).float()
    before = values.clone()
    together = smooth(values)
    assert torch.equal(values, before)
    for i in range(4):
        assert torch.equal(smooth(values[i : i + 1])[0], together[i])
    transposed = smooth(values.transpose(2, 3))  # not contiguous
    torch.testing.assert_close(transposed, together.transpose(2, 3), rtol=1e-5, atol=1e-6)


def test_nan_spreads_as_far_as_the_filter_reaches():
    values = maps(20, 20)
    values[1, 0, 10, 4] = math.nan
    found = mean_filter(values, 5).isnan()
    assert not found[0].any()
    assert found[1, 0].nonzero().tolist() == [[y, x] for y in range(8, 13) for x in range(2, 7)]
    found = gaussian_filter(values, 1.0).isnan()
    assert not found[0].any() and found[1, 0].sum() == 9 * 9
    assert found[1, 0, 6:15, 0:9].all()


@pytest.mark.parametrize("top_k", (1, 2, 64, 399, 400))
def test_image_score_is_the_mean_of_the_largest(top_k):
    values = maps(20, 20, batch=5)
    values[2] = values[2].round(decimals=1)  # ties
    values[3] *= -1
    expected = np.sort(values.flatten(1).numpy(), axis=1)[:, ::-1][:, :top_k].mean(1)
    np.testing.assert_allclose(image_score(values, top_k), expected, rtol=1e-12)


def test_image_score_of_nan_and_infinity():
    values = maps(6, 6, batch=4)
    values[1, 0, 2, 3] = math.nan
    values[2, 0, 0, 0] = math.inf
    values[3] = -math.inf
    for top_k in (1, 5, 36):
        scores = image_score(values, top_k)
        assert scores.isnan().tolist() == [False, True, False, False]
        assert scores[2] == math.inf and scores[3] == -math.inf and scores[0].isfinite()


RATES = (0.001, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.43, 0.5, 0.9, 0.999)


@pytest.mark.parametrize("rate", RATES)
def test_threshold_has_the_exact_rank(rate):
    """ceil((n + 1)(1 - rate)) for the rate as it is written, in rational arithmetic."""
    for n in [*range(1, 60), 99, 199, 399, 999, 1999]:
        scores = RNG.permutation(np.arange(1, n + 1)).tolist()
        rank = math.ceil((n + 1) * (1 - Fraction(str(rate))))
        assert threshold_from_good(scores, rate) == min(rank, n)
        if rank <= n:  # enough images for the guarantee
            assert Fraction(n + 1 - rank, n + 1) <= Fraction(str(rate)) < Fraction(n + 2 - rank, n + 1)
        else:
            assert n < 1 / Fraction(str(rate)) - 1


@pytest.mark.parametrize(("n", "rate"), ((19, 0.05), (39, 0.1), (50, 0.07), (200, 0.02)))
def test_threshold_covers_new_good_images(n, rate):
    """Exchangeable scores of any law: the mean share of false alarms is (n + 1 - rank) / (n + 1), at most the rate."""
    repeats, fresh = 2000, 50
    rank = math.ceil((n + 1) * (1 - Fraction(str(rate))))
    expected = (n + 1 - rank) / (n + 1)
    assert expected <= rate
    rng = np.random.default_rng(n)
    alarms = []
    for _ in range(repeats):
        scores = rng.lognormal(size=n + fresh)
        alarms.append((scores[n:] > threshold_from_good(scores[:n], rate)).mean())
    assert np.mean(alarms) == pytest.approx(expected, abs=4 * np.std(alarms) / repeats**0.5)


def test_with_too_few_images_the_threshold_is_the_largest_score():
    assert threshold_from_good([3.0, 1.0, 2.0], 0.05) == 3.0
    assert threshold_from_good(list(range(18)), 0.05) == 17
    assert threshold_from_good(list(range(19)), 0.05) == 18
    assert threshold_from_good(list(range(20)), 0.05) == 19
    assert threshold_from_good(list(range(39)), 0.05) == 37


def test_the_combination_of_scales_is_one_filter_of_their_sum():
    """Filtering every scale and then combining, with SciPy in float64."""
    x_0, *reconstructions = torch.from_numpy(RNG.normal(size=(4, 2, 3, 21, 30)))
    scales = torch.tensor([[0.5, 0.1], [1.5, 2.0], [0.0, 1e-3]], dtype=torch.float64)
    found = ops.anomaly_map(torch.cat(reconstructions, 1), gaussian_taps(1.5), x_0, scales)
    for i in range(2):
        errors = [((x_0[i] - image[i]) ** 2).mean(0).numpy() for image in reconstructions]
        smooth = [ndimage.gaussian_filter(error, 1.5, mode="mirror", truncate=4) for error in errors]
        units = [(m - mean) / deviation for m, (mean, deviation) in zip(smooth, scales.tolist(), strict=True)]
        np.testing.assert_allclose(found[i, 0], np.mean(units, axis=0), rtol=1e-10)


REFUSED = [
    (lambda: mean_filter(maps(5, 5).expand(2, 3, 5, 5), 3), r"Maps must have shape \[B, 1, H, W\]"),
    (lambda: mean_filter(maps(5, 5), 4), "size of a mean filter must be odd and positive, but is 4"),
    (lambda: mean_filter(maps(5, 5), 0), "must be odd and positive"),
    (lambda: mean_filter(maps(5, 5), -3), "must be odd and positive"),
    (lambda: gaussian_filter(maps(5, 5), 0.0), "sigma of a Gaussian filter must be positive, but is 0.0"),
    (lambda: gaussian_filter(maps(5, 5), math.nan), "must be positive"),
    (lambda: image_score(maps(5, 5), 0), "top_k must lie between 1 and the 25 pixels of the map, but is 0"),
    (lambda: image_score(maps(5, 5), 26), "top_k must lie between 1 and the 25 pixels"),
    (lambda: threshold_from_good([], 0.05), "at least one good image"),
    (lambda: threshold_from_good([1.0, math.nan], 0.05), "only finite scores"),
    (lambda: threshold_from_good([1.0, math.inf], 0.05), "only finite scores"),
    (lambda: threshold_from_good([1.0], 0.0), "false_alarm_rate must lie between 0 and 1, but is 0.0"),
    (lambda: threshold_from_good([1.0], 1.0), "false_alarm_rate must lie"),
    (lambda: threshold_from_good([1.0], math.nan), "false_alarm_rate must lie"),
]


@pytest.mark.parametrize(("call", "sentence"), REFUSED)
def test_refusals_are_sentences(call, sentence):
    with pytest.raises(ValueError, match=sentence) as caught:
        call()
    assert str(caught.value).endswith(".")
