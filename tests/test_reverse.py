"""Forward and reverse process against diffusers' schedulers and the papers' formulas."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from diffnoise import add_noise, ops
from diffnoise.noise import Gaussian, Noise, Simplex
from diffnoise.reverse import reverse_process
from diffnoise.schedule import Schedule

scheduling_ddpm = pytest.importorskip("diffusers.schedulers.scheduling_ddpm")
scheduling_ddim = pytest.importorskip("diffusers.schedulers.scheduling_ddim")

SCHEDULE = Schedule.linear()
SHAPE = (2, 2, 5, 7)
PREDICTIONS = ("epsilon", "sample", "v_prediction")
SPACINGS = ("leading", "trailing", "linspace")


def images(count: int, seed: int = 0, shape: tuple[int, ...] = SHAPE) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(count)]


def scheduler(cls: type, schedule: Schedule = SCHEDULE, exact: bool = True, **config: Any) -> Any:
    """diffusers' scheduler on the same betas; `exact` lifts its tables from float32, where 1 - alpha_bar loses digits, to float64."""
    found = cls(num_train_timesteps=schedule.steps, trained_betas=schedule.betas.tolist(), **config)
    if exact:
        found.betas = torch.tensor(schedule.betas.tolist(), dtype=torch.float64)
        found.alphas = 1 - found.betas
        found.alphas_cumprod = found.alphas.cumprod(0)
        found.one = torch.tensor(1.0, dtype=torch.float64)
    return found


@pytest.fixture
def z(monkeypatch) -> Iterator[Tensor]:
    """The noise that diffusers' DDPM draws."""
    (noise,) = images(1, seed=99)
    monkeypatch.setattr(scheduling_ddpm, "randn_tensor", lambda *args, dtype, **kwargs: noise.to(dtype))
    yield noise


def full(t: int, batch: int = 2) -> Tensor:
    return torch.full((batch,), t, dtype=torch.int64)


