"""Tsimplex that turns into Gaussian noise as t grows."""

from __future__ import annotations

import torch
from torch import Tensor

from . import _check
from ._op import op
from .gaussian_noise import empty_grid, gaussian_noise
from .simplex_noise import simplex_sum


def _fake(
    seeds: Tensor, t: Tensor, origins: Tensor, channels: int, height: int, width: int,
    steps: int, octaves: int, persistence: float, wavelength: float, gain: float = 1.0, shift: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Tensor:  # fmt: skip
    return empty_grid(seeds, channels, height, width, dtype)


def _check_arguments(
    seeds: Tensor, t: Tensor, origins: Tensor, channels: int, height: int, width: int,
    steps: int, octaves: int, persistence: float, wavelength: float, gain: float = 1.0, shift: bool = False,
    dtype: torch.dtype = torch.float32,
) -> None:  # fmt: skip
    _check.grid(seeds, t, origins, channels, height, width, dtype)
    _check.fractal(octaves, persistence, wavelength)
    if steps < 1:
        raise ValueError(f"steps must be at least 1, but is {steps}.")


@op(_check_arguments, _fake, integers_only=True)
def tsg_noise(
    seeds: Tensor, t: Tensor, origins: Tensor, channels: int, height: int, width: int,
    steps: int, octaves: int, persistence: float, wavelength: float, gain: float = 1.0, shift: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Tensor:  # fmt: skip
    """alpha Tsimplex + (1 - alpha) Gaussian with alpha = 1 - t / steps, [B, C, H, W].

    The Tsimplex part is `simplex_noise` in 4 dimensions, the Gaussian part `gaussian_noise`, both at the same addresses; the
    other arguments are theirs. Raises `ValueError` for other shapes, dtypes or parameters. Source: Kumar et al. 2025
    (DTU-Net), equation 6.
    """
    work = torch.float64 if dtype == torch.float64 else torch.float32
    grid = (seeds, t, origins, channels, height, width)
    alpha = (1 - t.to(torch.float64) / steps).view(-1, 1, 1, 1)
    simplex = simplex_sum(*grid, 4, octaves, persistence, wavelength, gain, shift)
    return (alpha * simplex + (1 - alpha) * gaussian_noise.reference(*grid, dtype=work)).to(dtype)
