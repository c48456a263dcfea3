"""The anomaly map in two kernels: errors summed over channels and scales in registers, and a filter along one axis, run twice."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..ops.anomaly_map import anomaly_map as op
from . import FP_FUSION, supported

_PIXELS = 512  # with four warps, one 16-byte load of float32 per thread


@triton.jit
def _combine(images, x_0, scales, out, count, channels, pixels, blocks, absolute: tl.constexpr, PIXELS: tl.constexpr):
    program = tl.program_id(0)
    sample = (program // blocks).to(tl.int64)
    pixel = program % blocks * PIXELS + tl.arange(0, PIXELS)
    inside = pixel < pixels

    total = tl.zeros([PIXELS], tl.float32)
    for scale in range(count):
        errors = tl.zeros([PIXELS], tl.float32)
        for channel in range(channels):
            at = ((sample * count + scale) * channels + channel) * pixels + pixel
            error = tl.load(images + at, mask=inside, other=0.0).to(tl.float32)
            if x_0 is not None:
                at = (sample * channels + channel) * pixels + pixel
                error = tl.load(x_0 + at, mask=inside, other=0.0).to(tl.float32) - error
                error = tl.abs(error) if absolute else error * error
            errors += error
        errors = errors / channels
        if scales is not None:
            mean = tl.load(scales + 2 * scale).to(tl.float32)
            errors = (errors - mean) / tl.load(scales + 2 * scale + 1).to(tl.float32)
        total += errors
    tl.store(out + sample * pixels + pixel, total / count, mask=inside)


@triton.jit
def _filter(maps, taps, out, size, height, width, blocks, horizontal: tl.constexpr, PIXELS: tl.constexpr):
    program = tl.program_id(0)
    base = (program // blocks).to(tl.int64) * height * width
    pixel = program % blocks * PIXELS + tl.arange(0, PIXELS)
    inside = pixel < height * width
    y, x = pixel // width, pixel % width
    place, length = (x, width) if horizontal else (y, height)

    period = tl.maximum(
        2 * (length - 1), 1
    )  # the border is reflected without repeating its pixel, as often as it takes
    total = tl.zeros([PIXELS], tl.float32)
    for k in range(size):
        i = (place + k - size // 2) % period
        i = tl.where(i < 0, i + period, i)
        i = tl.where(i < length, i, period - i)
        at = y * width + i if horizontal else i * width + x
        total += tl.load(taps + k).to(tl.float32) * tl.load(maps + base + at, mask=inside, other=0.0)
    tl.store(out + base + pixel, total, mask=inside)


def anomaly_map(
    images: Tensor, taps: Tensor, x_0: Tensor | None = None, scales: Tensor | None = None, absolute: bool = False
) -> Tensor:
    """The launcher of `diffnoise.ops.anomaly_map`: no host synchronisation, so a CUDA graph can capture it."""
    if not supported(images):
        return op.reference(images, taps, x_0, scales, absolute)
    batch, channels, height, width = images.shape
    maps = images.new_empty((batch, 1, height, width), dtype=torch.float32)
    if maps.numel() == 0:
        return maps
    count = 1 if scales is None else len(scales)
    blocks = triton.cdiv(height * width, _PIXELS)
    tensors = [None if x is None else x.contiguous() for x in (images, x_0, scales)]
    with torch.cuda.device_of(images):
        _combine[(batch * blocks,)](
            *tensors, maps, count, channels // count, height * width, blocks, absolute=absolute, PIXELS=_PIXELS,
            enable_fp_fusion=FP_FUSION,
        )  # fmt: skip
        for horizontal in (False, True):
            filtered = torch.empty_like(maps)
            _filter[(batch * blocks,)](
                maps, taps.contiguous(), filtered, len(taps), height, width, blocks, horizontal=horizontal, PIXELS=_PIXELS,
                enable_fp_fusion=FP_FUSION,
            )  # fmt: skip
            maps = filtered
    return maps
