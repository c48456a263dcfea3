"""Gaussian-mixture noise: smooth bumps at random places."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from . import _check
from ._op import op
from ._philox import STREAM_MIXTURE, address, uniform
from .gaussian_noise import empty_grid


def _fake(
    seeds: Tensor, t: Tensor, origins: Tensor, channels: int, height: int, width: int, full_height: int, full_width: int,
    components: int = 50, sigma_low: float = 1 / 64, sigma_high: float = 1 / 8, signed: bool = False, standardize: bool = True,
    dtype: torch.dtype = torch.float32,
) -> Tensor:  # fmt: skip
    return empty_grid(seeds, channels, height, width, dtype)


def _check_arguments(
    seeds: Tensor, t: Tensor, origins: Tensor, channels: int, height: int, width: int, full_height: int, full_width: int,
    components: int = 50, sigma_low: float = 1 / 64, sigma_high: float = 1 / 8, signed: bool = False, standardize: bool = True,
    dtype: torch.dtype = torch.float32,
) -> None:  # fmt: skip
    _check.grid(seeds, t, origins, channels, height, width, dtype)
    if full_height < 1 or full_width < 1:
        raise ValueError(f"full_height and full_width must be at least 1, but are {full_height} and {full_width}.")
    if components < 1:
        raise ValueError(f"components must be at least 1, but is {components}.")
    if not 0 < sigma_low <= sigma_high:
        raise ValueError(
            f"sigma_low and sigma_high must satisfy 0 < sigma_low <= sigma_high, but are {sigma_low} and {sigma_high}."
        )


@op(_check_arguments, _fake, integers_only=True)
def gmm_noise(
    seeds: Tensor, t: Tensor, origins: Tensor, channels: int, height: int, width: int, full_height: int, full_width: int,
    components: int = 50, sigma_low: float = 1 / 64, sigma_high: float = 1 / 8, signed: bool = False, standardize: bool = True,
    dtype: torch.dtype = torch.float32,
) -> Tensor:  # fmt: skip
    """A random mixture of axis-aligned Gaussian bumps per sample and channel, [B, C, H, W].

    f = sum_i w_i N(x; mu_x, sigma_x) N(y; mu_y, sigma_y) with w ~ U[0, 1) (U[-1, 1) when `signed`), mu uniform over the full
    image and sigma ~ U[sigma_low, sigma_high) times its longer side. `standardize` makes mean 0 and deviation 1 over the full
    image, from closed sums, so that a tile equals the crop of the full image. The number of components, the ranges, the
    sign and the scaling are not in the paper: they are ours.

    seeds, t: int64 [B]. origins: int64 [B, 2], the (y, x) of each sample's first pixel inside the full image. Raises
    `ValueError` for other shapes, dtypes or parameters. Source: Fucka et al. 2024, equations 7 and 8.
    """
    work = torch.float64
    device = seeds.device
    side = max(full_height, full_width)
    k = torch.arange(components, device=device)
    at = [axis.view(-1, 1, 1) for axis in (seeds, t)] + [torch.arange(channels, device=device).view(1, -1, 1), k]
    mu_x, mu_y, sigma_x, sigma_y = (uniform(word, work) for word in address(*at, torch.zeros_like(k), STREAM_MIXTURE))
    weight = uniform(address(*at, torch.ones_like(k), STREAM_MIXTURE)[0], work)  # [B, C, K]
    if signed:
        weight = 2 * weight - 1

    def profile(mu: Tensor, sigma: Tensor, positions: Tensor, extent: int) -> Tensor:
        deviation = (sigma_low + (sigma_high - sigma_low) * sigma) * side
        z = (positions - (mu * extent).unsqueeze(-1)) / deviation.unsqueeze(-1)
        return torch.exp(-0.5 * z * z) / (deviation.unsqueeze(-1) * math.sqrt(2 * math.pi))

    def crop(start: Tensor, length: int) -> Tensor:
        return (start.view(-1, 1, 1, 1) + torch.arange(length, device=device)).to(work)

    g_x = profile(mu_x, sigma_x, crop(origins[:, 1], width), full_width)  # [B, C, K, W]
    g_y = weight.unsqueeze(-1) * profile(mu_y, sigma_y, crop(origins[:, 0], height), full_height)  # [B, C, K, H]
    field = g_y.transpose(-1, -2) @ g_x
    if standardize:
        full_x = profile(mu_x, sigma_x, torch.arange(full_width, device=device, dtype=work), full_width)
        full_y = weight.unsqueeze(-1) * profile(
            mu_y, sigma_y, torch.arange(full_height, device=device, dtype=work), full_height
        )
        area = full_height * full_width
        mean = (full_x.sum(-1) * full_y.sum(-1)).sum(-1) / area
        square = ((full_x @ full_x.transpose(-1, -2)) * (full_y @ full_y.transpose(-1, -2))).sum((-1, -2)) / area
        variance = square - mean * mean
        # A constant map (a single pixel, say) has rounding errors for a variance: it becomes 0.
        inverse_deviation = torch.where(variance > 1e-12 * square, variance.rsqrt(), 0)
        field = (field - mean[..., None, None]) * inverse_deviation[..., None, None]
    return field.to(dtype)
