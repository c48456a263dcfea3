"""GroupNorm, scale and shift and SiLU as one writes them in torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from . import ANYWHERE, Arguments, Peer
from .steps import compiled


def norm_silu(x: Tensor, groups: int, weight: Tensor, bias: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """The second norm of a residual block of the ADM family."""
    h = F.group_norm(x, groups, weight, bias)
    return F.silu(h * (1 + scale[:, :, None, None]) + shift[:, :, None, None])


def _torch(arguments: Arguments, through: Callable[..., Any] | None = None) -> Callable[[], Tensor]:
    values, chain = tuple(arguments.values()), through(norm_silu) if through else norm_silu
    return lambda: chain(*values)


EAGER = Peer("torch, op by op", _torch, devices=ANYWHERE)
COMPILED = Peer("torch.compile", lambda a: _torch(a, compiled), devices=ANYWHERE, compiles=True)
