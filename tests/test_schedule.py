"""Schedules and coefficient tables against published values and against the formulas in Python's floats."""

from __future__ import annotations

import math

import pytest
import torch

from diffnoise.ops.reverse_step import COLUMNS
from diffnoise.schedule import Schedule

LINEAR_02 = Schedule.linear(1e-4, 2e-2, 1000)
LINEAR_01 = Schedule.linear(1e-4, 1e-2, 1000)
TEBBE = Schedule.linear(1.5e-3, 1.95e-2, 1000)
COSINE = Schedule.cosine(1000)
PREDICTIONS = ("epsilon", "sample", "v_prediction")

# schedule, t, beta, alpha_bar, posterior variance, c_1 (of x_0), c_2 (of x_t); all printed digits count.
GOLDEN = [
    (LINEAR_02, 0, 1e-4, 0.9999, 0, 1, 0),
    (LINEAR_02, 1, 1.1991992e-4, 0.99978009, 5.4531877e-5, 0.5452915, 0.4547085),
    (LINEAR_02, 100, 2.091992e-3, 0.89514159, 2.0545535e-3, 0.018895456, 0.9810761),
    (LINEAR_02, 199, 4.0640641e-3, 0.65903851, 4.0320091e-3, 0.0096960514, 0.99009453),
    (LINEAR_02, 999, 0.02, 4.0358298e-5, 0.019999984, 1.2835149e-4, 0.98994868),
    (LINEAR_01, 100, 1.090991e-3, 0.9416071, 1.0717766e-3, 0.018139822, 0.98185212),
    (LINEAR_01, 199, 2.0720721e-3, 0.80464182, 2.0543513e-3, 0.0095241224, 0.99042011),
    (LINEAR_01, 999, 0.01, 0.0063017498, 0.0099993594, 8.0289445e-4, 0.9949237),
    (TEBBE, 10, 1.6801802e-3, 0.98264739, 1.5200493e-3, 0.096062767, 0.90393391),
    (TEBBE, 199, 5.0855856e-3, 0.51697843, 5.0577627e-3, 0.0075895809, 0.99199697),
    (TEBBE, 999, 0.0195, 2.5692025e-5, 0.01949999, 9.9820822e-5, 0.99020149),
    (COSINE, 100, 5.3189916e-4, 0.97157568, 5.2222359e-4, 0.018449861, 0.98154826),
    (COSINE, 199, 1.043895e-3, 0.89870592, 1.0342167e-3, 0.0097748111, 0.99021139),
    (COSINE, 500, 3.1556914e-3, 0.49228517, 3.1460051e-3, 0.0043678669, 0.99535628),
    (COSINE, 999, 0.999, 2.4287669e-9, 0.99899758, 0.0015568917, 0.0316227),
]
GOLDEN_ALPHA_BARS = [
    (LINEAR_02, {99: 0.897018, 249: 0.524085, 400: 0.193572, 499: 0.078587}),
    (LINEAR_01, {249: 0.716245, 499: 0.275703}),
    (TEBBE, {0: 0.9985, 20: 0.965303, 79: 0.837663, 80: 0.835199}),
    (COSINE, {249: 0.847012, 499: 0.493844}),
]


@pytest.mark.parametrize(("schedule", "t", "beta", "alpha_bar", "posterior", "c_1", "c_2"), GOLDEN)
def test_published_coefficients(schedule, t, beta, alpha_bar, posterior, c_1, c_2):
    table = schedule.ddpm_table(dtype=torch.float64)
    found = [schedule.betas[t], schedule.alpha_bars[t], schedule.posterior_variances[t], table[t, 2], table[t, 3]]
    for value, expected in zip(found, (beta, alpha_bar, posterior, c_1, c_2), strict=True):
        assert float(value) == pytest.approx(expected, rel=1e-7, abs=1e-14)


@pytest.mark.parametrize(("schedule", "expected"), GOLDEN_ALPHA_BARS)
def test_published_alpha_bars(schedule, expected):
    assert {t: round(float(schedule.alpha_bars[t]), 6) for t in expected} == expected


