"""Tsimplex whose wavelength falls from the image's centre."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from . import _check
from ._op import op
from .gaussian_noise import empty_grid, pixel_grid
from .simplex_noise import simplex_sum


def _fake(
    seeds: Tensor, t: Tensor, origins: Tensor, channels: int, height: int, width: int, full_height: int, full_width: int,
    octaves: int, persistence: float, wavelength: float, sigma: float, patch: int, local: bool = False,
    exponential: bool = False, dtype: torch.dtype = torch.float32,
) -> Tensor:  # fmt: skip
    return empty_grid(seeds, channels, height, width, dtype)


def _check_arguments(
    seeds: Tensor, t: Tensor, origins: Tensor, channels: int, height: int, width: int, full_height: int, full_width: int,
    octaves: int, persistence: float, wavelength: float, sigma: float, patch: int, local: bool = False,
    exponential: bool = False, dtype: torch.dtype = torch.float32,
) -> None:  # fmt: skip
    _check.grid(seeds, t, origins, channels, height, width, dtype)
    _check.fractal(octaves, persistence, wavelength)
    if full_height < 1 or full_width < 1:
        raise ValueError(f"full_height and full_width must be at least 1, but are {full_height} and {full_width}.")
    if not sigma > 0 or patch < 1:
        raise ValueError(f"sigma must be positive and patch at least 1, but are {sigma} and {patch}.")
    corner = math.hypot(*((-(-length // patch) - 1) / 2 for length in (full_height, full_width))) / sigma
    halvings = corner if exponential else corner * corner / 2 / math.log(2)
    shortest = math.log2(wavelength) - halvings  # its logarithm, which cannot overflow
    # Beyond this the octaves' coordinates have too few digits left behind the point, and in the end they are infinite.
    if math.log2(max(full_height, full_width)) + octaves - 1 > shortest + 36:
        raise ValueError(
            f"The wavelength of KTs falls to {2.0**shortest:.1e} pixels in the corners of a {full_height} x {full_width} image; "
            f"raise sigma, which is {sigma} patches of {patch} pixels."
        )


def patch_wavelengths(
    y: Tensor, x: Tensor, full_height: int, full_width: int, wavelength: float, sigma: float, patch: int,
    exponential: bool = False,
) -> Tensor:  # fmt: skip
    """F of the patches that hold the pixels (y, x), int64 tensors that broadcast; float64, in pixels."""
    square = torch.zeros((), dtype=torch.float64, device=y.device)
    for position, length in ((y, full_height), (x, full_width)):
        patches = -(-length // patch)
        index = position.div(patch, rounding_mode="floor").clamp(0, patches - 1) + 1
        square = square + (index.to(torch.float64) - (patches + 1) / 2) ** 2
    if exponential:
        return wavelength * torch.exp2(-square.sqrt() / sigma)
    return wavelength * torch.exp(-square / (2 * sigma**2))


@op(_check_arguments, _fake, integers_only=True)
def kts_noise(
    seeds: Tensor, t: Tensor, origins: Tensor, channels: int, height: int, width: int, full_height: int, full_width: int,
    octaves: int, persistence: float, wavelength: float, sigma: float, patch: int, local: bool = False,
    exponential: bool = False, dtype: torch.dtype = torch.float32,
) -> Tensor:  # fmt: skip
    """4-D Tsimplex with the wavelength F_ij = wavelength exp(-((i - c_y)^2 + (j - c_x)^2) / (2 sigma^2)), [B, C, H, W].

    (i, j) counts patches of `patch` x `patch` pixels of the full image, 1-based (outside it the nearest patch counts), and c = (number of patches + 1) / 2. local: x and y start
    at 0 in every patch. exponential: F_ij = wavelength 2^(-d / sigma) with d the distance from c, in patches, instead. seeds, t: int64 [B]. origins: int64 [B, 2], the (y, x) of each sample's first pixel inside the full image. Raises
    `ValueError` for other shapes, dtypes or parameters, and for a wavelength that vanishes in the corners. Source: Kumar et
    al. 2025 (DTU-Net), equation 7.
    """
    _, y, x = pixel_grid(origins, channels, height, width)
    f = patch_wavelengths(y, x, full_height, full_width, wavelength, sigma, patch, exponential)  # [B, 1, H, W]
    return simplex_sum(
        seeds, t, origins, channels, height, width, 4, octaves, persistence, f, 1.0, False, patch if local else 0
    ).to(dtype)
