"""diffnoise itself, called in another way."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from torch import Tensor

from ... import noise, ops
from ...ops._op import Op
from . import ANYWHERE, Arguments, Peer

DIFFERENT_SEEDS = 64


def positional(op: Op, arguments: Arguments) -> Callable[[], Tensor]:
    """The call as a user writes it, without the work of sorting keywords."""
    values = tuple(arguments.values())
    return lambda: op(*values)


def into(op: Op) -> Peer:
    """The same call with memory for its result."""

    def prepare(arguments: Arguments) -> Callable[[], Tensor]:
        values = tuple(arguments.values())
        out = op(*values)
        return lambda: op(*values, out=out)

    return Peer("diffnoise, out=", prepare, devices=ANYWHERE)


def new_seeds(op: Op) -> Peer:
    """Other seeds in every call, so that nothing made from the seeds before can serve."""

    def prepare(arguments: Arguments) -> Callable[[], Tensor]:
        _, *rest = arguments.values()
        seeds = itertools.cycle([arguments["seeds"] + 1000 * i for i in range(1, DIFFERENT_SEEDS + 1)])
        return lambda: op(next(seeds), *rest)

    return Peer(NEW_SEEDS, prepare, devices=ANYWHERE)


def sum_of_tensors(arguments: Arguments) -> Callable[[], Tensor]:
    """Tsg as its formula has it: a tensor of Tsimplex and one of Gaussian noise."""
    a = arguments
    grid = (a["seeds"], a["t"], a["origins"], a["channels"], a["height"], a["width"])
    fractal = (4, a["octaves"], a["persistence"], a["wavelength"])
    alpha = (1 - a["t"] / a["steps"]).float().view(-1, 1, 1, 1)
    return lambda: alpha * ops.simplex_noise(*grid, *fractal) + (1 - alpha) * ops.gaussian_noise(*grid)


def model(noise_model: noise.Noise) -> Peer:
    """The same work through a noise model of `diffnoise.noise`."""

    def prepare(arguments: Arguments) -> Callable[[], Tensor]:
        a = arguments
        shape = (len(a["seeds"]), a["channels"], a["height"], a["width"])
        keywords: dict[str, Any] = {"t": a["t"], "seeds": a["seeds"]}
        return lambda: noise_model(shape, **keywords)

    return Peer(f"diffnoise.noise.{type(noise_model).__name__}", prepare, devices=ANYWHERE)


OURS, NEW_SEEDS = "diffnoise", "diffnoise, new seeds in every call"
SUM_OF_TENSORS = Peer("diffnoise, as a sum of two tensors", sum_of_tensors, devices=ANYWHERE)