def betas_of(name: str, steps: int) -> list[float]:
    if name == "cosine":
        f = [math.cos((i / steps + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(steps + 1)]
        return [min(1 - f[i + 1] / f[i], 0.999) for i in range(steps)]
    return [0.03 + (0.005 - 0.03) * i / (steps - 1) for i in range(steps)]  # falling: any two ends will do


@pytest.mark.parametrize("steps", (2, 7, 1000))
@pytest.mark.parametrize("name", ("linear", "cosine"))
def test_tables_are_the_formulas(name, steps):
    schedule = Schedule.cosine(steps) if name == "cosine" else Schedule.linear(0.03, 0.005, steps)
    betas = betas_of(name, steps)
    assert schedule.steps == steps
    alpha_bar = 1.0
    for t, beta in enumerate(betas):
        previous, alpha_bar = alpha_bar, alpha_bar * (1 - beta)
        assert float(schedule.betas[t]) == pytest.approx(beta, rel=1e-12)
        assert float(schedule.alpha_bars[t]) == pytest.approx(alpha_bar, rel=1e-11)
        assert float(schedule.posterior_variances[t]) == pytest.approx(
            beta * (1 - previous) / (1 - alpha_bar), rel=1e-9
        )


def test_a_schedule_of_one_step():
    assert Schedule.linear(0.3, 0.7, 1).betas.tolist() == [0.3]
    assert Schedule.cosine(1).betas.tolist() == [0.999]
    row = Schedule.linear(0.3, 0.7, 1).ddpm_table(dtype=torch.float64)[0]
    assert row[2:6].tolist() == pytest.approx([1, 0, 0, 0]) and row.isfinite().all()


def test_betas_of_any_dtype_become_float64():
    betas = torch.linspace(1e-4, 2e-2, 50)
    schedule = Schedule(betas)
    assert schedule.betas.dtype == schedule.alpha_bars.dtype == torch.float64
    assert schedule.ddpm_table(dtype=torch.float64).dtype == torch.float64
    torch.testing.assert_close(schedule.alpha_bars, torch.cumprod(1 - betas.double(), 0), rtol=1e-14, atol=0)


SUBSEQUENCES = [None, [0, 5, 6, 40, 99], [99, 70, 3]]


def pairs(timesteps: list[int] | None) -> list[tuple[int, int]]:
    """(t, the index to which a step at t goes); -1 is x_0 itself."""
    ordered = sorted(range(100) if timesteps is None else timesteps)
    return list(zip(ordered, [-1, *ordered[:-1]], strict=True))


def x_0_row(prediction: str, alpha_bar: float) -> list[float]:
    """x_0 = a x_t + b output."""
    signal, deviation = math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar)
    return {
        "epsilon": [1 / signal, -deviation / signal],
        "sample": [0, 1],
        "v_prediction": [signal, -deviation],
    }[prediction]


@pytest.mark.parametrize("timesteps", SUBSEQUENCES, ids=("all", "some", "falling"))
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("variance", ("fixed_small", "fixed_large", "learned_range"))
def test_ddpm_rows(variance, prediction, timesteps):
    schedule = Schedule.linear(1e-3, 0.05, 100)
    table = schedule.ddpm_table(variance, prediction, timesteps, dtype=torch.float64)
    assert table.shape == (100, len(COLUMNS))
    expected_logs = []
    for t, lower in pairs(timesteps):
        ab_t, ab_p = float(schedule.alpha_bars[t]), float(schedule.alpha_bars[lower]) if lower >= 0 else 1.0
        alpha = ab_t / ab_p
        small, large = (1 - alpha) * (1 - ab_p) / (1 - ab_t), 1 - alpha
        c_1, c_2 = math.sqrt(ab_p) * (1 - alpha) / (1 - ab_t), math.sqrt(alpha) * (1 - ab_p) / (1 - ab_t)
        sigma = {"fixed_small": math.sqrt(small), "fixed_large": math.sqrt(large), "learned_range": 1.0}[variance]
        if lower < 0:
            sigma = 0.0
        expected = [*x_0_row(prediction, ab_t), c_1, c_2, 0, sigma]
        assert table[t, :6].tolist() == pytest.approx(expected, rel=1e-9, abs=1e-12)
        assert table[t, 9:].tolist() == pytest.approx([1 - ab_t, 0], rel=1e-12)
        expected_logs.append((t, small, large))
    # "Clipped" logarithms: at the last step that of the step before.
    (first, _, large_0), (_, small_1, _) = expected_logs[:2]
    expected_logs[0] = (first, small_1, small_1 if variance == "fixed_large" else large_0)
    for t, small, large in expected_logs:
        assert float(table[t, 6]) == pytest.approx(math.log(small), rel=1e-9)
        assert float(table[t, 7]) == pytest.approx(math.log(large), rel=1e-9)
        assert float(table[t, 8]) == pytest.approx(math.log(large if variance == "fixed_large" else small), rel=1e-9)
    outside = sorted(set(range(100)) - {t for t, _ in pairs(timesteps)})
    assert table[outside].isnan().all() and table.isnan().any(1).sum() == len(outside)


@pytest.mark.parametrize("timesteps", SUBSEQUENCES, ids=("all", "some", "falling"))
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("eta", (0.0, 0.5, 1.0))
@pytest.mark.parametrize("recompute", (True, False))
def test_ddim_rows(recompute, eta, prediction, timesteps):
    """On unclipped x_0 both ways to take epsilon give sqrt(ab_p) x_0 + sqrt(1 - ab_p - sigma^2) epsilon."""
    schedule = Schedule.linear(1e-3, 0.05, 100)
    table = schedule.ddim_table(timesteps, eta, prediction, recompute_epsilon=recompute, dtype=torch.float64)
    x_0, eps = 0.37, -1.21
    for t, lower in pairs(timesteps):
        ab_t, ab_p = float(schedule.alpha_bars[t]), float(schedule.alpha_bars[lower]) if lower >= 0 else 1.0
        x_t = math.sqrt(ab_t) * x_0 + math.sqrt(1 - ab_t) * eps
        output = {"epsilon": eps, "sample": x_0, "v_prediction": math.sqrt(ab_t) * eps - math.sqrt(1 - ab_t) * x_0}[
            prediction
        ]
        sigma = eta * math.sqrt((1 - ab_p) / (1 - ab_t)) * math.sqrt(1 - ab_t / ab_p)
        a, b, p, q, r, found_sigma = table[t, :6].tolist()
        assert a * x_t + b * output == pytest.approx(x_0, rel=1e-9)
        step = p * x_0 + q * x_t + r * output
        assert step == pytest.approx(
            math.sqrt(ab_p) * x_0 + math.sqrt(max(1 - ab_p - sigma**2, 0)) * eps, rel=1e-9, abs=1e-7
        )
        assert found_sigma == pytest.approx(sigma, rel=1e-9, abs=1e-12)
        assert float(table[t, 9]) == pytest.approx(1 - ab_t, rel=1e-12)
        assert (r == 0 and recompute) or (not recompute and p == pytest.approx(math.sqrt(ab_p), rel=1e-12))


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_x_0_rows(prediction):
    table = COSINE.x_0_table(prediction, torch.float64)
    for t in (0, 1, 500, 999):
        expected = [*x_0_row(prediction, float(COSINE.alpha_bars[t])), 1, 0, 0, 0]
        assert table[t, :6].tolist() == pytest.approx(expected, rel=1e-9)


def test_previous_overrides_the_sub_sequence():
    schedule = Schedule.linear(1e-3, 0.05, 100)
    natural = schedule.ddim_table([99, 66, 33, 0], 0.5, dtype=torch.float64)
    given = schedule.ddim_table([99, 66, 33, 0], 0.5, previous=[66, 33, 0, -1], dtype=torch.float64)
    assert torch.equal(natural.nan_to_num(7), given.nan_to_num(7))
    other = schedule.ddpm_table(timesteps=[33, 99], previous=[5, 98], dtype=torch.float64)
    every = schedule.ddpm_table(dtype=torch.float64)
    torch.testing.assert_close(other[99, :6], every[99, :6])
    torch.testing.assert_close(other[33, :6], schedule.ddpm_table(timesteps=[5, 33], dtype=torch.float64)[33, :6])
    # Any negative index means x_0.
    last = schedule.ddim_table([0], previous=[-25], dtype=torch.float64)[0]
    assert last[2:6].tolist() == pytest.approx([1, 0, 0, 0])


def test_timesteps():
    assert LINEAR_02.timesteps(200, 200) == list(range(199, -1, -1))
    assert LINEAR_02.timesteps(200, 1) == [199]
    assert LINEAR_02.timesteps(1, 1) == [0]
    assert LINEAR_02.timesteps(10, 4) == [9, 6, 3, 0]
    of_250 = LINEAR_02.timesteps(1000, 250)[::-1]  # ADM's respacing
    assert (len(of_250), of_250[5], of_250[50], of_250[100], of_250[-1]) == (250, 20, 201, 401, 999)
    schedule = Schedule.linear(steps=60)
    for start in range(2, 61):
        for count in range(2, start + 1):
            found = schedule.timesteps(start, count)
            assert len(found) == count and found[0] == start - 1 and found[-1] == 0
            even = [(start - 1) * (1 - i / (count - 1)) for i in range(count)]
            assert all(abs(a - b) <= 0.5 + 1e-9 for a, b in zip(found, even, strict=True))
            assert all(a > b for a, b in zip(found, found[1:], strict=False))


REFUSED = [
    (lambda: Schedule.linear(steps=0), "at least one step, not 0"),
    (lambda: Schedule.cosine(-3), "at least one step, not -3"),
    (lambda: Schedule.linear(0.0, 0.1), "betas must be a non-empty vector of numbers between 0 and 1"),
    (lambda: Schedule.linear(0.1, 1.0), "betas must be"),
    (lambda: Schedule(torch.tensor([0.1, math.nan])), "betas must be"),
    (lambda: Schedule(torch.empty(0)), "betas must be"),
    (lambda: Schedule(torch.full((2, 2), 0.1)), "betas must be"),
    (lambda: LINEAR_02.timesteps(1001, 10), "1 <= count <= start <= 1000, but count is 10 and start is 1001"),
    (lambda: LINEAR_02.timesteps(10, 11), "count is 11 and start is 10"),
    (lambda: LINEAR_02.timesteps(10, 0), "count is 0"),
    (lambda: LINEAR_02.ddpm_table("large"), "variance must be"),
    (lambda: LINEAR_02.ddpm_table(prediction="noise"), "prediction must be"),
    (lambda: LINEAR_02.ddim_table(prediction="noise"), "prediction must be"),
    (lambda: LINEAR_02.ddim_table(prediction="noise", recompute_epsilon=False), "prediction must be"),
    (lambda: LINEAR_02.x_0_table("noise"), "prediction must be"),
    (lambda: LINEAR_02.ddim_table(eta=-0.1), "eta must not be negative"),
    (lambda: LINEAR_02.ddim_table(eta=math.nan), "eta must not be negative"),
    (lambda: LINEAR_02.ddim_table([0, 1000]), "different indices between 0 and 999"),
    (lambda: LINEAR_02.ddim_table([-1, 5]), "different indices"),
    (lambda: LINEAR_02.ddpm_table(timesteps=[5, 5]), "different indices"),
    (lambda: LINEAR_02.ddpm_table(timesteps=[]), "different indices"),
    (lambda: LINEAR_02.ddim_table(previous=[1]), "previous needs timesteps of the same length"),
    (lambda: LINEAR_02.ddim_table([5, 6], previous=[1]), "previous needs timesteps"),
    (lambda: LINEAR_02.ddim_table([5], previous=[5]), "previous index must be lower"),
]


@pytest.mark.parametrize(("call", "sentence"), REFUSED)
def test_refusals_are_sentences(call, sentence):
    with pytest.raises(ValueError, match=sentence) as caught:
        call()
    assert str(caught.value).endswith(".")