def some(timesteps: list[int]) -> list[int]:
    """First, second, a middle one, last but one, last."""
    return sorted({timesteps[i] for i in (0, 1, len(timesteps) // 2, -2, -1)})


@pytest.mark.parametrize("spacing", (*SPACINGS, "all"))
@pytest.mark.parametrize("clip", (None, 1.0, 0.4))
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("variance", ("fixed_small", "fixed_large", "learned_range"))
def test_ddpm_step_is_that_of_diffusers(variance, prediction, clip, spacing, z):
    x_t, output, v = images(3)
    v = v.clamp(-1, 1)
    learned = variance == "learned_range"
    theirs = scheduler(
        scheduling_ddpm.DDPMScheduler,
        prediction_type=prediction,
        variance_type=variance,
        clip_sample=clip is not None,
        clip_sample_range=clip or 1.0,
        timestep_spacing="leading" if spacing == "all" else spacing,
    )
    timesteps = list(range(999, -1, -1))
    if spacing != "all":
        theirs.set_timesteps(13)
        timesteps = theirs.timesteps.tolist()
    table = SCHEDULE.ddpm_table(variance, prediction, timesteps, dtype=torch.float64)
    x_0_table = SCHEDULE.x_0_table(prediction, torch.float64)
    for t in some(timesteps):
        if t == timesteps[-1] and t > 0:
            continue  # see test_the_last_step_adds_no_noise
        expected = theirs.step(torch.cat([output, v], 1) if learned else output, t, x_t)
        found = ops.reverse_step(x_t, output, full(t), table, variance=v if learned else None, noise=z, clip=clip)
        torch.testing.assert_close(found, expected.prev_sample, rtol=1e-9, atol=1e-9)
        x_0 = ops.reverse_step(x_t, output, full(t), x_0_table, clip=clip)
        torch.testing.assert_close(x_0, expected.pred_original_sample, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("variance", ("fixed_small", "fixed_large", "learned_range"))
def test_the_last_step_adds_no_noise(variance, z):
    """Where a sub-sequence ends above t = 0, diffusers adds noise of variance beta to x_0 itself; ADM and diffnoise do not.

    The posterior of x_0 given the predicted x_0 has variance 0, so the mean of diffusers' step is the answer.
    """
    x_t, output, v = images(3)
    theirs = scheduler(
        scheduling_ddpm.DDPMScheduler, variance_type=variance, clip_sample=False, timestep_spacing="trailing"
    )
    theirs.set_timesteps(10)
    timesteps = theirs.timesteps.tolist()
    assert timesteps[-1] == 99
    learned = variance == "learned_range"
    table = SCHEDULE.ddpm_table(variance, timesteps=timesteps, dtype=torch.float64)
    found = ops.reverse_step(x_t, output, full(99), table, variance=v if learned else None, noise=z)
    arguments = torch.cat([output, v], 1) if learned else output
    noisy = theirs.step(arguments, 99, x_t).prev_sample
    z.zero_()
    expected = theirs.step(arguments, 99, x_t)
    torch.testing.assert_close(found, expected.prev_sample, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found, expected.pred_original_sample, rtol=1e-9, atol=1e-9)
    if variance == "fixed_large":
        assert (noisy - found).abs().max() > 0.1, "diffusers' noise; if this fails, it has changed"


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("recompute", (False, True))
@pytest.mark.parametrize("eta", (0.0, 0.5, 1.0))
@pytest.mark.parametrize("clip", (None, 1.0))
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_ddim_step_is_that_of_diffusers(prediction, clip, eta, recompute, spacing):
    x_t, output, z = images(3)
    for count in (10, 13):
        theirs = scheduler(
            scheduling_ddim.DDIMScheduler,
            prediction_type=prediction,
            clip_sample=clip is not None,
            timestep_spacing=spacing,
        )
        theirs.set_timesteps(count)
        timesteps = theirs.timesteps.tolist()
        # diffusers steps to t - 1000 // count, which only for "leading" is the next of its own timesteps.
        previous = [t - 1000 // count for t in timesteps]
        arguments = dict(eta=eta, prediction=prediction, recompute_epsilon=recompute, dtype=torch.float64)
        table = SCHEDULE.ddim_table(timesteps, previous=previous, **arguments)
        if spacing == "leading" or (spacing, count) == ("trailing", 10):
            natural = SCHEDULE.ddim_table(timesteps, **arguments)
            assert torch.equal(natural.nan_to_num(7), table.nan_to_num(7))
        for t in some(timesteps):
            expected = theirs.step(
                output, t, x_t, eta=eta, use_clipped_model_output=recompute, variance_noise=z if eta > 0 else None
            ).prev_sample
            found = ops.reverse_step(x_t, output, full(t), table, noise=z, clip=clip)
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_steps_in_float32_are_those_of_diffusers_in_float32(z):
    """As a user runs them. diffusers' float32 tables are the larger part of the difference (1 - alpha_bar at small t)."""
    x_t, output = (image.float() for image in images(2))
    ddpm = scheduler(scheduling_ddpm.DDPMScheduler, exact=False, clip_sample=True)
    ddim = scheduler(scheduling_ddim.DDIMScheduler, exact=False, clip_sample=True)
    ddim.set_timesteps(50)
    tables = SCHEDULE.ddpm_table(), SCHEDULE.ddim_table(ddim.timesteps.tolist(), 0.5, recompute_epsilon=False)
    for t in (0, 1, 10, 100, 500, 999):
        found = ops.reverse_step(x_t, output, full(t), tables[0], noise=z.float(), clip=1.0)
        torch.testing.assert_close(found, ddpm.step(output, t, x_t).prev_sample, rtol=0, atol=1e-4)
    for t in some(ddim.timesteps.tolist()):
        found = ops.reverse_step(x_t, output, full(t), tables[1], noise=z.float(), clip=1.0)
        expected = ddim.step(output, t, x_t, eta=0.5, variance_noise=z.float()).prev_sample
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_every_sample_has_its_own_t():
    x_t, output, z = images(3, shape=(4, 1, 5, 7))
    t = torch.tensor([999, 0, 500, 1])
    table = SCHEDULE.ddpm_table(dtype=torch.float64)
    together = ops.reverse_step(x_t, output, t, table, noise=z)
    for i in range(4):
        one = slice(i, i + 1)
        assert torch.equal(ops.reverse_step(x_t[one], output[one], t[one], table, noise=z[one]), together[one])


def test_unclipped_mean_is_that_of_ho_et_al():
    """mu = (x_t - beta_t / sqrt(1 - alpha_bar_t) epsilon) / sqrt(alpha_t)."""
    x_t, eps = images(2)
    table = SCHEDULE.ddpm_table(dtype=torch.float64)
    for t in (0, 1, 10, 199, 999):
        beta, alpha_bar = float(SCHEDULE.betas[t]), float(SCHEDULE.alpha_bars[t])
        expected = (x_t - beta / (1 - alpha_bar) ** 0.5 * eps) / (1 - beta) ** 0.5
        torch.testing.assert_close(ops.reverse_step(x_t, eps, full(t), table), expected, rtol=1e-9, atol=1e-9)


# Guidance.


def guided_epsilon(x_t: Tensor, eps: Tensor, target: Tensor, guidance: float, alpha_bar: float) -> Tensor:
    """Mousakhan et al. 2023, algorithm 1."""
    target_t = alpha_bar**0.5 * target + (1 - alpha_bar) ** 0.5 * eps
    return eps - guidance * (1 - alpha_bar) ** 0.5 * (target_t - x_t)


def epsilon_of(output: Tensor, x_t: Tensor, prediction: str, alpha_bar: float) -> Tensor:
    signal, deviation = alpha_bar**0.5, (1 - alpha_bar) ** 0.5
    return {
        "epsilon": output,
        "sample": (x_t - signal * output) / deviation,
        "v_prediction": signal * output + deviation * x_t,
    }[prediction]


def implementations(*arguments: Any, **keywords: Any) -> list[Tensor]:
    return [ops.reverse_step(*arguments, **keywords), ops.reverse_step.reference(*arguments, **keywords)]


@pytest.mark.parametrize("guidance", (0.0, 0.5, 11.0))
@pytest.mark.parametrize("recompute", (False, True))
@pytest.mark.parametrize("eta", (0.0, 0.5))
@pytest.mark.parametrize("clip", (None, 1.0))
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_guided_ddim_is_the_step_with_the_guided_epsilon(prediction, clip, eta, recompute, guidance):
    """x_0 from the guided epsilon, clamped, and epsilon either again from that x_0 or the guided one itself."""
    x_t, output, target, z = images(4)
    timesteps = SCHEDULE.timesteps(250, 10)
    table = SCHEDULE.ddim_table(timesteps, eta, prediction, recompute_epsilon=recompute, dtype=torch.float64)
    x_0_table = SCHEDULE.x_0_table(prediction, torch.float64)
    for t, lower in zip(timesteps, [*timesteps[1:], None], strict=True):
        ab = float(SCHEDULE.alpha_bars[t])
        ab_p = 1.0 if lower is None else float(SCHEDULE.alpha_bars[lower])
        eps = guided_epsilon(x_t, epsilon_of(output, x_t, prediction, ab), target, guidance, ab)
        x_0 = (x_t - (1 - ab) ** 0.5 * eps) / ab**0.5
        if clip is not None:
            x_0 = x_0.clamp(-clip, clip)
        if recompute:
            eps = (x_t - ab**0.5 * x_0) / (1 - ab) ** 0.5
        sigma = eta * ((1 - ab_p) / (1 - ab)) ** 0.5 * (1 - ab / ab_p) ** 0.5
        expected = ab_p**0.5 * x_0 + (1 - ab_p - sigma**2) ** 0.5 * eps + sigma * z
        for found in implementations(x_t, output, full(t), table, noise=z, clip=clip, target=target, guidance=guidance):
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
        for found in implementations(x_t, output, full(t), x_0_table, clip=clip, target=target, guidance=guidance):
            torch.testing.assert_close(found, x_0, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("clip", (None, 1.0))
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_guided_ddpm_takes_the_posterior_of_the_guided_x_0(prediction, clip):
    x_t, output, target, z = images(4)
    table = SCHEDULE.ddpm_table("fixed_large", prediction, dtype=torch.float64)
    for t in (0, 1, 80, 999):
        ab, beta = float(SCHEDULE.alpha_bars[t]), float(SCHEDULE.betas[t])
        ab_p = ab / (1 - beta)
        eps = guided_epsilon(x_t, epsilon_of(output, x_t, prediction, ab), target, 3.0, ab)
        x_0 = (x_t - (1 - ab) ** 0.5 * eps) / ab**0.5
        if clip is not None:
            x_0 = x_0.clamp(-clip, clip)
        mean = ab_p**0.5 * beta / (1 - ab) * x_0 + (1 - beta) ** 0.5 * (1 - ab_p) / (1 - ab) * x_t
        expected = mean + (beta**0.5 * z if t > 0 else 0)
        for found in implementations(x_t, output, full(t), table, noise=z, clip=clip, target=target, guidance=3.0):
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_a_weight_of_one_ends_at_the_target():
    """Whatever the model says: guidance (1 - alpha_bar) = 1 at the only step."""
    x_t, target = images(2)
    guidance = 1 / (1 - float(SCHEDULE.alpha_bars[200]))
    for table in (
        SCHEDULE.ddim_table([200], dtype=torch.float64),
        SCHEDULE.ddpm_table(timesteps=[200], dtype=torch.float64),
    ):
        found = reverse_process(lambda x, t: x.sin(), x_t, [200], table, clip=None, target=target, guidance=guidance)
        torch.testing.assert_close(found, target, rtol=0, atol=1e-9)


@pytest.mark.parametrize("noise", (None, Simplex()), ids=("gaussian", "simplex"))
def test_the_layout_of_the_models_output_changes_nothing(noise):
    x_t, target = images(2, shape=(2, 3, 5, 7))
    timesteps = SCHEDULE.timesteps(300, 4)
    arguments = (x_t, timesteps, SCHEDULE.ddim_table(timesteps, 0.7, dtype=torch.float64))
    keywords = {"seeds": torch.tensor([5, -6]), "noise": noise, "target": target, "guidance": 0.8}
    found = reverse_process(lambda x, t: x.sin().contiguous(memory_format=torch.channels_last), *arguments, **keywords)
    expected = reverse_process(lambda x, t: x.sin().contiguous(), *arguments, **keywords)
    assert torch.equal(found, expected) and found.is_contiguous()


@pytest.mark.parametrize("noise", (None, Simplex(normalize="unit")), ids=("gaussian", "simplex"))
@pytest.mark.parametrize("learned", (False, True))
def test_a_guided_process_of_a_tile_is_a_crop(noise, learned):
    """With a model that looks at one pixel at a time, noise in every step, and a target."""
    x_t, target = images(2, shape=(2, 2, 16, 24))
    seeds = torch.tensor([5, -6])
    timesteps = SCHEDULE.timesteps(300, 4)
    table = (
        SCHEDULE.ddpm_table("learned_range", timesteps=timesteps, dtype=torch.float64)
        if learned
        else SCHEDULE.ddim_table(timesteps, 0.7, dtype=torch.float64)
    )

    def process(y: slice, x: slice, **changes: Any) -> Tensor:
        arguments = {"target": target[..., y, x], "guidance": 0.8, "seeds": seeds, "noise": noise} | changes
        return reverse_process(
            lambda x, t: torch.cat([x.sin(), x.cos()], 1) if learned else x.sin(),
            x_t[..., y, x],
            timesteps,
            table,
            origins=torch.tensor([[y.start, x.start]]).expand(2, 2),
            learned_variance=learned,
            **arguments,
        )

    whole = process(slice(0, 16), slice(0, 24))
    torch.testing.assert_close(process(slice(3, 12), slice(5, 22)), whole[..., 3:12, 5:22], rtol=0, atol=1e-12)
    for change in ({"guidance": 0.0}, {"target": target.flip(1)}, {"seeds": seeds + 1}):
        assert (process(slice(0, 16), slice(0, 24), **change) - whole).abs().max() > 1e-3


# Forward.


@pytest.mark.parametrize("dtype", (torch.float64, torch.float32))
def test_add_noise_is_that_of_diffusers(dtype):
    x_0, eps = (image.to(dtype) for image in images(2, shape=(5, 2, 5, 7)))
    t = torch.tensor([0, 1, 199, 500, 999])
    expected = scheduler(scheduling_ddpm.DDPMScheduler, exact=dtype == torch.float64).add_noise(x_0, eps, t)
    found = add_noise(x_0, eps, t, SCHEDULE)
    assert found.dtype == dtype
    tolerance = 1e-12 if dtype == torch.float64 else 2e-5  # diffusers' float32 tables
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("omega", (0.0, 0.3, 1.0))
def test_omega_scales_the_noise_only(omega):
    x_0, eps = images(2, shape=(5, 2, 5, 7))
    t = torch.tensor([0, 1, 199, 500, 999])
    alpha_bar = torch.stack([torch.prod(1 - torch.linspace(1e-4, 2e-2, 1000, dtype=torch.float64)[: i + 1]) for i in t])
    alpha_bar = alpha_bar.view(5, 1, 1, 1)
    expected = alpha_bar.sqrt() * x_0 + omega * (1 - alpha_bar).sqrt() * eps
    torch.testing.assert_close(add_noise(x_0, eps, t, SCHEDULE, omega), expected, rtol=1e-12, atol=1e-12)


X_0, EPS = images(2)
REFUSED = [
    (lambda: add_noise(X_0, EPS[:, :1], full(1), SCHEDULE), "eps has shape"),
    (lambda: add_noise(X_0, EPS, full(1, batch=3), SCHEDULE), r"t must be int64 \[2\]"),
    (lambda: add_noise(X_0, EPS, full(1).int(), SCHEDULE), "t must be int64"),
    (lambda: add_noise(X_0, EPS, full(1000), SCHEDULE), "t must lie between 0 and 999"),
    (lambda: add_noise(X_0, EPS, full(-1), SCHEDULE), "t must lie between 0 and 999"),
    (lambda: add_noise(X_0.to(torch.uint8), EPS, full(1), SCHEDULE), "floating-point dtype"),
    (lambda: run([1, 2]), "timesteps must fall strictly"),
    (lambda: run([2, 2]), "timesteps must fall strictly"),
    (lambda: run([2, 1], learned_variance=True), "twice as many output channels"),
    (lambda: run([2, 1], model=lambda x_t, t: x_t[:, :1]), "The model returned shape"),
    (lambda: run([2, 1], clip=0.0), "clip must be positive"),
    (lambda: run([2, 1], guidance=1.0), "guidance pulls x_0 toward a target; give target too"),
    (lambda: run([2, 1], target=X_0[:, :1]), "target has shape"),
]


def run(timesteps: list[int], model: Any = lambda x_t, t: x_t, **arguments: Any) -> Tensor:
    return reverse_process(model, X_0, timesteps, SCHEDULE.ddpm_table(), **arguments)


@pytest.mark.parametrize(("call", "sentence"), REFUSED)
def test_refusals_are_sentences(call, sentence):
    with pytest.raises(ValueError, match=sentence) as caught:
        call()
    assert str(caught.value).endswith(".")


# The whole reverse process.


@dataclass(frozen=True)
class PerStep(Noise):
    """Gaussian noise that depends on t alone, so that diffusers can be given the same."""

    def __call__(self, shape, *, t, seeds, origins=None, extent=None, device=None, dtype=torch.float32):
        return torch.randn(shape, generator=torch.Generator().manual_seed(int(t[0])), dtype=torch.float64).to(dtype)


@pytest.fixture(scope="module")
def unet() -> Any:
    from diffusers.models.unets.unet_2d import UNet2DModel

    torch.manual_seed(0)
    model = UNet2DModel(
        sample_size=16,
        in_channels=2,
        out_channels=2,
        layers_per_block=1,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=8,
    )
    return model.double().eval().requires_grad_(False)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("eta", (0.0, 1.0))
def test_ddim_loop_is_that_of_diffusers(unet, eta, prediction):
    """The model is diffusers' own, whose output is in `.sample`."""
    (x_t,) = images(1, shape=(2, 2, 16, 16))
    theirs = scheduler(scheduling_ddim.DDIMScheduler, prediction_type=prediction, clip_sample=True)
    theirs.set_timesteps(8)
    timesteps, noise = theirs.timesteps.tolist(), PerStep()
    table = SCHEDULE.ddim_table(timesteps, eta, prediction, recompute_epsilon=False, dtype=torch.float64)
    found = reverse_process(unet, x_t, timesteps, table, seeds=torch.tensor([1, 2]), noise=noise)
    expected = x_t
    for t in timesteps:
        z = noise(x_t.shape, t=full(t), seeds=None, dtype=torch.float64) if eta > 0 else None
        expected = theirs.step(unet(expected, t).sample, t, expected, eta=eta, variance_noise=z).prev_sample
    assert expected.isfinite().all() and expected.std() > 0.01
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("learned", (False, True))
def test_ddpm_loop_is_that_of_diffusers(unet, learned, monkeypatch):
    (x_t,) = images(1, shape=(2, 2, 16, 16))
    noise = PerStep()
    variance = "learned_range" if learned else "fixed_large"
    theirs = scheduler(scheduling_ddpm.DDPMScheduler, variance_type=variance, clip_sample=True)
    theirs.set_timesteps(8)
    timesteps = theirs.timesteps.tolist()

    def model(x: Tensor, t: Any) -> Any:
        output = unet(x, t).sample
        return (
            SimpleNamespace(sample=torch.cat([output, output.sin()], 1)) if learned else SimpleNamespace(sample=output)
        )

    table = SCHEDULE.ddpm_table(variance, timesteps=timesteps, dtype=torch.float64)
    found = reverse_process(
        model, x_t, timesteps, table, seeds=torch.tensor([1, 2]), noise=noise, learned_variance=learned
    )
    expected = x_t
    for t in timesteps:
        z = noise(x_t.shape, t=full(t), seeds=None, dtype=torch.float64)
        monkeypatch.setattr(scheduling_ddpm, "randn_tensor", lambda *args, z=z, **kwargs: z)
        expected = theirs.step(model(expected, t).sample, t, expected).prev_sample
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-7)


def test_an_unwanted_variance_is_left_alone():
    doubled = run([5, 4], model=lambda x_t, t: torch.cat([x_t, 100 * x_t], 1))
    assert torch.equal(doubled, run([5, 4], model=lambda x_t, t: x_t))


@pytest.mark.parametrize("model_kind", ("gaussian", "simplex"))
@pytest.mark.parametrize(("start", "count"), ((1, 1), (2, 2), (200, 200), (200, 10), (1000, 25), (500, 1)))
def test_partial_diffusion_with_a_model_that_knows_epsilon_returns_x_0(start, count, model_kind):
    """T' steps: noise at index T' - 1, denoise T' - 1 .. 0. One index too many or too few leaves noise behind."""
    x_0 = images(1)[0].float().clamp(-1, 1)
    seeds = torch.tensor([3, 4])
    noise = Gaussian() if model_kind == "gaussian" else Simplex()
    eps = noise(SHAPE, t=full(start - 1), seeds=seeds)
    x_t = add_noise(x_0, eps, full(start - 1), SCHEDULE)
    timesteps = SCHEDULE.timesteps(start, count)
    seen = []

    def oracle(x: Tensor, t: Tensor) -> Tensor:
        seen.append(t.tolist())
        return eps

    found = reverse_process(oracle, x_t, timesteps, SCHEDULE.ddim_table(timesteps), clip=None)
    torch.testing.assert_close(found, x_0, rtol=0, atol=1e-4)
    assert seen == [[t, t] for t in timesteps] and len(seen) == count


@pytest.mark.parametrize("variance", ("fixed_small", "fixed_large"))
@pytest.mark.parametrize("noise", (None, Simplex()), ids=("gaussian", "simplex"))
def test_a_model_that_knows_x_0_ends_there_whatever_noise_is_added(noise, variance):
    x_0 = images(1)[0].float().clamp(-1, 1)
    seeds = torch.tensor([3, 4])
    x_t = add_noise(x_0, Gaussian()(SHAPE, t=full(99), seeds=seeds), full(99), SCHEDULE)
    timesteps = SCHEDULE.timesteps(100, 20)
    visited = []

    def oracle(x: Tensor, t: Tensor) -> Tensor:
        visited.append(x)
        alpha_bar = SCHEDULE.alpha_bars[t].view(-1, 1, 1, 1)
        return ((x.double() - alpha_bar.sqrt() * x_0) / (1 - alpha_bar).sqrt()).float()

    table = SCHEDULE.ddpm_table(variance, timesteps=timesteps)
    found = reverse_process(oracle, x_t, timesteps, table, seeds=seeds, noise=noise)
    torch.testing.assert_close(found, x_0, rtol=0, atol=1e-4)
    # On the way the images carry noise, other for other seeds; without seeds they carry none of the steps'.
    ways = [visited]
    for other in (seeds + 1, None):
        visited = []
        reverse_process(oracle, x_t, timesteps, table, seeds=other, noise=noise)
        ways.append(visited)
    for a, b in ((0, 1), (0, 2)):
        assert (ways[a][10] - ways[b][10]).abs().max() > 1e-3


def reverse_noise(
    t: int, seeds: Tensor, noise: Noise | None, shape: tuple[int, ...], origins: Tensor | None = None
) -> Tensor:
    """z of one step at t, from the difference that it makes."""
    x_t = torch.zeros(shape, dtype=torch.float64)
    table = SCHEDULE.ddpm_table("fixed_large", dtype=torch.float64)
    arguments = (lambda x, t: torch.zeros_like(x), x_t, [t], table)
    found = reverse_process(*arguments, seeds=seeds, noise=noise, origins=origins) - reverse_process(*arguments)
    return found / SCHEDULE.betas[t].sqrt()


@pytest.mark.parametrize("noise", (None, Gaussian(), Simplex(normalize="unit")), ids=("default", "gaussian", "simplex"))
def test_reverse_noise_is_of_its_kind_and_not_the_forward_noise(noise):
    shape, seeds = (64, 1, 32, 32), torch.arange(64)
    z = reverse_noise(500, seeds, noise, shape)
    forward = (noise or Gaussian())(shape, t=full(500, 64), seeds=seeds, dtype=torch.float64)
    assert float(z.std()) == pytest.approx(1, abs=0.12)
    neighbours = float((z[..., 1:] * z[..., :-1]).mean() / z.square().mean())
    assert neighbours > 0.5 if isinstance(noise, Simplex) else abs(neighbours) < 0.02
    correlations = torch.stack(
        [torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1] for a, b in zip(z, forward, strict=True)]
    )
    assert abs(float(correlations.mean())) < 4 * float(correlations.std()) / 8
    assert correlations.abs().max() < 0.95
    assert not torch.allclose(z, reverse_noise(501, seeds, noise, shape), atol=1e-3)
    # Addressed: alone as in the batch, and in a tile as in the image.
    torch.testing.assert_close(reverse_noise(500, seeds[7:8], noise, (1, 1, 32, 32)), z[7:8], rtol=0, atol=1e-12)
    tile = reverse_noise(500, seeds, noise, (64, 1, 9, 20), origins=torch.tensor([[11, 5]]).expand(64, 2))
    torch.testing.assert_close(tile, z[:, :, 11:20, 5:25], rtol=0, atol=1e-12)


def test_the_result_does_not_know_the_batch(unet):
    (x_t,) = images(1, shape=(3, 2, 16, 16))
    seeds = torch.tensor([5, -6, 7])
    timesteps = SCHEDULE.timesteps(300, 4)
    table = SCHEDULE.ddim_table(timesteps, 1.0, dtype=torch.float64)
    together = reverse_process(unet, x_t, timesteps, table, seeds=seeds)
    for i in range(3):
        alone = reverse_process(unet, x_t[i : i + 1], timesteps, table, seeds=seeds[i : i + 1])
        torch.testing.assert_close(alone[0], together[i], rtol=0, atol=1e-9)
