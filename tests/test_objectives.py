from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.integrate import quad
from test_similarity import by_formula, by_skimage
from torch import Tensor

import diffnoise as dn
from diffnoise.models import Denoised
from diffnoise.objectives import Objective, discretized_gaussian_nll, feature_error, terms_of, total_variation

SCHEDULE = dn.Schedule.linear(1e-4, 2e-2, 1000)
T = torch.tensor([0, 1, 20, 201, 999])
PREDICTIONS = ("epsilon", "sample", "v_prediction")
LOSSES = (
    "l1", "l2", "l2+tv", "l2+vlb", "l1+vlb", "ssim", "ms_ssim", "l2+ssim", "l2+ms_ssim", "l2+vlb+ssim", "l2+vlb+ms_ssim"
)  # fmt: skip


class Batch:
    """Images, noise and a network's answers, float64, for every t of `T`."""

    def __init__(self, size: int = 12, channels: int = 2, prediction: str = "epsilon", wrong: float = 0.3) -> None:
        rng = np.random.default_rng(size)
        shape = (len(T), channels, size, size)
        grey = rng.integers(0, 256, shape) / 127.5 - 1
        self.x_0, self.eps = torch.from_numpy(grey), torch.from_numpy(rng.standard_normal(shape))
        self.x_0[:, :, :3] = -1.0
        self.x_0[:, :, 3:6] = 1.0
        self.alpha_bar = SCHEDULE.alpha_bars[T].view(-1, 1, 1, 1)
        self.x_t = self.alpha_bar.sqrt() * self.x_0 + (1 - self.alpha_bar).sqrt() * self.eps
        self.target = {
            "epsilon": self.eps,
            "sample": self.x_0,
            "v_prediction": self.alpha_bar.sqrt() * self.eps - (1 - self.alpha_bar).sqrt() * self.x_0,
        }[prediction]
        self.prediction = self.target + wrong * torch.from_numpy(rng.standard_normal(shape))
        self.variance = torch.from_numpy(rng.uniform(-1, 1, shape))

    def loss(self, objective: Objective, learned: bool = False) -> Tensor:
        denoised = Denoised(self.prediction, self.variance if learned else None, None)
        return objective(denoised, self.x_0, self.x_t, self.eps, T)


def make(loss: str, prediction: str = "epsilon", **settings: object) -> Objective:
    return Objective(loss, SCHEDULE, prediction, **settings)


def bin_nll(x: float, mean: float, log_variance: float) -> float:
    """By numerical integration, scaled by the density's largest value in the bin."""
    deviation = math.exp(0.5 * log_variance)
    low = -math.inf if x < -0.999 else (x - 1 / 255 - mean) / deviation
    high = math.inf if x > 0.999 else (x + 1 / 255 - mean) / deviation
    nearest = min(max(0.0, low), high)
    # Beyond 40 deviations, or 40 / nearest further than the nearest point, nothing is left.
    reach = min(40.0, 40 / max(abs(nearest), 1e-9))
    low, high = max(low, nearest - reach), min(high, nearest + reach)
    mass, _ = quad(
        lambda z: math.exp((nearest - z) * (nearest + z) / 2), low, high, points=[nearest], epsabs=0, epsrel=1e-10
    )
    return nearest**2 / 2 + math.log(2 * math.pi) / 2 - math.log(mass)


