"""GroupNorm, scale and shift and SiLU in two passes over memory: moments per channel and piece of the image, then the result."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..ops._images import layout
from ..ops.group_norm_silu import group_norm_silu as op
from . import FP_FUSION, supported

# Values per program, along the memory: channels first, or pixels alone.
_TILE, _CHANNELS = 4096, 64
_CHUNKS = 128


@triton.jit
def _tile(pixels, channels, chunks, stride_b, stride_c, stride_p, PIXELS: tl.constexpr, CHANNELS: tl.constexpr):
    """Sample, piece, first pixel, channels [1, CHANNELS], offsets into the image and which of them exist [PIXELS, CHANNELS]."""
    sample, chunk = tl.program_id(0) // chunks, tl.program_id(0) % chunks
    pixel = chunk * PIXELS + tl.arange(0, PIXELS)[:, None]
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    offset = sample.to(tl.int64) * stride_b + channel.to(tl.int64) * stride_c + pixel.to(tl.int64) * stride_p
    return sample, chunk, channel, offset, (pixel < pixels) & (channel < channels)


@triton.jit
def _moments(
    x, moments, pixels, channels, chunks, first, all_channels, all_moments, stride_b, stride_c, stride_p,
    PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    sample, chunk, channel, offset, inside = _tile(
        pixels, channels, chunks, stride_b, stride_c, stride_p, PIXELS, CHANNELS
    )
    value = tl.load(x + offset, mask=inside, other=0.0).to(tl.float32)
    mean = tl.sum(value, 0, keep_dims=True) / tl.minimum(pixels - chunk * PIXELS, PIXELS)
    deviation = tl.where(inside, value - mean, 0.0)
    to = moments + (sample * chunks + chunk).to(tl.int64) * all_channels + first + channel
    tl.store(to, mean, mask=channel < channels)
    tl.store(to + all_moments, tl.sum(deviation * deviation, 0, keep_dims=True), mask=channel < channels)


@triton.jit
def _coefficients(
    moments, weight, bias, scale, shift, offset, coefficients, pixels, width, groups, chunks, all_moments, set_size, eps,
    PIXELS: tl.constexpr, CHUNKS: tl.constexpr,
):  # fmt: skip
    # One program: a group of a sample. y = (x - mean) factor + shift.
    sample, group = tl.program_id(0) // groups, tl.program_id(0) % groups
    channels = width * groups
    at = sample * channels + group * width
    moments += sample.to(tl.int64) * chunks * channels + group * width
    base = tl.load(moments)
    if offset is not None:
        base += tl.load(offset + at).to(tl.float32)
    difference = 0.0
    squares = 0.0
    # The mean as a small difference from that of one piece, then the squares around it.
    for second in tl.static_range(2):
        for i in range(width):
            moved = base
            if offset is not None:
                moved -= tl.load(offset + at + i).to(tl.float32)
            for start in range(0, chunks, CHUNKS):
                chunk = start + tl.arange(0, CHUNKS)
                size = tl.maximum(tl.minimum(pixels - chunk * PIXELS, PIXELS), 0).to(tl.float32)
                from_ = moments + chunk.to(tl.int64) * channels + i
                d = tl.load(from_, mask=chunk < chunks, other=0.0) - moved
                if second:
                    d -= difference
                    squares += tl.sum(size * d * d + tl.load(from_ + all_moments, mask=chunk < chunks, other=0.0), 0)
                else:
                    difference += tl.sum(size * d, 0) / (width * pixels)
    mean = base + difference
    inverse = 1.0 / tl.sqrt(squares / (width * pixels) + eps)
    for i in range(width):
        factor, constant, centre = inverse, 0.0, mean
        if weight is not None:
            factor *= tl.load(weight + group * width + i).to(tl.float32)
        if bias is not None:
            constant += tl.load(bias + group * width + i).to(tl.float32)
        if scale is not None:
            more = 1 + tl.load(scale + at + i).to(tl.float32)
            factor *= more
            constant *= more
        if shift is not None:
            constant += tl.load(shift + at + i).to(tl.float32)
        if offset is not None:
            centre -= tl.load(offset + at + i).to(tl.float32)
        tl.store(coefficients + at + i, centre)
        tl.store(coefficients + set_size + at + i, factor)
        tl.store(coefficients + 2 * set_size + at + i, constant)


@triton.jit
def _normalize(
    x, coefficients, out, pixels, channels, chunks, first, all_channels, set_size, stride_b, stride_c, stride_p,
    out_b, out_c, out_p, SILU: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    sample, chunk, channel, offset, inside = _tile(
        pixels, channels, chunks, stride_b, stride_c, stride_p, PIXELS, CHANNELS
    )
    value = tl.load(x + offset, mask=inside, other=0.0).to(tl.float32)
    known = channel < channels
    at = coefficients + sample * all_channels + first + channel
    mean = tl.load(at, mask=known, other=0.0)
    factor = tl.load(at + set_size, mask=known, other=0.0)
    y = (value - mean) * factor + tl.load(at + 2 * set_size, mask=known, other=0.0)
    if SILU:
        y = y / (1 + tl.exp(-y))
    pixel = chunk * PIXELS + tl.arange(0, PIXELS)[:, None]
    to = sample.to(tl.int64) * out_b + (first + channel).to(tl.int64) * out_c + pixel.to(tl.int64) * out_p
    tl.store(out + to, y, mask=inside)


def _strides(image: Tensor) -> tuple[int, int, int]:
    """Of sample, channel and pixel, in a dense image of either layout."""
    _, channels, height, width = image.shape
    if layout(image) == torch.channels_last:
        return channels * height * width, 1, channels
    return channels * height * width, height * width, 1


def group_norm_silu(
    x: Tensor, groups: int, weight: Tensor | None = None, bias: Tensor | None = None, scale: Tensor | None = None,
    shift: Tensor | None = None, offset: Tensor | None = None, skip: Tensor | None = None, eps: float = 1e-5, silu: bool = True,
) -> Tensor:  # fmt: skip
    """The launcher of `diffnoise.ops.group_norm_silu`: no host synchronisation, so a CUDA graph can capture it."""
    if not supported(x):
        return op.reference(x, groups, weight, bias, scale, shift, offset, skip, eps, silu)
    form = layout(x)
    parts = [part.contiguous(memory_format=form) for part in (x, skip) if part is not None]
    batch, _, height, width = x.shape
    channels, pixels = sum(part.shape[1] for part in parts), height * width
    out = torch.empty((batch, channels, height, width), dtype=x.dtype, device=x.device, memory_format=form)
    if out.numel() == 0:
        return out
    tile_channels = _CHANNELS if form == torch.channels_last else 1
    tile = {"PIXELS": _TILE // tile_channels, "CHANNELS": tile_channels}
    chunks = triton.cdiv(pixels, tile["PIXELS"])
    moments = x.new_empty((2, batch, chunks, channels), dtype=torch.float32)
    coefficients = x.new_empty((3, batch, channels), dtype=torch.float32)
    small = [None if a is None else a.contiguous() for a in (weight, bias, scale, shift, offset)]
    firsts = [0, x.shape[1]]
    with torch.cuda.device_of(x):
        for part, first in zip(parts, firsts, strict=False):
            grid = (batch * chunks, triton.cdiv(part.shape[1], tile_channels))
            _moments[grid](
                part, moments, pixels, part.shape[1], chunks, first, channels, moments[0].numel(), *_strides(part), **tile,
                enable_fp_fusion=FP_FUSION,
            )  # fmt: skip
        _coefficients[(batch * groups,)](
            moments, *small, coefficients, pixels, channels // groups, groups, chunks, moments[0].numel(), batch * channels,
            eps, PIXELS=tile["PIXELS"], CHUNKS=_CHUNKS, enable_fp_fusion=FP_FUSION,
        )  # fmt: skip
        for part, first in zip(parts, firsts, strict=False):
            grid = (batch * chunks, triton.cdiv(part.shape[1], tile_channels))
            _normalize[grid](
                part, coefficients, out, pixels, part.shape[1], chunks, first, channels, batch * channels, *_strides(part),
                *_strides(out), SILU=silu, **tile, enable_fp_fusion=FP_FUSION,
            )  # fmt: skip
    return out
