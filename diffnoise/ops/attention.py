"""Self-attention over the pixels of an image."""

from __future__ import annotations

import torch
from torch import Tensor

from . import _check
from ._images import layout, work_dtype
from ._op import op


def _check_arguments(qkv: Tensor, heads: int) -> None:
    _check.image("qkv", qkv)
    if heads < 1 or qkv.shape[1] % (3 * heads):
        raise ValueError(f"qkv must have a multiple of 3 heads channels, but has {qkv.shape[1]} for {heads} heads.")


def _fake(qkv: Tensor, heads: int) -> Tensor:
    batch, channels, height, width = qkv.shape
    return qkv.new_empty((batch, channels // 3, height, width)).contiguous(memory_format=layout(qkv))


@op(_check_arguments, _fake)
def attention(qkv: Tensor, heads: int) -> Tensor:
    """softmax(q k^T / sqrt(d)) v of every head over all pixels, [B, C, H, W].

    qkv: floating, [B, 3 C, H, W]: the queries, keys and values of the first head's d = C / heads channels, then of the next, queries of all
    heads first; half types are computed in float32. The CPU kernel is for heads of few channels. The result has the layout of qkv where that is
    channels_last, which is the fast one, and is contiguous otherwise. Not differentiable. Raises `ValueError` where the channels are
    no multiple of 3 heads. Source: Vaswani et al. 2017.
    """
    batch, channels, height, width = qkv.shape
    q, k, v = qkv.to(work_dtype(qkv.dtype)).reshape(batch, 3, heads, channels // (3 * heads), height * width).unbind(1)
    weights = torch.softmax(q.transpose(2, 3) @ k * q.shape[2] ** -0.5, -1)  # [B, heads, H W of queries, H W of keys]
    result = (v @ weights.transpose(2, 3)).reshape(batch, channels // 3, height, width)
    return result.to(qkv.dtype).contiguous(memory_format=layout(qkv))
