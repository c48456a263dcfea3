"""Gaussian noise that is addressed, not drawn."""

from __future__ import annotations

import torch
from torch import Tensor

from . import _check
from ._op import op
from ._philox import STREAM_NOISE, address, normal_pair


def pixel_grid(origins: Tensor, channels: int, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Channel, y and x indices that broadcast to [B, C, H, W], int64."""
    device = origins.device
    channel = torch.arange(channels, device=device).view(1, -1, 1, 1)
    y = origins[:, 0].view(-1, 1, 1, 1) + torch.arange(height, device=device).view(1, 1, -1, 1)
    x = origins[:, 1].view(-1, 1, 1, 1) + torch.arange(width, device=device).view(1, 1, 1, -1)
    return channel, y, x


def empty_grid(seeds: Tensor, channels: int, height: int, width: int, dtype: torch.dtype) -> Tensor:
    return seeds.new_empty((seeds.shape[0], channels, height, width), dtype=dtype)


def _fake(
    seeds: Tensor,
    t: Tensor,
    origins: Tensor,
    channels: int,
    height: int,
    width: int,
    stream: int = STREAM_NOISE,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    return empty_grid(seeds, channels, height, width, dtype)


def _check_arguments(
    seeds: Tensor,
    t: Tensor,
    origins: Tensor,
    channels: int,
    height: int,
    width: int,
    stream: int = STREAM_NOISE,
    dtype: torch.dtype = torch.float32,
) -> None:
    _check.grid(seeds, t, origins, channels, height, width, dtype)
    if not 0 <= stream < 256:
        raise ValueError(f"stream must lie in 0..255, but is {stream}.")


@op(_check_arguments, _fake, integers_only=True)
def gaussian_noise(
    seeds: Tensor,
    t: Tensor,
    origins: Tensor,
    channels: int,
    height: int,
    width: int,
    stream: int = STREAM_NOISE,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Independent N(0, 1) values, [B, C, H, W].

    The value at (seed, channel, y, x, t, stream) comes from Philox4x32-10 with the seed as key and the counter
    (x // 4, y, channel + 2**24 stream, t); the four words make four neighbours in x by Box and Muller's transform.

    seeds, t: int64 [B]. origins: int64 [B, 2], the (y, x) of each sample's first pixel. Raises `ValueError` for other
    shapes or dtypes.
    """
    channel, y, x = pixel_grid(origins, channels, height, width)
    work = torch.float64 if dtype == torch.float64 else torch.float32
    words = address(seeds.view(-1, 1, 1, 1), t.view(-1, 1, 1, 1), channel, y, x >> 2, stream)
    four = torch.stack(normal_pair(words[0], words[1], work) + normal_pair(words[2], words[3], work))
    return four.gather(0, (x & 3).expand(four.shape[1:]).unsqueeze(0)).squeeze(0).to(dtype)
