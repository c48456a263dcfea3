"""Fractal OpenSimplex noise on a pixel grid."""

from __future__ import annotations

import torch
from torch import Tensor

from . import _check
from ._op import op
from ._opensimplex import channel_seeds, fractal_sum
from .gaussian_noise import empty_grid, pixel_grid


def _fake(
    seeds: Tensor, t: Tensor, origins: Tensor, channels: int, height: int, width: int,
    dims: int, octaves: int, persistence: float, wavelength: float, gain: float = 1.0, shift: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Tensor:  # fmt: skip
    return empty_grid(seeds, channels, height, width, dtype)


def _check_arguments(
    seeds: Tensor, t: Tensor, origins: Tensor, channels: int, height: int, width: int,
    dims: int, octaves: int, persistence: float, wavelength: float, gain: float = 1.0, shift: bool = False,
    dtype: torch.dtype = torch.float32,
) -> None:  # fmt: skip
    _check.grid(seeds, t, origins, channels, height, width, dtype)
    _check.fractal(octaves, persistence, wavelength)
    if dims not in (2, 3, 4):
        raise ValueError(f"dims must be 2, 3 or 4, but is {dims}.")


def simplex_sum(
    seeds: Tensor, t: Tensor, origins: Tensor, channels: int, height: int, width: int,
    dims: int, octaves: int, persistence: float, wavelength: float | Tensor, gain: float, shift: bool, period: int = 0,
) -> Tensor:  # fmt: skip
    """`simplex_noise` in float64. wavelength: a number, or float64 that broadcasts to [B, C, H, W]. period: x and y start again at 0
    after so many pixels (0: never)."""
    batch, shape = seeds.shape[0], (seeds.shape[0], channels, height, width)
    channel, y, x = pixel_grid(origins, channels, height, width)
    if period:
        y, x = y % period, x % period
    coordinates = {2: (x, y), 3: (x, y, t.view(-1, 1, 1, 1)), 4: (x, y, channel, t.view(-1, 1, 1, 1))}[dims]
    points = torch.stack([(c.to(torch.float64) / wavelength).expand(shape) for c in coordinates], -1)
    lattice_seeds = seeds.unsqueeze(1).expand(batch, channels) if dims == 4 else channel_seeds(seeds, channels)
    values = fractal_sum(
        points.reshape(batch * channels, height * width, dims), lattice_seeds.reshape(-1), octaves, persistence, shift
    )
    return (gain * values).reshape(shape)


@op(_check_arguments, _fake, integers_only=True)
def simplex_noise(
    seeds: Tensor, t: Tensor, origins: Tensor, channels: int, height: int, width: int,
    dims: int, octaves: int, persistence: float, wavelength: float, gain: float = 1.0, shift: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Tensor:  # fmt: skip
    """Fractal sum of OpenSimplex v1 noise, [B, C, H, W].

    value = gain * sum_k persistence^k n(p 2^k / wavelength + s_k), with p = (x, y) for dims 2, (x, y, t) for dims 3 and
    (x, y, channel, t) for dims 4 (Tsimplex). With 2 and 3 dimensions every channel has a lattice of its own, with 4 all
    channels share the sample's. n is the full sum over lattice points with r^2 < 2 (see `_opensimplex`).

    seeds, t: int64 [B]. origins: int64 [B, 2], the (y, x) of each sample's first pixel. wavelength: pixels of the coarsest
    octave. shift: octave k begins at an origin s_k of its own, drawn from the lattice's seed; without it s_k = 0, as in the papers,
    and the noise is 0 where all coordinates are. Raises `ValueError` for other shapes, dtypes or parameters. Source: Wyatt et al.
    2022 (AnoDDPM), Kumar et al. 2025 (DTU-Net), Algorithm 1.
    """
    return simplex_sum(
        seeds, t, origins, channels, height, width, dims, octaves, persistence, wavelength, gain, shift
    ).to(dtype)
