"""One reverse step as diffusers' schedulers do it, and as one writes it in torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...schedule import Schedule
from . import ANYWHERE, Arguments, Peer

STRIDE = 20  # of the DDIM sub-sequence: 50 of 1000 steps


def diffusers_ddpm(arguments: Arguments) -> Callable[[], Tensor]:
    """`DDPMScheduler.step`, which makes its own noise and takes one t for the whole batch."""
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    a = arguments
    output, variance = a["model_output"], a["variance"]
    scheduler = DDPMScheduler(
        trained_betas=Schedule.linear().betas.tolist(),
        variance_type="fixed_small" if variance is None else "learned_range",
    )
    if variance is not None:
        output = torch.cat([output, variance], 1)
    generator = torch.Generator(output.device).manual_seed(0)
    t = int(a["t"][0])
    return lambda: scheduler.step(output, t, a["x_t"], generator=generator).prev_sample


def diffusers_ddim(arguments: Arguments) -> Callable[[], Tensor]:
    """`DDIMScheduler.step` with eta 0."""
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    a = arguments
    betas = Schedule.linear().betas.tolist()
    scheduler = DDIMScheduler(trained_betas=betas)
    scheduler.set_timesteps(len(betas) // STRIDE)
    t = int(a["t"][0])
    return lambda: scheduler.step(a["model_output"], t, a["x_t"]).prev_sample


def ddpm_tables(schedule: Schedule, like: Tensor) -> Tensor:
    """The columns that `ddpm` takes, [6, T]: of x_0 from x_t and eps, of the mean from x_0 and x_t, log beta~ and log beta."""
    ab = schedule.alpha_bars
    previous = torch.cat([ab.new_ones(1), ab[:-1]])
    beta, posterior = schedule.betas, schedule.posterior_variances
    columns = (
        ab.rsqrt(),
        (1 / ab - 1).sqrt(),
        beta * previous.sqrt() / (1 - ab),
        (1 - previous) * (1 - beta).sqrt() / (1 - ab),
        torch.cat([posterior[1:2], posterior[1:]]).log(),
        beta.log(),
    )
    return torch.stack(columns).to(like)


def ddpm(x_t: Tensor, eps: Tensor, noise: Tensor, t: Tensor, tables: Tensor, variance: Tensor | None = None) -> Tensor:
    """The ancestral step of Ho et al. 2020 with the small variance or the learned one of Nichol and Dhariwal 2021."""
    a, b, c_0, c_t, small, large = tables[:, t].view(6, -1, 1, 1, 1)
    x_0 = (a * x_t - b * eps).clamp(-1, 1)
    log_variance = small
    if variance is not None:
        share = (variance + 1) / 2
        log_variance = share * large + (1 - share) * small
    noisy = (t > 0).to(x_t.dtype).view(-1, 1, 1, 1)
    return c_0 * x_0 + c_t * x_t + noisy * torch.exp(0.5 * log_variance) * noise


def ddim_tables(schedule: Schedule, like: Tensor) -> Tensor:
    """alpha_bar at t and one stride before, [2, T]."""
    ab = schedule.alpha_bars
    return torch.stack([ab, torch.cat([ab.new_ones(STRIDE), ab[:-STRIDE]])]).to(like)


def ddim(x_t: Tensor, eps: Tensor, t: Tensor, tables: Tensor) -> Tensor:
    """Song et al. 2021, equation 12, with eta 0 and x_0 clipped."""
    ab, previous = tables[:, t].view(2, -1, 1, 1, 1)
    x_0 = ((x_t - (1 - ab).sqrt() * eps) / ab.sqrt()).clamp(-1, 1)
    return previous.sqrt() * x_0 + (1 - previous).sqrt() * eps


def guided_ddim(x_t: Tensor, eps: Tensor, target: Tensor, guidance: float, t: Tensor, tables: Tensor) -> Tensor:
    """DDIM with the epsilon of Mousakhan et al. 2023, algorithm 1: pulled so that x_0 comes nearer to the target."""
    ab = tables[0, t].view(-1, 1, 1, 1)
    target_t = ab.sqrt() * target + (1 - ab).sqrt() * eps
    return ddim(x_t, eps - guidance * (1 - ab).sqrt() * (target_t - x_t), t, tables)


def compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return torch.compile(function, fullgraph=True, dynamic=False)


def _same(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return function


def torch_ddpm(arguments: Arguments, draw: str, through: Callable[..., Any] = _same) -> Callable[[], Tensor]:
    """`ddpm` with the noise given, drawn by `randn_like` inside, or drawn into a buffer before."""
    a = arguments
    x_t, eps, t, variance = a["x_t"], a["model_output"], a["t"], a["variance"]
    tables = ddpm_tables(Schedule.linear(), x_t)
    if draw == "inside":
        step = through(lambda x_t, eps, t, tables, variance: ddpm(x_t, eps, torch.randn_like(x_t), t, tables, variance))
        return lambda: step(x_t, eps, t, tables, variance)
    step = through(ddpm)
    if draw == "given":
        return lambda: step(x_t, eps, a["noise"], t, tables, variance)
    noise = torch.empty_like(x_t)
    return lambda: step(x_t, eps, torch.randn(noise.shape, out=noise), t, tables, variance)


def torch_ddim(arguments: Arguments, through: Callable[..., Any] = _same) -> Callable[[], Tensor]:
    a = arguments
    tables, step = ddim_tables(Schedule.linear(), a["x_t"]), through(ddim)
    return lambda: step(a["x_t"], a["model_output"], a["t"], tables)


def torch_guided(arguments: Arguments, through: Callable[..., Any] = _same) -> Callable[[], Tensor]:
    a = arguments
    tables, step = ddim_tables(Schedule.linear(), a["x_t"]), through(guided_ddim)
    return lambda: step(a["x_t"], a["model_output"], a["target"], a["guidance"], a["t"], tables)


DIFFUSERS_DDPM = Peer("diffusers DDPMScheduler.step", diffusers_ddpm, ("diffusers",), ANYWHERE)
DIFFUSERS_DDIM = Peer("diffusers DDIMScheduler.step", diffusers_ddim, ("diffusers",), ANYWHERE)
GIVEN = (
    Peer("torch", lambda a: torch_ddpm(a, "given"), devices=ANYWHERE),
    Peer("torch.compile", lambda a: torch_ddpm(a, "given", compiled), devices=ANYWHERE, compiles=True),
)
DRAWN = (
    Peer("torch + randn_like", lambda a: torch_ddpm(a, "inside"), devices=ANYWHERE),
    Peer(
        "torch.compile, randn_like inside", lambda a: torch_ddpm(a, "inside", compiled), devices=ANYWHERE, compiles=True
    ),
    Peer(
        "torch.compile + torch.randn(out=)",
        lambda a: torch_ddpm(a, "before", compiled),
        devices=ANYWHERE,
        compiles=True,
    ),
)
DDIM = (
    Peer("torch", torch_ddim, devices=ANYWHERE),
    Peer("torch.compile", lambda a: torch_ddim(a, compiled), devices=ANYWHERE, compiles=True),
)
GUIDED = (
    Peer("torch", torch_guided, devices=ANYWHERE),
    Peer("torch.compile", lambda a: torch_guided(a, compiled), devices=ANYWHERE, compiles=True),
)
