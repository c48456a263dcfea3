"""The KL map as the chain of formulas that the improved-diffusion family of codes runs: 29 operations on whole images, and the mean."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...schedule import Schedule
from . import ANYWHERE, Arguments, Peer
from .steps import compiled, ddpm_tables


def posterior(x_0: Tensor, x_t: Tensor, t: Tensor, tables: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log variance of q(x_{t-1} | x_t, x_0), full size as those codes have them."""
    _, _, c_0, c_t, small, _ = tables[:, t].view(6, -1, 1, 1, 1)
    return c_0 * x_0 + c_t * x_t, small.expand(x_t.shape)


def prediction(x_t: Tensor, eps: Tensor, variance: Tensor, t: Tensor, tables: Tensor) -> dict[str, Tensor]:
    """Of p(x_{t-1} | x_t) with a learned variance and x_0 clipped, all that those codes return."""
    a, b, _, _, small, large = (row.expand(x_t.shape) for row in tables[:, t].view(6, -1, 1, 1, 1))
    share = (variance + 1) / 2
    log_variance = share * large + (1 - share) * small
    all_variance = log_variance.exp()
    x_0 = (a * x_t - b * eps).clamp(-1, 1)
    mean, _ = posterior(x_0, x_t, t, tables)
    return {"mean": mean, "variance": all_variance, "log_variance": log_variance, "x_0": x_0}


def normal_kl(mean_1: Tensor, log_variance_1: Tensor, mean_2: Tensor, log_variance_2: Tensor) -> Tensor:
    """KL of two normal distributions, per value."""
    return 0.5 * (
        -1.0
        + log_variance_2
        - log_variance_1
        + torch.exp(log_variance_1 - log_variance_2)
        + (mean_1 - mean_2) ** 2 * torch.exp(-log_variance_2)
    )


def kl(x_0: Tensor, x_t: Tensor, eps: Tensor, variance: Tensor, t: Tensor, tables: Tensor) -> Tensor:
    """[B, 1, H, W], mean over channels, in nats."""
    true_mean, true_log_variance = posterior(x_0, x_t, t, tables)
    predicted = prediction(x_t, eps, variance, t, tables)
    return normal_kl(true_mean, true_log_variance, predicted["mean"], predicted["log_variance"]).mean(1, keepdim=True)


def _torch(arguments: Arguments, through: Callable[..., Any] | None = None) -> Callable[[], Tensor]:
    a = arguments
    tables = ddpm_tables(Schedule.linear(), a["x_t"])
    chain = through(kl) if through else kl
    return lambda: chain(a["x_0"], a["x_t"], a["model_output"], a["variance"], a["t"], tables)


EAGER = Peer("improved-diffusion's chain in torch", _torch, devices=ANYWHERE)
COMPILED = Peer("torch.compile", lambda a: _torch(a, compiled), devices=ANYWHERE, compiles=True)
