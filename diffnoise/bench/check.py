"""Whether a kernel's result is right: parts of it against the reference in float64."""

from __future__ import annotations

import inspect
import math
from typing import Any

import torch
from torch import Tensor

from ..doctor import TOLERANCE as TOLERANCE
from ..ops import group_norm_silu, interval_counts
from ..ops._op import Op
from .peers import Arguments

PIXELS, POINTS = 32, 256  # sides of the parts; the reference is slow


def error(op: Op, arguments: Arguments, value: Tensor) -> float:
    """Largest difference from the reference, over the first and the last corner of a result, relative to its largest value.

    Over the whole result where every value depends on all pixels or values. NaN where a value of the whole result is not finite.
    """
    if not bool(value.isfinite().all()):
        return math.nan
    if op in (group_norm_silu, interval_counts):
        corners = [(value.cpu().double(), op.reference(*map(_double, arguments.values())))]
    else:
        corners = [_corner(op, arguments, value, last) for last in (False, True)]
    difference = max(float((found - exact).abs().max()) for found, exact in corners)
    return difference / max(float(exact.abs().max()) for _, exact in corners)


def _double(argument: Any) -> Any:
    return argument.cpu().double() if isinstance(argument, Tensor) else argument


def _corner(op: Op, arguments: Arguments, value: Tensor, last: bool) -> tuple[Tensor, Tensor]:
    """The top left of the first sample, or the bottom right of the last, of the result and of the reference, in float64."""
    sizes = [min(size, PIXELS if value.ndim == 4 else POINTS) for size in value.shape[value.ndim // 2 :]]
    starts = [length - size if last else 0 for length, size in zip(value.shape[value.ndim // 2 :], sizes, strict=True)]
    sample = value.shape[0] - 1 if last else 0
    filtered = "taps" in arguments  # every pixel depends on those around it
    place = tuple(slice(start, start + size) for start, size in zip(starts, sizes, strict=True))

    def part(name: str, argument: Any) -> Any:
        if name in ("height", "width"):
            return sizes[name == "width"]
        if not isinstance(argument, Tensor) or name in ("table", "taps", "scales"):
            return _double(argument)
        argument = argument[sample : sample + 1].cpu()
        if name == "origins":
            return argument + torch.tensor([starts])
        if name == "points":
            return argument[:, place[0]].double()
        return argument[..., *(() if filtered else place)].double() if argument.ndim == 4 else argument

    chosen = {name: part(name, argument) for name, argument in arguments.items()}
    if chosen.get("seeds") is not None and chosen.get("origins", 0) is None:
        chosen["origins"] = torch.tensor([starts])
    if "dtype" in inspect.signature(op.reference).parameters:
        chosen["dtype"] = torch.float64
    exact = op.reference(**chosen)
    exact = exact[..., *place] if filtered else exact
    return value[sample : sample + 1][..., *place].cpu().double(), exact
