"""Bindings of FastNoise: other simplex noises of the same shape, octaves and seeds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from . import Arguments, Peer


def lite(arguments: Arguments) -> Callable[[], np.ndarray]:
    """`pyfastnoiselite`: OpenSimplex2 in scalar C++, one call per sample; the coordinates are made beforehand."""
    from pyfastnoiselite.pyfastnoiselite import FastNoiseLite, FractalType, NoiseType

    a = arguments
    height, width = a["height"], a["width"]
    y, x = np.mgrid[:height, :width].reshape(2, -1).astype(np.float32)
    samples = []
    for seed, t in zip(a["seeds"].tolist(), a["t"].tolist(), strict=True):
        noise = FastNoiseLite(seed=seed % 2**31)
        noise.noise_type, noise.fractal_type = NoiseType.NoiseType_OpenSimplex2, FractalType.FractalType_FBm
        noise.frequency, noise.fractal_octaves, noise.fractal_gain = 1 / a["wavelength"], a["octaves"], a["persistence"]
        samples.append((noise, np.stack([x, y, np.full_like(x, t)])))
    out = np.empty((len(samples), 1, height, width), np.float32)

    def call() -> np.ndarray:
        for sample, (noise, points) in zip(out, samples, strict=True):
            sample[0] = noise.gen_from_coords(points).reshape(height, width)
        return out

    return call


def simd(arguments: Arguments) -> Callable[[], np.ndarray]:
    """`pyfastnoisesimd`: classic simplex in SIMD C++ with threads of its own, one call per sample."""
    # The last release calls a function that NumPy 2 took away; without this it could not be timed at all.
    if not hasattr(np, "product"):
        np.product = np.prod
    import pyfastnoisesimd

    a = arguments
    height, width = a["height"], a["width"]
    samples = []
    for seed, t in zip(a["seeds"].tolist(), a["t"].tolist(), strict=True):
        noise = pyfastnoisesimd.Noise(seed=seed % 2**31, numWorkers=torch.get_num_threads())
        noise.noiseType = pyfastnoisesimd.NoiseType.SimplexFractal
        noise.frequency = 1 / a["wavelength"]
        noise.fractal.octaves, noise.fractal.gain = a["octaves"], a["persistence"]
        samples.append((noise, t))
    out = np.empty((len(samples), 1, height, width), np.float32)

    def call() -> np.ndarray:
        for sample, (noise, t) in zip(out, samples, strict=True):
            sample[:] = noise.genAsGrid(shape=[1, height, width], start=[t, 0, 0])
        return out

    return call


LITE = Peer("pyfastnoiselite, OpenSimplex2", lite, ("pyfastnoiselite",))
SIMD = Peer("pyfastnoisesimd, classic simplex", simd, ("pyfastnoisesimd",), lowers=False)
