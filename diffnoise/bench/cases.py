"""What is timed: one row per work, with its shape, its inputs, what it takes at least, and who else does it.

A new op needs a row here; `tests/test_bench.py` asks for it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import anomaly, noise, ops
from ..ops._op import Op
from ..schedule import Schedule
from . import inputs, work
from .inputs import Inputs, Shape
from .peers import (
    Arguments,
    Peer,
    classic_simplex,
    divergence,
    fastnoise,
    filters,
    gaussian,
    mixture,
    norms,
    opensimplex,
    own,
    ranking,
    steps,
)

# The work of the noise papers; on a GPU more of it, so that it does not fit the L2.
FIELD = {"cpu": (16, 1, 224, 224), "cuda": (64, 3, 256, 256)}
IMAGES = {"cpu": (16, 3, 224, 224), "cuda": (64, 3, 224, 224)}
MAPS = {"cpu": (16, 1, 224, 224), "cuda": (64, 1, 224, 224)}
LEVEL = {"cpu": (1, 64, 224, 224), "cuda": (8, 64, 224, 224)}
POINTS = {"cpu": (16, 8192), "cuda": (64, 65536)}
# 67,806 anomalous values among 74 times as many, which are 100 maps of 224 x 224.
RANKS = {"cpu": (2 * 67_806 + 1,), "cuda": (2 * 67_806 + 1,)}
SMALL = {"cpu": (1, 1, 64, 64), "cuda": (1, 1, 64, 64)}

FRACTAL = {"octaves": 6, "persistence": 0.9, "wavelength": 64.0}
FULL = {"full_height": None, "full_width": None}
KTS = FULL | {"octaves": 10, "persistence": 0.8, "wavelength": 128.0, "sigma": 4.0, "patch": 32}
MIXTURE = FULL | {"components": 10, "sigma_low": 1 / 64, "sigma_high": 1 / 8, "signed": False}


@dataclass(frozen=True, eq=False)
class Case:
    """A call of `op` that makes a result of `shapes[device]`.

    operations: see `work`, per value of the result. latency: so small that the call itself is what takes the time.
    """

    name: str
    op: Op
    what: str
    shapes: dict[str, Shape]
    inputs: Inputs
    operations: float
    peers: tuple[Peer, ...] = ()
    latency: bool = False

    def shape(self, device: torch.device) -> Shape:
        return self.shapes[device.type]

    def arguments(self, device: torch.device) -> Arguments:
        return self.inputs(self.shape(device), device)


def read_bytes(arguments: Arguments) -> int:
    """Bytes of the large inputs: images, points and values."""
    tensors = ((name, a) for name, a in arguments.items() if isinstance(a, Tensor))
    return sum(a.nbytes for name, a in tensors if a.ndim > 2 or name == "values")


def written_bytes(shape: Shape) -> int:
    return 4 * math.prod(shape)


def _simplex(dims: int, *peers: Peer) -> Case:
    return Case(
        f"simplex_noise_{dims}d",
        ops.simplex_noise,
        f"{dims}-D, 6 octaves, wavelength 64, persistence 0.9, a seed and a t per sample",
        FIELD,
        inputs.grid(dims=dims, **FRACTAL),
        work.fractal(dims, 6),
        (own.new_seeds(ops.simplex_noise), *peers),
    )


def _mixture(name: str, what: str, standardize: bool, *peers: Peer) -> Case:
    return Case(
        name,
        ops.gmm_noise,
        what,
        FIELD,
        inputs.grid(**MIXTURE, standardize=standardize),
        work.mixture(10, standardize),
        (mixture.WRITE, mixture.COMPILED, mixture.EAGER, mixture.NUMPY, *peers),
    )


def _step(name: str, what: str, arguments: Inputs, operations: float, *peers: Peer) -> Case:
    return Case(name, ops.reverse_step, what, IMAGES, arguments, operations, (own.into(ops.reverse_step), *peers))


def _points(dims: int) -> Case:
    what = f"points in general position, {dims}-D, one octave, a seed per sample"
    return Case(
        f"simplex_noise_at_{dims}d",
        ops.simplex_noise_at,
        what,
        POINTS,
        inputs.points(dims),
        work.at_a_point(dims),
        opensimplex.POINTS,
    )


def _small(name: str, op: Op, parameters: dict[str, Any], model: noise.Noise, *peers: Peer) -> Case:
    what = "one small field, the call itself included"
    return Case(
        f"small_{name}", op, what, SMALL, inputs.grid(**parameters), 0, (own.model(model), *peers), latency=True
    )


def _learned(schedule: Schedule) -> Tensor:
    return schedule.ddpm_table("learned_range")


def _ddim(schedule: Schedule) -> Tensor:
    return schedule.ddim_table(range(0, schedule.steps, steps.STRIDE), recompute_epsilon=False)


CASES = (
    _simplex(
        3,
        opensimplex.NOISE_3_ARRAY,
        classic_simplex.COMPILED,
        classic_simplex.EAGER,
        fastnoise.SIMD,
        fastnoise.LITE,
    ),
    _simplex(4, opensimplex.NOISE_4_ARRAY),
    _simplex(2, opensimplex.NOISE_2_ARRAY),
    Case(
        "tsg_noise",
        ops.tsg_noise,
        "4-D Tsimplex with 6 octaves, and Gaussian noise",
        FIELD,
        inputs.grid(steps=1000, **FRACTAL),
        work.fractal(4, 6) + work.NORMAL + 1,
        (own.SUM_OF_TENSORS, opensimplex.TSG),
    ),
    Case(
        "kts_noise",
        ops.kts_noise,
        "4-D Tsimplex with 10 octaves, wavelengths by patch of 32 pixels",
        FIELD,
        inputs.grid(**KTS),
        work.fractal(4, 10),
        (opensimplex.KTS,),
    ),
    _mixture("gmm_noise", "10 components", False, mixture.SCIPY),
    _mixture("gmm_noise_standardized", "10 components, mean 0 and deviation 1 per map", True),
    Case(
        "gaussian_noise",
        ops.gaussian_noise,
        "independent normal values",
        IMAGES,
        inputs.grid(),
        work.NORMAL,
        (gaussian.FRESH, gaussian.OUT, gaussian.NUMPY),
    ),
    _step(
        "reverse_step_ddpm",
        "DDPM, noise given",
        inputs.step(Schedule.ddpm_table, given=True),
        work.STEP + work.ADD_NOISE,
        *steps.GIVEN,
    ),
    _step(
        "reverse_step_ddpm_noise",
        "DDPM with its noise",
        inputs.step(Schedule.ddpm_table, own=True),
        work.STEP + work.ADD_NOISE + work.NORMAL,
        steps.DIFFUSERS_DDPM,
        *steps.DRAWN,
    ),
    _step(
        "reverse_step_learned",
        "DDPM with learned variance and its noise",
        inputs.step(_learned, own=True, learned=True),
        work.STEP + work.ADD_NOISE + work.LEARNED + work.NORMAL,
        steps.DIFFUSERS_DDPM,
        *steps.DRAWN,
    ),
    _step("reverse_step_ddim", "DDIM, eta 0", inputs.step(_ddim), work.STEP, steps.DIFFUSERS_DDIM, *steps.DDIM),
    _step(
        "reverse_step_guided",
        "DDIM, eta 0, guided toward a target",
        inputs.step(_ddim, guided=True),
        work.STEP + work.GUIDE,
        *steps.GUIDED,
    ),
    Case(
        "kl_map",
        ops.kl_map,
        "learned variance, mean over 3 channels",
        MAPS,
        inputs.divergence(channels=3),
        3 * work.DIVERGENCE,
        (own.into(ops.kl_map), divergence.EAGER, divergence.COMPILED),
    ),
    Case(
        "anomaly_map_mean",
        ops.anomaly_map,
        "squared error, mean filter of 11 x 11 pixels",
        MAPS,
        inputs.residual(anomaly.mean_taps(filters.SIZE)),
        work.SQUARED_ERROR + work.MEAN_FILTER,
        filters.MEAN,
    ),
    Case(
        "anomaly_map_gaussian",
        ops.anomaly_map,
        "squared error, Gaussian filter of sigma 4",
        MAPS,
        inputs.residual(anomaly.gaussian_taps(filters.SIGMA)),
        work.SQUARED_ERROR + work.filter_of(33),
        filters.GAUSSIAN,
    ),
    Case(
        "group_norm_silu",
        ops.group_norm_silu,
        "64 channels in 32 groups, with scale and shift, channels last",
        LEVEL,
        inputs.normalisation(groups=32),
        work.NORM_SILU,
        (norms.EAGER, norms.COMPILED),
    ),
    Case(
        "interval_counts",
        ops.interval_counts,
        "5.02 million pixels between the sorted anomalous ones; beside it the metrics that it is for",
        RANKS,
        inputs.ranks(),
        work.RANK * inputs.VALUES_PER_EDGE / 2,
        (*ranking.COUNTS, *ranking.TOGETHER),
    ),
    _points(3),
    _points(4),
    _points(2),
    _small(
        "simplex_noise_3d",
        ops.simplex_noise,
        {"dims": 3} | FRACTAL,
        noise.Simplex(persistence=0.9),
        opensimplex.NOISE_3_ARRAY,
    ),
    _small("simplex_noise_4d", ops.simplex_noise, {"dims": 4} | FRACTAL, noise.Tsimplex(), opensimplex.NOISE_4_ARRAY),
    _small("tsg_noise", ops.tsg_noise, {"steps": 1000} | FRACTAL, noise.TsimplexGaussian(), opensimplex.TSG),
    _small("kts_noise", ops.kts_noise, KTS, noise.KomalTsimplex(), opensimplex.KTS),
    _small(
        "gmm_noise",
        ops.gmm_noise,
        MIXTURE | {"standardize": True},
        noise.GaussianMixture(components=10),
        mixture.EAGER,
    ),
    _small("gaussian_noise", ops.gaussian_noise, {}, noise.Gaussian(), gaussian.FRESH),
)


def chosen(names: Sequence[str]) -> tuple[Case, ...]:
    """The cases of these names, which are those of cases or of ops; all without a name. Raises `ValueError` for another name."""
    known = {case.name for case in CASES} | {case.op.name for case in CASES}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(
            f"There is nothing to time called {', '.join(unknown)}; `diffnoise bench --list` names what there is."
        )
    return tuple(case for case in CASES if not names or case.name in names or case.op.name in names)
