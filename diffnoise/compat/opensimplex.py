"""Drop-in for the PyPI package `opensimplex` 0.4: `from diffnoise.compat import opensimplex`.

The same names, argument orders and shapes, float64 throughout; any torch thread count gives the same values. Noise is the
full sum over the lattice points in reach. The package leaves a few of them out, so values differ from its by up to 3e-4
in 3-D and 1e-3 in 4-D in a few points (in 2-D by rounding only).
"""

from __future__ import annotations

import math
import operator
import time
from typing import SupportsFloat, SupportsIndex

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from .. import ops

DEFAULT_SEED = 3

_BLOCK = 1 << 16  # points per call of the kernel: their coordinates stay in the cache


class OpenSimplex:
    """Noise with a seed of its own; any integer, taken modulo 2^64. Raises `TypeError` for a seed that is not an integer."""

    def __init__(self, seed: SupportsIndex) -> None:
        self._seed = seed
        wrapped = (operator.index(seed) + (1 << 63)) % (1 << 64) - (1 << 63)
        self._seeds = torch.tensor([wrapped])  # int64 [1]

    def get_seed(self) -> SupportsIndex:
        return self._seed

    def noise2(self, x: SupportsFloat, y: SupportsFloat) -> float:
        return self._point(x, y)

    def noise3(self, x: SupportsFloat, y: SupportsFloat, z: SupportsFloat) -> float:
        return self._point(x, y, z)

    def noise4(self, x: SupportsFloat, y: SupportsFloat, z: SupportsFloat, w: SupportsFloat) -> float:
        return self._point(x, y, z, w)

    def noise2array(self, x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
        return self._grid(x=x, y=y)

    def noise3array(self, x: ArrayLike, y: ArrayLike, z: ArrayLike) -> NDArray[np.float64]:
        return self._grid(x=x, y=y, z=z)

    def noise4array(self, x: ArrayLike, y: ArrayLike, z: ArrayLike, w: ArrayLike) -> NDArray[np.float64]:
        return self._grid(x=x, y=y, z=z, w=w)

    def _noise(self, points: torch.Tensor) -> torch.Tensor:
        """float64 [N, D] -> float64 [N]."""
        return ops.simplex_noise_at(points[None], self._seeds, dtype=torch.float64)[0]

    def _point(self, *point: SupportsFloat) -> float:
        return float(self._noise(torch.tensor([[float(c) for c in point]], dtype=torch.float64)))

    def _grid(self, **coordinates: ArrayLike) -> NDArray[np.float64]:
        axes = [_axis(name, values) for name, values in coordinates.items()]
        *outer, width = shape = tuple(axis.size for axis in reversed(axes))
        height = math.prod(outer)
        out = np.empty(shape)
        rows = out.reshape(height, width)
        step = max(1, _BLOCK // max(width, 1))
        points = np.empty((min(step, height), width, len(axes)))
        points[..., 0] = axes[0]
        for begin in range(0, height, step):
            index = np.unravel_index(np.arange(begin, min(begin + step, height)), outer)  # slowest axis first
            block = points[: index[0].size]
            for axis, i in enumerate(reversed(index), 1):
                block[..., axis] = axes[axis][i, None]
            values = self._noise(torch.from_numpy(block).flatten(0, 1))
            rows[begin : begin + len(block)] = values.numpy().reshape(len(block), width)
        return out


def _axis(name: str, values: ArrayLike) -> NDArray[np.float64]:
    axis = np.asarray(values, dtype=np.float64)
    if axis.ndim != 1:
        raise ValueError(f"{name} must be a one-dimensional array of coordinates, but has shape {list(axis.shape)}.")
    return axis


_default = OpenSimplex(DEFAULT_SEED)


def seed(seed: SupportsIndex = DEFAULT_SEED) -> None:
    """Sets the seed of the module's functions."""
    global _default
    _default = OpenSimplex(seed)


def random_seed() -> None:
    """Sets the seed of the module's functions to the time in nanoseconds."""
    seed(time.time_ns())


def get_seed() -> SupportsIndex:
    """The seed of the module's functions."""
    return _default.get_seed()


def noise2(x: SupportsFloat, y: SupportsFloat) -> float:
    """2-D noise at a point."""
    return _default.noise2(x, y)


def noise2array(x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
    """2-D noise on a grid of one-dimensional arrays of coordinates: [y, x]."""
    return _default.noise2array(x, y)


def noise3(x: SupportsFloat, y: SupportsFloat, z: SupportsFloat) -> float:
    """3-D noise at a point."""
    return _default.noise3(x, y, z)


def noise3array(x: ArrayLike, y: ArrayLike, z: ArrayLike) -> NDArray[np.float64]:
    """3-D noise on a grid of one-dimensional arrays of coordinates: [z, y, x]."""
    return _default.noise3array(x, y, z)


def noise4(x: SupportsFloat, y: SupportsFloat, z: SupportsFloat, w: SupportsFloat) -> float:
    """4-D noise at a point."""
    return _default.noise4(x, y, z, w)


def noise4array(x: ArrayLike, y: ArrayLike, z: ArrayLike, w: ArrayLike) -> NDArray[np.float64]:
    """4-D noise on a grid of one-dimensional arrays of coordinates: [w, z, y, x]."""
    return _default.noise4array(x, y, z, w)
