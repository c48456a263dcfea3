"""Gaussian noise from the generators that people use; none of them is addressed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from . import ANYWHERE, Arguments, Peer


def _shape(arguments: Arguments) -> tuple[int, int, int, int]:
    return len(arguments["seeds"]), arguments["channels"], arguments["height"], arguments["width"]


def _fresh(arguments: Arguments) -> Callable[[], Tensor]:
    shape, device = _shape(arguments), arguments["seeds"].device
    return lambda: torch.randn(shape, device=device)


def _out(arguments: Arguments) -> Callable[[], Tensor]:
    out = torch.empty(_shape(arguments), device=arguments["seeds"].device)
    return lambda: torch.randn(out.shape, out=out)


def _numpy(arguments: Arguments) -> Callable[[], np.ndarray]:
    shape, generator = _shape(arguments), np.random.Generator(np.random.SFC64(0))
    return lambda: generator.standard_normal(shape, np.float32)


FRESH = Peer("torch.randn", _fresh, devices=ANYWHERE)
OUT = Peer("torch.randn(out=)", _out, devices=ANYWHERE)
NUMPY = Peer("numpy standard_normal, SFC64", _numpy, lowers=False)