@pytest.mark.parametrize("deviation", [0.003, 0.01, 0.3])
def test_the_discretized_nll_is_the_integral_over_the_bin(deviation: float) -> None:
    greys = [0, 1, 100, 127, 254, 255]
    cases = [(g / 127.5 - 1, mean) for g, mean in product(greys, [-1.0, -0.21, 0.0, 0.9, 1.0])]
    x, mean = (torch.tensor(values, dtype=torch.float64) for values in zip(*cases, strict=True))
    log_variance = torch.tensor(2 * math.log(deviation), dtype=torch.float64)
    expected = [bin_nll(a, b, float(log_variance)) for a, b in cases]
    np.testing.assert_allclose(discretized_gaussian_nll(x, mean, log_variance), expected, rtol=1e-8, atol=1e-12)
    single = discretized_gaussian_nll(x.float(), mean.float(), log_variance.float())
    np.testing.assert_allclose(single, expected, rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize("deviation", [0.01, 0.3])
def test_the_masses_of_all_grey_levels_are_one(deviation: float) -> None:
    greys = torch.arange(256, dtype=torch.float64) / 127.5 - 1
    nll = discretized_gaussian_nll(greys, torch.tensor(0.3, dtype=torch.float64), torch.tensor(2 * math.log(deviation)))
    assert float(torch.exp(-nll).sum()) == pytest.approx(1, abs=1e-9)


def bound_in_bits(batch: Batch, variance: np.ndarray | None, prediction: str, pixels: bool = True) -> np.ndarray:
    """L_t of each image as Ho et al. 2020 and Nichol and Dhariwal 2021 write it."""
    betas, alpha_bars = SCHEDULE.betas.numpy(), SCHEDULE.alpha_bars.numpy()
    small_1 = betas[1] * (1 - alpha_bars[0]) / (1 - alpha_bars[1])
    bounds = []
    for i, t in enumerate(T.tolist()):
        x_0, x_t, output = (tensor[i].numpy() for tensor in (batch.x_0, batch.x_t, batch.prediction))
        before = alpha_bars[t - 1] if t else 1.0
        small = betas[t] * (1 - before) / (1 - alpha_bars[t]) if t else small_1
        if variance is None:
            log_variance = np.log(betas[t] if t else small_1) + 0 * x_0
        else:
            k = (variance[i] + 1) / 2
            log_variance = k * np.log(betas[t]) + (1 - k) * np.log(small)
        predicted = {
            "epsilon": (x_t - np.sqrt(1 - alpha_bars[t]) * output) / np.sqrt(alpha_bars[t]),
            "sample": output,
            "v_prediction": np.sqrt(alpha_bars[t]) * x_t - np.sqrt(1 - alpha_bars[t]) * output,
        }[prediction]
        if pixels:
            predicted = predicted.clip(-1, 1)
        mean_difference = np.sqrt(before) * betas[t] / (1 - alpha_bars[t]) * (x_0 - predicted)
        if t == 0 and pixels:
            values = [bin_nll(*each) for each in zip(x_0.flat, predicted.flat, log_variance.flat, strict=True)]
        else:
            values = 0.5 * (-1 + log_variance - np.log(small) + (small + mean_difference**2) / np.exp(log_variance))
        bounds.append(np.mean(values) / math.log(2))
    return np.array(bounds)


@pytest.mark.parametrize("pixels", [True, False])
@pytest.mark.parametrize("learned", [True, False])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_bound_is_that_of_its_formula(prediction: str, learned: bool, pixels: bool) -> None:
    batch = Batch(size=6, prediction=prediction)
    variance = batch.variance if learned else None
    actual = make("l2", prediction, pixels=pixels).bound(batch.prediction, variance, batch.x_0, batch.x_t, T)
    expected = bound_in_bits(batch, variance.numpy() if learned else None, prediction, pixels)
    np.testing.assert_allclose(actual, expected, rtol=1e-8)


def test_a_fixed_variance_weighs_l2_anew_for_each_t() -> None:
    batch = Batch(wrong=1e-3)
    batch.x_0 *= 0.5  # far from the clipping
    batch.x_t = batch.alpha_bar.sqrt() * batch.x_0 + (1 - batch.alpha_bar).sqrt() * batch.eps
    batch.prediction.requires_grad_()
    make("l2").bound(batch.prediction, None, batch.x_0, batch.x_t, T).sum().backward()
    beta, ab = SCHEDULE.betas[T].view(-1, 1, 1, 1), batch.alpha_bar
    weight = beta / (2 * (1 - beta) * (1 - ab)) / math.log(2) / batch.x_0[0].numel()
    expected = 2 * weight * (batch.prediction - batch.eps).detach()
    np.testing.assert_allclose(batch.prediction.grad[1:4], expected[1:4], rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_learned_variance_gets_the_bounds_gradient_and_the_mean_gets_none_of_it(prediction: str) -> None:
    batch = Batch(prediction=prediction)
    batch.prediction.requires_grad_()
    batch.variance.requires_grad_()
    batch.loss(make("l2", prediction, vlb_weight=0.7), learned=True).backward()
    of_l2 = 2 * (batch.prediction - batch.target).detach() / batch.x_0.numel()
    np.testing.assert_allclose(batch.prediction.grad, of_l2, rtol=1e-9)
    slope, step = batch.variance.grad.clone(), 1e-4
    with torch.no_grad():
        v = batch.variance.clone()
        bounds = []
        for batch.variance in (v + step, v - step):
            bounds.append(bound_in_bits(batch, batch.variance.numpy(), prediction).mean())
    assert float(slope.sum()) == pytest.approx(0.7 * (bounds[0] - bounds[1]) / (2 * step), rel=1e-4)


def distance(loss: str, batch: Batch, prediction: str) -> float:
    """The mean of a term in float64, by other libraries."""
    p, y = batch.prediction.numpy(), batch.target.numpy()
    low, high = (f(y, axis=(1, 2, 3), keepdims=True) for f in (np.min, np.max))
    if prediction == "sample":
        low, high = low * 0 - 1, high * 0 + 1
    similarity = {"ssim": by_skimage, "ms_ssim": by_formula}.get(loss)
    if similarity:
        ranges = (high - low).ravel()
        return float(np.mean([1 - similarity(*each) for each in zip(p - low, y - low, ranges, strict=True)]))
    if loss == "tv":
        total = sum(abs(p[:, :, 1:] - p[:, :, :-1]).sum((1, 2, 3)) for p in (p, p.transpose(0, 1, 3, 2)))
        return float(20 * (total / p[0].size).mean())
    return float((abs(p - y) if loss == "l1" else (p - y) ** 2).mean())


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_loss_is_the_sum_of_its_terms(prediction: str, loss: str) -> None:
    batch = Batch(161 if "ms_ssim" in loss else 12, 1, prediction)
    expected = 0.0
    for term in loss.split("+"):
        if term == "vlb":
            bound = make("l2", prediction).bound(batch.prediction, None, batch.x_0, batch.x_t, T)
            expected += 0.5 * float(bound.mean())
        else:
            expected += distance(term, batch, prediction)
    assert float(batch.loss(make(loss, prediction, vlb_weight=0.5))) == pytest.approx(expected, rel=1e-7)


def test_the_bound_of_a_learned_variance_is_in_every_loss_once() -> None:
    batch = Batch()
    bound = float(make("l2").bound(batch.prediction, batch.variance, batch.x_0, batch.x_t, T).mean())
    for loss in ("l2", "l2+vlb", "vlb+l2"):
        assert float(batch.loss(make(loss), learned=True)) == pytest.approx(distance("l2", batch, "epsilon") + bound)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_similarity_prefers_the_target_to_its_negative(prediction: str) -> None:
    batch = Batch(24, 1, prediction)
    worst = []
    for factor in (1.0, 0.5, 0.0, -1.0):
        batch.prediction = factor * batch.target
        worst.append(float(batch.loss(make("ssim", prediction))))
    assert worst[0] == pytest.approx(0, abs=1e-9) and worst == sorted(worst) and worst[-1] > 0.9


@pytest.mark.parametrize("answer", ["zero", "right", "huge"])
@pytest.mark.parametrize(
    ("loss", "prediction"), [("l2+vlb+ms_ssim", "epsilon"), *(("l1+tv+vlb+ssim", name) for name in PREDICTIONS)]
)
def test_losses_and_gradients_are_finite(prediction: str, loss: str, answer: str) -> None:
    batch = Batch(161 if "ms_ssim" in loss else 12, 1, prediction)
    for name in ("x_0", "x_t", "eps", "target", "variance"):
        setattr(batch, name, getattr(batch, name).float())
    batch.prediction = {"zero": 0 * batch.target, "right": batch.target.clone(), "huge": 1e3 * batch.target}[answer]
    for learned in (False, True):
        for tensor in (batch.prediction, batch.variance):
            tensor.requires_grad_().grad = None
        value = batch.loss(make(loss, prediction), learned)
        value.backward()
        assert bool(torch.isfinite(value.detach())) and bool(torch.isfinite(batch.prediction.grad).all())
        assert not learned or bool(torch.isfinite(batch.variance.grad).all() & batch.variance.grad.any())


def test_a_flat_image_has_a_similarity_too() -> None:
    flat = torch.zeros(2, 1, 16, 16)
    denoised = Denoised((0.1 * torch.randn(2, 1, 16, 16)).requires_grad_(), None, None)
    value = make("ssim", "sample", pixels=False)(denoised, flat, flat, flat, torch.tensor([3, 4]))
    value.backward()
    assert 0 < float(value.detach()) <= 2 and bool(torch.isfinite(denoised.prediction.grad).all())


def test_total_variation_counts_every_step_once() -> None:
    images = torch.zeros(2, 1, 4, 5)
    images[1, 0, 1, 2] = 3.0
    assert total_variation(images).tolist() == pytest.approx([0, 4 * 3 / 20])


def test_features_are_compared_at_the_size_of_the_head() -> None:
    features, target = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 8, 8)
    halved = target.double().unflatten(2, (4, 2)).unflatten(4, (4, 2)).mean((3, 5))
    assert float(feature_error(features, target)) == pytest.approx(float((features - halved).square().mean()), rel=1e-5)
    assert float(feature_error(features, F.avg_pool2d(target, 2))) == pytest.approx(
        float(feature_error(features, target))
    )
    with pytest.raises(ValueError, match=r"\[2, 3, h, w\].*not \[2, 5, 4, 4\]"):
        feature_error(features, torch.zeros(2, 5, 4, 4))


@pytest.mark.parametrize(
    ("loss", "says"),
    [
        ("l3", "l1, l2, tv, vlb, ssim, ms_ssim, such as .*'l3'"),
        ("", "loss must be a sum"),
        ("l2 + vlb", "'l2 '"),
        ("l2+l2", "every term once"),
        ("vlb", "add one of l1, l2, ssim, ms_ssim"),
        ("tv+vlb", "leaves the prediction free"),
    ],
)
def test_what_is_no_loss_is_refused(loss: str, says: str) -> None:
    for refuse in (terms_of, lambda name: dn.Training(max_steps=1, loss=name), make):
        with pytest.raises(ValueError, match=says):
            refuse(loss)


def test_every_published_loss_is_one() -> None:
    assert [terms_of(loss) for loss in LOSSES] == [tuple(loss.split("+")) for loss in LOSSES]
