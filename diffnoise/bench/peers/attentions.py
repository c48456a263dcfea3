"""Attention over pixels as the attention blocks of UNets do it."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from . import ANYWHERE, Arguments, Peer


def sdpa(qkv: Tensor, heads: int) -> Tensor:
    batch, channels, height, width = qkv.shape
    tokens = qkv.permute(0, 2, 3, 1).view(batch, height * width, 3, heads, -1)
    q, k, v = tokens.permute(2, 0, 3, 1, 4).unbind(0)  # [B, heads, H W, head_channels]
    h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, height, width, channels // 3)
    return h.permute(0, 3, 1, 2)


def _torch(arguments: Arguments) -> Callable[[], Tensor]:
    return lambda: sdpa(*arguments.values())


SDPA = Peer("torch scaled_dot_product_attention", _torch, devices=ANYWHERE)
