"""PyPI `opensimplex`: the lattice that the papers use. Its generators are seeded beforehand, which favours it.

Without numba it is plain Python and takes minutes, so it is timed only with it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...ops._opensimplex import channel_seeds
from ...ops.kts_noise import patch_wavelengths
from . import Arguments, Peer

NEEDS = ("opensimplex", "numba")


def _generators(seeds: Tensor) -> list[Any]:
    from opensimplex import OpenSimplex

    return [OpenSimplex(seed) for seed in seeds.reshape(-1).tolist()]


def grid(arguments: Arguments) -> Callable[[], Tensor]:
    """`noise2array`, `noise3array` or `noise4array`, looped over samples and octaves (and channels, where each has a lattice)."""
    a = arguments
    dims, channels = a.get("dims", 4), a["channels"]
    seeds = a["seeds"] if dims == 4 else channel_seeds(a["seeds"], channels)
    generators = _generators(seeds)
    x, y = (np.arange(a[side], dtype=float) for side in ("width", "height"))
    shape = (len(a["seeds"]), channels, a["height"], a["width"])
    steps = a["t"].tolist()
    octaves = [(a["wavelength"] / 2**k, a["persistence"] ** k) for k in range(a["octaves"])]

    def field(generator: Any, t: int, wavelength: float) -> np.ndarray:
        if dims == 2:
            return generator.noise2array(x / wavelength, y / wavelength)
        last = np.array([t / wavelength])
        if dims == 3:
            return generator.noise3array(x / wavelength, y / wavelength, last)
        return generator.noise4array(x / wavelength, y / wavelength, np.arange(channels) / wavelength, last)

    def call() -> Tensor:
        out = np.zeros(shape, np.float32)
        maps = out if dims == 4 else out.reshape(-1, *shape[2:])
        for i, generator in enumerate(generators):
            t = steps[i if dims == 4 else i // channels]
            for wavelength, amplitude in octaves:
                maps[i] += amplitude * field(generator, t, wavelength).reshape(maps[i].shape)
        return torch.from_numpy(out)

    return call


def sum_with_gaussian(arguments: Arguments) -> Callable[[], Tensor]:
    """Tsg as its formula has it: a tensor of Tsimplex and one of `torch.randn`."""
    tsimplex = grid(arguments)
    alpha = (1 - arguments["t"] / arguments["steps"]).float().view(-1, 1, 1, 1)

    def call() -> Tensor:
        simplex = tsimplex()
        return alpha * simplex + (1 - alpha) * torch.randn(simplex.shape)

    return call


def patches(arguments: Arguments) -> Callable[[], Tensor]:
    """KTs: `noise4array` looped over samples, patches and octaves."""
    a = arguments
    size, height, width = a["patch"], a["height"], a["width"]
    full = (a["full_height"], a["full_width"])
    generators, steps = _generators(a["seeds"]), a["t"].tolist()
    channel = np.arange(a["channels"], dtype=float)
    corners = list(itertools.product(range(0, height, size), range(0, width, size)))
    at = torch.tensor(corners)
    wavelengths = patch_wavelengths(at[:, 0], at[:, 1], *full, a["wavelength"], a["sigma"], size).tolist()
    octaves = [(2**k, a["persistence"] ** k) for k in range(a["octaves"])]

    def call() -> Tensor:
        out = np.zeros((len(generators), a["channels"], height, width), np.float32)
        for sample, generator, t in zip(out, generators, steps, strict=True):
            for (top, left), wavelength in zip(corners, wavelengths, strict=True):
                y, x = np.arange(top, min(top + size, height)), np.arange(left, min(left + size, width))
                for scale, amplitude in octaves:
                    f = scale / wavelength
                    field = generator.noise4array(x * f, y * f, channel * f, np.array([t * f]))
                    sample[:, top : top + size, left : left + size] += amplitude * field[0]
        return torch.from_numpy(out)

    return call


def point_by_point(arguments: Arguments) -> Callable[[], Tensor]:
    """`noise2`, `noise3` or `noise4` for one point after the other: all that the package offers for points in general position."""
    points = arguments["points"].double()
    generators = _generators(arguments["seeds"])
    coordinates = [sample.tolist() for sample in points]
    name = f"noise{points.shape[-1]}"

    def call() -> Tensor:
        out = np.empty(points.shape[:2], np.float32)
        for i, (generator, sample) in enumerate(zip(generators, coordinates, strict=True)):
            noise = getattr(generator, name)
            out[i] = [noise(*point) for point in sample]
        return torch.from_numpy(out)

    return call


def in_a_numba_loop(arguments: Arguments) -> Callable[[], Tensor]:
    """The package's inner function in a compiled loop over points, as someone who looks inside would write it."""
    import numba
    from opensimplex import internals

    points = arguments["points"].double().numpy()
    dims = points.shape[-1]
    value = getattr(internals, f"_noise{dims}")
    tables = [internals._init(seed) for seed in arguments["seeds"].tolist()]

    @numba.njit(parallel=True)
    def two(points, perm, gradients, out):
        for i in numba.prange(len(out)):
            out[i] = value(points[i, 0], points[i, 1], perm)

    @numba.njit(parallel=True)
    def three(points, perm, gradients, out):
        for i in numba.prange(len(out)):
            out[i] = value(points[i, 0], points[i, 1], points[i, 2], perm, gradients)

    @numba.njit(parallel=True)
    def four(points, perm, gradients, out):
        for i in numba.prange(len(out)):
            out[i] = value(points[i, 0], points[i, 1], points[i, 2], points[i, 3], perm)

    fill = {2: two, 3: three, 4: four}[dims]

    def call() -> Tensor:
        out = np.empty(points.shape[:2], np.float32)
        for i, (perm, gradients) in enumerate(tables):
            fill(points[i], perm, gradients, out[i])
        return torch.from_numpy(out)

    return call


NOISE_2_ARRAY = Peer("opensimplex noise2array", grid, NEEDS)
NOISE_3_ARRAY = Peer("opensimplex noise3array", grid, NEEDS)
NOISE_4_ARRAY = Peer("opensimplex noise4array", grid, NEEDS)
TSG = Peer("opensimplex noise4array + torch.randn", sum_with_gaussian, NEEDS)
KTS = Peer("opensimplex noise4array, patch by patch", patches, NEEDS)
POINTS = (
    Peer("opensimplex, point by point", point_by_point, NEEDS),
    Peer("opensimplex in a numba loop", in_a_numba_loop, NEEDS),
)
