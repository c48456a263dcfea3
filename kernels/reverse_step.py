"""One reverse step in one pass over memory, with its noise made in registers."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..ops._images import layout
from ..ops._philox import STREAM_REVERSE
from ..ops.reverse_step import COLUMNS
from ..ops.reverse_step import reverse_step as op
from . import FP_FUSION, supported
from .philox import normal4

_COLUMNS = tl.constexpr(len(COLUMNS))
_STREAM = tl.constexpr(STREAM_REVERSE)
_GROUPS = 128  # groups of four pixels: with four warps, one 16-byte load of float32 per thread


@triton.jit
def coefficient(table, step, steps, column: tl.constexpr):
    """The table's entry at (step, column). A step outside the table gives NaN: looking at it on the host would synchronise."""
    known = (step >= 0) & (step < steps)
    return tl.load(table + step * _COLUMNS + column, mask=known, other=float("nan")).to(tl.float32)


@triton.jit
def predict_x_0(x, output, table, step, steps):
    return coefficient(table, step, steps, 0) * x + coefficient(table, step, steps, 1) * output


@triton.jit
def clamp(x_0, clip):
    if clip is not None:
        x_0 = tl.clamp(x_0, -clip, clip, propagate_nan=tl.PropagateNan.ALL)
    return x_0


@triton.jit
def _kernel(
    x_t, model_output, t, table, variance, noise, seeds, origins, target, out, clip, guidance,
    steps, channels, height, width, row_groups, blocks, channel_stride, pixel_stride, GROUPS: tl.constexpr,
):  # fmt: skip
    # One program: GROUPS times four neighbours in x, all in one plane, so that the coefficients are scalars.
    program = tl.program_id(0)
    plane = program // blocks
    sample, channel = plane // channels, plane % channels

    group = program % blocks * GROUPS + tl.arange(0, GROUPS)
    y, group = group // row_groups, group % row_groups
    x = group[:, None] * 4 + tl.arange(0, 4)[None, :]
    if origins is not None:  # groups of four start at multiples of four of the whole image, not of the tile
        y_first, x_first = tl.load(origins + 2 * sample), tl.load(origins + 2 * sample + 1)
        x -= (x_first & 3).to(tl.int32)
    inside = (y < height)[:, None] & (x >= 0) & (x < width)
    base = sample.to(tl.int64) * channels * height * width + channel.to(tl.int64) * channel_stride
    pixel = base + (y[:, None] * width + x) * pixel_stride

    step = tl.load(t + sample)
    value = tl.load(x_t + pixel, mask=inside, other=0.0).to(tl.float32)
    output = tl.load(model_output + pixel, mask=inside, other=0.0).to(tl.float32)
    x_0 = predict_x_0(value, output, table, step, steps)
    if target is not None:
        weight = guidance * coefficient(table, step, steps, 9)
        shift = weight * (tl.load(target + pixel, mask=inside, other=0.0).to(tl.float32) - x_0)
        x_0 += shift
    x_prev = (
        coefficient(table, step, steps, 2) * clamp(x_0, clip)
        + coefficient(table, step, steps, 3) * value
        + coefficient(table, step, steps, 4) * output
    )
    if target is not None:
        x_prev += coefficient(table, step, steps, 10) * shift
    if seeds is not None or noise is not None:
        sigma = coefficient(table, step, steps, 5)
        if variance is not None:
            small, large = coefficient(table, step, steps, 6), coefficient(table, step, steps, 7)
            k = (tl.load(variance + pixel, mask=inside, other=0.0).to(tl.float32) + 1) * 0.5
            sigma = sigma * tl.exp(0.5 * (k * large + (1 - k) * small))
        if seeds is not None:
            if origins is not None:
                y = y + y_first
                group = group + (x_first >> 2)
            z = normal4(tl.load(seeds + sample), step, channel, y, group, _STREAM)
        else:
            z = tl.load(noise + pixel, mask=inside, other=0.0).to(tl.float32)
        x_prev += sigma * z
    tl.store(out + pixel, x_prev, mask=inside)


def reverse_step_out(
    x_t: Tensor, model_output: Tensor, t: Tensor, table: Tensor, variance: Tensor | None = None, noise: Tensor | None = None,
    seeds: Tensor | None = None, origins: Tensor | None = None, clip: float | None = None, target: Tensor | None = None,
    guidance: float = 0.0, *, out: Tensor,
) -> None:  # fmt: skip
    """The launcher of `diffnoise.ops.reverse_step` with `out=`: no host synchronisation, so a CUDA graph can capture it."""
    form = layout(x_t)
    if not supported(x_t) or not out.is_contiguous(memory_format=form):
        made = reverse_step if supported(x_t) else op.reference
        out.copy_(made(x_t, model_output, t, table, variance, noise, seeds, origins, clip, target, guidance))
        return
    if out.numel() == 0:
        return
    batch, channels, height, width = x_t.shape
    channel_stride, pixel_stride = (1, channels) if form == torch.channels_last else (height * width, 1)
    if seeds is None:  # rows and channels matter to the noise's address only
        channels, height, width, origins = 1, 1, channels * height * width, None
        channel_stride, pixel_stride = 1, 1
    # A tile may begin inside a group of four.
    row_groups = triton.cdiv(width if origins is None else width + 3, 4)
    blocks = triton.cdiv(height * row_groups, _GROUPS)
    images = [
        None if x is None else x.contiguous(memory_format=form) for x in (x_t, model_output, variance, noise, target)
    ]
    others = [None if x is None else x.contiguous() for x in (t, table, seeds, origins)]
    with torch.cuda.device_of(x_t):
        _kernel[(batch * channels * blocks,)](
            *images[:2], *others[:2], *images[2:4], *others[2:], images[4], out, clip, guidance,
            len(table), channels, height, width, row_groups, blocks, channel_stride, pixel_stride,
            GROUPS=_GROUPS, enable_fp_fusion=FP_FUSION,
        )  # fmt: skip


def reverse_step(
    x_t: Tensor, model_output: Tensor, t: Tensor, table: Tensor, variance: Tensor | None = None, noise: Tensor | None = None,
    seeds: Tensor | None = None, origins: Tensor | None = None, clip: float | None = None, target: Tensor | None = None,
    guidance: float = 0.0,
) -> Tensor:  # fmt: skip
    """The launcher of `diffnoise.ops.reverse_step`."""
    out = torch.empty_like(x_t, memory_format=layout(x_t))
    reverse_step_out(x_t, model_output, t, table, variance, noise, seeds, origins, clip, target, guidance, out=out)
    return out
