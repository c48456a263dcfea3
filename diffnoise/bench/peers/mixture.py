"""Gaussian-mixture noise in torch, numpy and scipy, with parameters drawn anew for every call."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from . import ANYWHERE, Arguments, Peer

# exp of less is lost in float32 beside any other value; left to itself it becomes denormal, which makes the peers three times slower.
NEGLIGIBLE = -40.0


def separable(
    weight: Tensor, mu_x: Tensor, mu_y: Tensor, sigma_x: Tensor, sigma_y: Tensor, x: Tensor, y: Tensor
) -> Tensor:
    """f = (w G_y)^T G_x for parameters [B, C, K] and positions x [W], y [H]; [B, C, H, W]."""

    def profile(mu: Tensor, sigma: Tensor, at: Tensor) -> Tensor:
        z = (at - mu.unsqueeze(-1)) / sigma.unsqueeze(-1)
        return torch.exp((-0.5 * z * z).clamp_min(NEGLIGIBLE)) / (sigma.unsqueeze(-1) * math.sqrt(2 * math.pi))

    return (weight.unsqueeze(-1) * profile(mu_y, sigma_y, y)).transpose(-1, -2) @ profile(mu_x, sigma_x, x)


def standardized(*arguments: Tensor) -> Tensor:
    """`separable` with mean 0 and deviation 1 per map, in the fastest way that torch has."""
    field = separable(*arguments)
    return torch.nn.functional.layer_norm(field, field.shape[-2:], eps=0.0)


def _torch(arguments: Arguments, compiled: bool) -> Callable[[], Tensor]:
    a = arguments
    device, low, high = a["seeds"].device, a["sigma_low"], a["sigma_high"]
    side = max(a["full_height"], a["full_width"])
    x, y = (torch.arange(a[name], device=device, dtype=torch.float32) for name in ("width", "height"))
    formula = standardized if a["standardize"] else separable
    formula = torch.compile(formula, fullgraph=True, dynamic=False) if compiled else formula

    def call() -> Tensor:
        drawn = torch.rand(5, len(a["seeds"]), a["channels"], a["components"], device=device)
        sigma = (low + (high - low) * drawn[3:]) * side
        return formula(drawn[0], drawn[1] * a["full_width"], drawn[2] * a["full_height"], *sigma, x, y)

    return call


def _numpy(arguments: Arguments) -> Callable[[], np.ndarray]:
    a = arguments
    low, high = a["sigma_low"], a["sigma_high"]
    side = max(a["full_height"], a["full_width"])
    x, y = (np.arange(a[name], dtype=np.float32) for name in ("width", "height"))
    generator = np.random.default_rng(0)

    def profile(mu: np.ndarray, sigma: np.ndarray, at: np.ndarray) -> np.ndarray:
        z = (at - mu[..., None]) / sigma[..., None]
        return np.exp(np.maximum(-0.5 * z * z, NEGLIGIBLE)) / (sigma[..., None] * math.sqrt(2 * math.pi))

    def call() -> np.ndarray:
        shape = (5, len(a["seeds"]), a["channels"], a["components"])
        weight, mu_x, mu_y, *sigma = generator.random(shape, np.float32)
        sigma_x, sigma_y = ((low + (high - low) * s) * side for s in sigma)
        g_y = weight[..., None] * profile(mu_y * a["full_height"], sigma_y, y)
        field = g_y.swapaxes(-1, -2) @ profile(mu_x * a["full_width"], sigma_x, x)
        if a["standardize"]:
            field -= field.mean((2, 3), keepdims=True)
            field /= field.std((2, 3), keepdims=True)
        return field

    return call


def _scipy(arguments: Arguments) -> Callable[[], np.ndarray]:
    from scipy.stats import multivariate_normal

    a = arguments
    low, high = a["sigma_low"], a["sigma_high"]
    side = max(a["full_height"], a["full_width"])
    points = np.stack(np.mgrid[: a["height"], : a["width"]], -1).astype(float)
    generator = np.random.default_rng(0)

    def call() -> np.ndarray:
        out = np.zeros((len(a["seeds"]), a["channels"], a["height"], a["width"]))
        for map_ in out.reshape(-1, *out.shape[2:]):
            for weight, mu_y, mu_x, *sigma in generator.random((a["components"], 5)):
                deviation = (low + (high - low) * np.array(sigma)) * side
                mean = (mu_y * a["full_height"], mu_x * a["full_width"])
                map_ += weight * multivariate_normal.pdf(points, mean, np.diag(deviation**2))
        return out

    return call


def _write(arguments: Arguments) -> Callable[[], Tensor]:
    a = arguments
    shape = (len(a["seeds"]), a["channels"], a["height"], a["width"])
    return lambda: torch.full(shape, 1.0, device=a["seeds"].device)


EAGER = Peer("torch, separable", lambda arguments: _torch(arguments, compiled=False), devices=ANYWHERE)
COMPILED = Peer(
    "torch.compile, separable",
    lambda arguments: _torch(arguments, compiled=True),
    devices=ANYWHERE,
    compiles=True,
)
NUMPY = Peer("numpy, separable", _numpy, lowers=False)
SCIPY = Peer("scipy.stats.multivariate_normal", _scipy, ("scipy",), lowers=False)
WRITE = Peer("writing the output (torch.full)", _write, devices=ANYWHERE)
