"""Drop-in for the PyPI package `opensimplex` 0.4: `from diffnoise.compat import opensimplex`.

The same names, argument orders, shapes and values: they agree to 1e-12, also in the small steps that the package's noise has
where lattice points enter and leave its sum. Coordinates are taken in float64 (the package adds float32 ones in float32), as
numbers or as one-dimensional arrays or sequences of them. The noise of other ops is the full sum, without those steps: it
differs by up to 3e-4 in 3-D and 1e-3 in 4-D, in a few points.
"""

from __future__ import annotations

import ctypes
import math
import operator
import time
from typing import SupportsFloat, SupportsIndex

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from .. import ops
from ..ops import _native

DEFAULT_SEED = 3

_BLOCK = 1 << 15  # points per call of the op: their coordinates stay in the cache


def _load() -> ctypes.CDLL | None:
    """The compiled kernels' function for one point, which spares the cost of calling an op."""
    if not _native.status().loaded:
        return None
    library = ctypes.CDLL(str(_native.status().path))
    library.diffnoise_permutation.argtypes = [ctypes.c_int64, ctypes.c_char_p]
    library.diffnoise_permutation.restype = None
    library.diffnoise_opensimplex.argtypes = [ctypes.c_char_p, ctypes.c_int, *[ctypes.c_double] * 4]
    library.diffnoise_opensimplex.restype = ctypes.c_double
    return library


_library = _load()


class OpenSimplex:
    """Noise with a seed of its own; any integer, taken modulo 2^64. Raises `TypeError` for a seed that is not an integer."""

    def __init__(self, seed: SupportsIndex) -> None:
        self._seed = seed
        self._wrapped = (operator.index(seed) + (1 << 63)) % (1 << 64) - (1 << 63)
        self._permutation = ctypes.create_string_buffer(256)
        if _library is not None:
            _library.diffnoise_permutation(self._wrapped, self._permutation)

    def get_seed(self) -> SupportsIndex:
        return self._seed

    def noise2(self, x: SupportsFloat, y: SupportsFloat) -> float:
        return self._point(2, x, y, 0, 0)

    def noise3(self, x: SupportsFloat, y: SupportsFloat, z: SupportsFloat) -> float:
        return self._point(3, x, y, z, 0)

    def noise4(self, x: SupportsFloat, y: SupportsFloat, z: SupportsFloat, w: SupportsFloat) -> float:
        return self._point(4, x, y, z, w)

    def noise2array(self, x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
        return self._grid(x=x, y=y)

    def noise3array(self, x: ArrayLike, y: ArrayLike, z: ArrayLike) -> NDArray[np.float64]:
        return self._grid(x=x, y=y, z=z)

    def noise4array(self, x: ArrayLike, y: ArrayLike, z: ArrayLike, w: ArrayLike) -> NDArray[np.float64]:
        return self._grid(x=x, y=y, z=z, w=w)

    def _point(self, dims: int, x: SupportsFloat, y: SupportsFloat, z: SupportsFloat, w: SupportsFloat) -> float:
        point = float(x), float(y), float(z), float(w)
        if _library is not None:
            return _library.diffnoise_opensimplex(self._permutation, dims, *point)
        return float(self._noise(torch.tensor([point[:dims]], dtype=torch.float64)))

    def _noise(self, points: torch.Tensor) -> torch.Tensor:
        """float64 [N, D] -> float64 [N]."""
        return ops.simplex_noise_at(points[None], torch.tensor([self._wrapped]), original=True, dtype=torch.float64)[0]

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
