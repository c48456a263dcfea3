"""Fractal OpenSimplex noise at arbitrary points."""

from __future__ import annotations

import torch
from torch import Tensor

from . import _check
from ._op import op
from ._opensimplex import fractal_sum, octave_shifts, permutations
from ._original import original_sum


def _fake(
    points: Tensor,
    seeds: Tensor,
    octaves: int = 1,
    persistence: float = 0.5,
    gain: float = 1.0,
    shift: bool = False,
    original: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    return points.new_empty(points.shape[:2], dtype=dtype)


def _check_arguments(
    points: Tensor,
    seeds: Tensor,
    octaves: int = 1,
    persistence: float = 0.5,
    gain: float = 1.0,
    shift: bool = False,
    original: bool = False,
    dtype: torch.dtype = torch.float32,
) -> None:
    if points.ndim != 3 or points.shape[2] not in (2, 3, 4):
        raise ValueError(f"points must have shape [B, N, D] with D = 2, 3 or 4, but has shape {list(points.shape)}.")
    if points.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"points must be float32 or float64, but is {points.dtype}.")
    _check.per_sample("seeds", seeds, points.shape[0], points)
    _check.fractal(octaves, persistence, 1.0)
    _check.floating("dtype", dtype)


@op(_check_arguments, _fake)
def simplex_noise_at(
    points: Tensor,
    seeds: Tensor,
    octaves: int = 1,
    persistence: float = 0.5,
    gain: float = 1.0,
    shift: bool = False,
    original: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """gain * sum_k persistence^k n(2^k p + s_k) for every point p, [B, N].

    points: float32 or float64 [B, N, D], D = 2, 3 or 4, in units of the coarsest octave's wavelength. seeds: int64 [B]. shift: octave
    k begins at an origin s_k of its own, drawn from the seed, instead of 0. n is OpenSimplex v1 as the full sum over lattice points
    with r^2 < 2 or, with `original`, over those among them that K. Spencer's code looks at: then n is what PyPI's `opensimplex`
    computes, with its small steps. Raises `ValueError` for other shapes, dtypes or parameters.
    """
    points = points.to(torch.float64)
    if not original:
        return (gain * fractal_sum(points, seeds, octaves, persistence, shift)).to(dtype)
    table = permutations(seeds)
    shifts = octave_shifts(seeds, octaves, points.shape[-1]).unsqueeze(2) if shift else None
    total = torch.zeros_like(points[..., 0])
    for k in range(octaves):
        at = points * 2.0**k
        total = total + persistence**k * original_sum(at if shifts is None else at + shifts[:, k], table)
    return (gain * total).to(dtype)
