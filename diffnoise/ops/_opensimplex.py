"""The OpenSimplex v1 lattice (K. Spencer, 2014) in 2, 3 and 4 dimensions: tables, seeding and the lattice sum."""

from __future__ import annotations

import functools
import itertools

import torch
from torch import Tensor

from ._philox import STREAM_SHIFT, address, uniform

RADIUS_SQUARED = 2.0
STRETCH = {2: (3**-0.5 - 1) / 2, 3: -1 / 6, 4: (5**-0.5 - 1) / 4}
SQUISH = {2: (3**0.5 - 1) / 2, 3: 1 / 3, 4: (5**0.5 - 1) / 4}
NORM = {2: 47.0, 3: 103.0, 4: 30.0}
SHIFT_RANGE = 256.0  # wavelengths: the permutation repeats beyond
# Standard deviation of one octave over positions and seeds, measured; makes `normalize="unit"`.
DEVIATION = {2: 0.3677, 3: 0.3108, 4: 0.2478}

_LCG = (6364136223846793005, 1442695040888963407)
# Golden-ratio step between the seeds of a sample's channels where each channel has a lattice of its own.
_CHANNEL_STEP = 0x9E3779B97F4A7C15 - (1 << 64)


@functools.cache
def gradients(dims: int) -> tuple[tuple[int, ...], ...]:
    """Gradient vectors in the order of the original's tables."""
    if dims == 2:
        return ((5, 2), (2, 5), (-5, 2), (-2, 5), (5, -2), (2, -5), (-5, -2), (-2, -5))
    if dims == 3:
        signs = ((-1, 1, 1), (1, 1, 1), (-1, -1, 1), (1, -1, 1), (-1, 1, -1), (1, 1, -1), (-1, -1, -1), (1, -1, -1))
        large, small = 11, 4
    else:
        signs = tuple(reversed_sign[::-1] for reversed_sign in itertools.product((1, -1), repeat=4))
        large, small = 3, 1
    return tuple(
        tuple(s * (large if axis == long_axis else small) for axis, s in enumerate(sign))
        for sign in signs
        for long_axis in range(dims)
    )


@functools.cache
def reachable_offsets(dims: int) -> tuple[tuple[int, ...], ...]:
    """Lattice offsets from a cell's base point that come closer than the kernel radius to some point of the cell."""
    offsets = torch.tensor(list(itertools.product(range(-2, 4), repeat=dims)), dtype=torch.float64)
    # Minimise |(u - o) + squish sum(u - o)|^2 over u in [0, 1]^n by coordinate descent (strictly convex, so exact).
    quadratic = torch.eye(dims, dtype=torch.float64) + (2 * SQUISH[dims] + dims * SQUISH[dims] ** 2)
    u = torch.full_like(offsets, 0.5)
    for _ in range(200):
        for axis in range(dims):
            gradient = (u - offsets) @ quadratic[axis]
            u[:, axis] = (u[:, axis] - gradient / quadratic[axis, axis]).clamp(0, 1)
    d = u - offsets
    near = ((d @ quadratic) * d).sum(1) < RADIUS_SQUARED
    return tuple(tuple(int(v) for v in row) for row in offsets[near].tolist())


def channel_seeds(seeds: Tensor, channels: int) -> Tensor:
    """int64 [B, C]: the sample's own seed for channel 0, golden-ratio steps from it for the others."""
    return seeds.unsqueeze(1) + torch.arange(channels, device=seeds.device) * _CHANNEL_STEP


def permutations(seeds: Tensor) -> Tensor:
    """The original's seeded shuffle of 0..255: int64 [N] -> int64 [N, 256]."""
    state = seeds
    for _ in range(3):
        state = state * _LCG[0] + _LCG[1]
    source = torch.arange(256, device=seeds.device).repeat(seeds.shape[0], 1)
    shuffled = torch.zeros_like(source)
    for i in range(255, -1, -1):
        state = state * _LCG[0] + _LCG[1]
        r = torch.remainder(state + 31, i + 1).unsqueeze(1)
        shuffled[:, i] = source.gather(1, r).squeeze(1)
        source = source.scatter(1, r, source[:, i : i + 1])
    return shuffled


def _gradient_index(table: Tensor, lattice: list[Tensor]) -> Tensor:
    """Index into `gradients(dims)` for integer lattice coordinates, each int64 [N, P]."""
    h = lattice[0] & 255
    for coordinate in lattice[1:]:
        h = (table.gather(1, h) + coordinate) & 255
    h = table.gather(1, h)
    return {2: (h & 0x0E) >> 1, 3: h % 24, 4: (h & 0xFC) >> 2}[len(lattice)]


def lattice_sum(points: Tensor, table: Tensor) -> Tensor:
    """One octave: sum over all lattice points with r^2 < 2 of (2 - r^2)^4 gradient.offset / norm.

    points: floating [N, P, D]; table: int64 [N, 256] from `permutations`. Returns [N, P].
    """
    dims = points.shape[-1]
    p = points.unbind(-1)
    stretch = sum(p) * STRETCH[dims]
    base = [torch.floor(c + stretch) for c in p]
    vectors = torch.tensor(gradients(dims), dtype=points.dtype, device=points.device)
    total = torch.zeros_like(p[0])
    for offset in reachable_offsets(dims):
        lattice = [b + o for b, o in zip(base, offset, strict=True)]
        squish = sum(lattice) * SQUISH[dims]
        delta = [c - v - squish for c, v in zip(p, lattice, strict=True)]
        attenuation = (RADIUS_SQUARED - sum(d * d for d in delta)).clamp_min(0)
        gradient = vectors[_gradient_index(table, [v.to(torch.int64) for v in lattice])]
        total = total + attenuation**4 * sum(g * d for g, d in zip(gradient.unbind(-1), delta, strict=True))
    return total / NORM[dims]


def octave_shifts(lattice_seeds: Tensor, octaves: int, dims: int) -> Tensor:
    """Where each octave's origin lies when octaves are shifted: float64 [N, octaves, D] in [0, 256) wavelengths."""
    octave = torch.arange(octaves, device=lattice_seeds.device)
    zero = torch.zeros_like(octave)
    words = address(lattice_seeds.unsqueeze(1), zero, zero, octave, zero, STREAM_SHIFT)
    return SHIFT_RANGE * torch.stack([uniform(word, torch.float64) for word in words[:dims]], -1)


def fractal_sum(points: Tensor, lattice_seeds: Tensor, octaves: int, persistence: float, shift: bool) -> Tensor:
    """sum_k persistence^k n(2^k p + s_k) with s = 0 or, when `shift`, `octave_shifts`.

    points: float64 [N, P, D]; lattice_seeds: int64 [N]. Returns [N, P].
    """
    table = permutations(lattice_seeds)
    total = torch.zeros_like(points[..., 0])
    shifts = octave_shifts(lattice_seeds, octaves, points.shape[-1]).unsqueeze(2) if shift else None
    for k in range(octaves):
        at = points * 2.0**k
        total = total + persistence**k * lattice_sum(at if shifts is None else at + shifts[:, k], table)
    return total
