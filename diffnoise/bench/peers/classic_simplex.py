"""Classic 3-D simplex noise with an integer hash, as one would write it in torch for `torch.compile`.

The field has the shape, the octaves and the cost of what torch users write; its values are not those of OpenSimplex. Source of the
formula: S. Gustavson, "Simplex noise demystified", 2005; the hash takes the place of its permutation table.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ...ops._opensimplex import channel_seeds
from . import ANYWHERE, Arguments, Peer

# Odd constants of MurmurHash3 and xxHash, as int32.
PRIMES = (-2048144789, -1028477387, -1640531535)
MIX = 668265263
RADIUS_SQUARED, SCALE = 0.6, 32.0


def corner_term(seed: Tensor, i: Tensor, j: Tensor, k: Tensor, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """(0.6 - r^2)^4 gradient.offset of the lattice corner (i, j, k), one of twelve gradients by its hash."""
    h = seed ^ (i * PRIMES[0]) ^ (j * PRIMES[1]) ^ (k * PRIMES[2])
    h = h * MIX
    h = (h ^ (h >> 15)) & 15
    u = torch.where(h < 8, x, y)
    v = torch.where(h < 4, y, torch.where((h == 12) | (h == 14), x, z))
    dot = torch.where((h & 1) == 0, u, -u) + torch.where((h & 2) == 0, v, -v)
    left = (RADIUS_SQUARED - x * x - y * y - z * z).clamp_min(0)
    left = left * left
    return left * left * dot


def octave(total: Tensor, amplitude: Tensor, x: Tensor, y: Tensor, z: Tensor, seed: Tensor) -> Tensor:
    """total + amplitude noise(x, y, z); the coordinates and the int32 seed broadcast to total's shape."""
    skew = (x + y + z) * (1 / 3)
    i, j, k = (torch.floor(c + skew) for c in (x, y, z))
    unskew = (i + j + k) * (1 / 6)
    x_0, y_0, z_0 = x - i + unskew, y - j + unskew, z - k + unskew
    # From corner to corner along the axes, the longest offset first.
    i_1 = (x_0 >= y_0) & (x_0 >= z_0)
    j_1 = (y_0 > x_0) & (y_0 >= z_0)
    i_2 = (x_0 >= y_0) | (x_0 >= z_0)
    j_2 = (y_0 > x_0) | (y_0 >= z_0)
    steps = ((i_1, j_1, ~(i_1 | j_1)), (i_2, j_2, ~(i_2 & j_2)))
    i, j, k = (c.to(torch.int32) for c in (i, j, k))
    value = corner_term(seed, i, j, k, x_0, y_0, z_0)
    for number, (di, dj, dk) in enumerate(steps, start=1):
        offsets = (c - d.to(c.dtype) + number / 6 for c, d in ((x_0, di), (y_0, dj), (z_0, dk)))
        value = value + corner_term(seed, i + di.int(), j + dj.int(), k + dk.int(), *offsets)
    value = value + corner_term(seed, i + 1, j + 1, k + 1, x_0 - 0.5, y_0 - 0.5, z_0 - 0.5)
    return total + amplitude * SCALE * value


def fractal(arguments: Arguments, add: Callable[..., Tensor]) -> Callable[[], Tensor]:
    """All octaves for the arguments of `simplex_noise` with dims 3, a graph per octave where `add` is compiled."""
    a = arguments
    device, channels = a["seeds"].device, a["channels"]
    seeds = channel_seeds(a["seeds"], channels).to(torch.int32).view(-1, channels, 1, 1)
    x = torch.arange(a["width"], device=device, dtype=torch.float32)
    y = torch.arange(a["height"], device=device, dtype=torch.float32).view(-1, 1)
    z = a["t"].to(torch.float32).view(-1, 1, 1, 1)
    shape = (len(a["seeds"]), channels, a["height"], a["width"])
    # Tensors, because a number would be compiled into a graph of its own for each octave.
    amplitudes = [torch.tensor(a["persistence"] ** k, device=device) for k in range(a["octaves"])]
    scales = [2**k / a["wavelength"] for k in range(a["octaves"])]

    def call() -> Tensor:
        total = torch.zeros(shape, device=device)
        for amplitude, scale in zip(amplitudes, scales, strict=True):
            total = add(total, amplitude, x * scale, y * scale, z * scale, seeds)
        return total

    return call


EAGER = Peer("torch, integer hash", lambda arguments: fractal(arguments, octave), devices=ANYWHERE)
COMPILED = Peer(
    "torch.compile, integer hash",
    lambda arguments: fractal(arguments, torch.compile(octave, fullgraph=True, dynamic=False)),
    devices=ANYWHERE,
    compiles=True,
)
