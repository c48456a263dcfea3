"""Philox4x32-10 inside a kernel: the twin of diffnoise/ops/_philox.py, integer for integer."""

from __future__ import annotations

import triton
import triton.language as tl

from ..ops._philox import CHANNEL_BITS

_CHANNELS = tl.constexpr(1 << CHANNEL_BITS)


@triton.jit
def address(seed, t, channel, y, x, stream: tl.constexpr):
    """Four uint32 words for every address; the casts keep the low 32 bits, as the reference's masks do."""
    counter_2 = (channel | (stream * _CHANNELS)).to(tl.uint32)
    return tl.philox_impl(
        x.to(tl.uint32), y.to(tl.uint32), counter_2, t.to(tl.uint32), seed.to(tl.uint32), (seed >> 32).to(tl.uint32)
    )  # fmt: skip


@triton.jit
def uniform(word):
    """The top 24 bits as a number in [0, 1), exact."""
    return (word >> 8).to(tl.float32) * 5.9604644775390625e-08  # 2**-24


@triton.jit
def normal_pair(word0, word1):
    """Box and Muller's transform, with the same roundings as the reference up to log, cos and sin."""
    radius = tl.sqrt_rn(-2.0 * tl.log(uniform(word0) + 5.9604644775390625e-08))
    angle = 6.283185307179586 * uniform(word1)
    return radius * tl.cos(angle), radius * tl.sin(angle)


@triton.jit
def normal4(seed, t, channel, y, group, stream: tl.constexpr):
    """N(0, 1) values of the pixels 4 group .. 4 group + 3 of the rows y: y and group are [N], the result is [N, 4]."""
    word0, word1, word2, word3 = address(seed, t, channel, y, group, stream)
    z0, z1 = normal_pair(word0, word1)
    z2, z3 = normal_pair(word2, word3)
    # join puts its arguments along a new last axis, so the pairs are split evenly to come out as 0 1 2 3.
    return tl.reshape(tl.join(tl.join(z0, z2), tl.join(z1, z3)), (group.shape[0], 4))
