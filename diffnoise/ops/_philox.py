"""Philox4x32-10, the counter-based generator behind every random number of the package (Salmon et al., SC 2011)."""

from __future__ import annotations

import torch
from torch import Tensor

_MULTIPLIER = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_MASK = 0xFFFFFFFF

# What a draw is for: streams never share a number.
STREAM_NOISE, STREAM_REVERSE, STREAM_MIXTURE, STREAM_SHIFT = 0, 1, 2, 3
CHANNEL_BITS = 24


def philox(
    counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ten rounds of Philox4x32 on int64 tensors that hold uint32 values and broadcast together."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        # The product wraps to the right 64 bits; the shift is arithmetic, so mask the high word.
        p0, p1 = c0 * _MULTIPLIER[0], c2 * _MULTIPLIER[1]
        c0, c1, c2, c3 = ((p1 >> 32) & _MASK) ^ c1 ^ k0, p1 & _MASK, ((p0 >> 32) & _MASK) ^ c3 ^ k1, p0 & _MASK
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return c0, c1, c2, c3


def address(
    seeds: Tensor, t: Tensor, channel: Tensor, y: Tensor, x: Tensor, stream: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Four uint32 words for every address (seed, t, channel, y, x, stream); all arguments are int64 and broadcast."""
    counter = (x & _MASK, y & _MASK, channel | (stream << CHANNEL_BITS), t & _MASK)
    return philox(counter, (seeds & _MASK, (seeds >> 32) & _MASK))


def uniform(word: Tensor, dtype: torch.dtype) -> Tensor:
    """The top 24 bits as a number in [0, 1), exact in float32 and wider."""
    return (word >> 8).to(dtype) * 2.0**-24


def normal_pair(word0: Tensor, word1: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Two independent N(0, 1) numbers by Box and Muller's transform, radius from `word0`, angle from `word1`."""
    radius = torch.sqrt(-2.0 * torch.log(uniform(word0, dtype) + 2.0**-24))
    angle = (2.0 * torch.pi) * uniform(word1, dtype)
    return radius * torch.cos(angle), radius * torch.sin(angle)
