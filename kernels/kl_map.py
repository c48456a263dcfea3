"""The KL map in one pass over memory: the channels are summed in registers."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..ops._images import layout, work_dtype
from ..ops.kl_map import kl_map as op
from . import FP_FUSION, supported
from .reverse_step import clamp, coefficient, predict_x_0

_PIXELS = 512  # with four warps, one 16-byte load of float32 per thread


@triton.jit
def _exp_minus_1_minus(x):
    """exp(x) - 1 - x. The difference cancels near 0, where the power series takes over (its next term is below 2**-24)."""
    series = 1 / 3628800
    series = series * x + 1 / 362880
    series = series * x + 1 / 40320
    series = series * x + 1 / 5040
    series = series * x + 1 / 720
    series = series * x + 1 / 120
    series = series * x + 1 / 24
    series = series * x + 1 / 6
    series = series * x + 1 / 2
    return tl.where(tl.abs(x) < 1, series * x * x, tl.exp(x) - (1 + x))


@triton.jit
def _exp(x):
    """exp(x) for large |x|: the GPU's exp rounds x log2(e), so take the whole powers of two out first, ln 2 in two parts."""
    n = tl.floor(x * 1.4426950408889634 + 0.5)
    return tl.exp(x - n * 0.693359375 + n * 2.12194440054690583e-4) * tl.exp2(n)


@triton.jit
def _kernel(
    x_0, x_t, model_output, t, table, variance, out, clip, steps, channels, pixels, blocks, channel_stride, pixel_stride,
    PIXELS: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    sample = program // blocks
    pixel = program % blocks * PIXELS + tl.arange(0, PIXELS)
    inside = pixel < pixels

    step = tl.load(t + sample)
    c_1 = coefficient(table, step, steps, 2)
    small = coefficient(table, step, steps, 6)
    base = sample.to(tl.int64) * channels * pixels
    total = tl.zeros([PIXELS], tl.float32)
    for channel in range(channels):
        offset = base + channel * channel_stride + pixel * pixel_stride
        truth = tl.load(x_0 + offset, mask=inside, other=0.0).to(tl.float32)
        value = tl.load(x_t + offset, mask=inside, other=0.0).to(tl.float32)
        output = tl.load(model_output + offset, mask=inside, other=0.0).to(tl.float32)
        difference = c_1 * (truth - clamp(predict_x_0(value, output, table, step, steps), clip))
        # gap = l_q - l_p; as k (small - large) it keeps the digits that small - l_p would cancel.
        if variance is None:
            gap = small - coefficient(table, step, steps, 8)
        else:
            k = (tl.load(variance + offset, mask=inside, other=0.0).to(tl.float32) + 1) * 0.5
            gap = k * (small - coefficient(table, step, steps, 7))
        total += _exp_minus_1_minus(gap) + difference * difference * (_exp(-small) * tl.exp(gap))
    tl.store(out + sample.to(tl.int64) * pixels + pixel, 0.5 * total / channels, mask=inside)


def kl_map_out(
    x_0: Tensor,
    x_t: Tensor,
    model_output: Tensor,
    t: Tensor,
    table: Tensor,
    variance: Tensor | None = None,
    clip: float | None = None,
    *,
    out: Tensor,
) -> None:
    """The launcher of `diffnoise.ops.kl_map` with `out=`: no host synchronisation, so a CUDA graph can capture it."""
    if not supported(x_t) or not out.is_contiguous():
        made = kl_map if supported(x_t) else op.reference
        out.copy_(made(x_0, x_t, model_output, t, table, variance, clip))
        return
    if out.numel() == 0:
        return
    batch, channels, height, width = x_t.shape
    form, pixels = layout(x_t), height * width
    strides = (1, channels) if form == torch.channels_last else (pixels, 1)
    blocks = triton.cdiv(pixels, _PIXELS)
    images = [None if x is None else x.contiguous(memory_format=form) for x in (x_0, x_t, model_output, variance)]
    with torch.cuda.device_of(x_t):
        _kernel[(batch * blocks,)](
            *images[:3], t.contiguous(), table.contiguous(), images[3], out, clip, len(table), channels, pixels, blocks, *strides,
            PIXELS=_PIXELS, enable_fp_fusion=FP_FUSION,
        )  # fmt: skip


def kl_map(
    x_0: Tensor,
    x_t: Tensor,
    model_output: Tensor,
    t: Tensor,
    table: Tensor,
    variance: Tensor | None = None,
    clip: float | None = None,
) -> Tensor:
    """The launcher of `diffnoise.ops.kl_map`."""
    out = x_t.new_empty((x_t.shape[0], 1, *x_t.shape[2:]), dtype=work_dtype(x_t.dtype))
    kl_map_out(x_0, x_t, model_output, t, table, variance, clip, out=out)
    return out
