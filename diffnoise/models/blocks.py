"""Building blocks of the UNet: embeddings, residual blocks, attention."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import ops


def timestep_embedding(t: Tensor, channels: int, sine_first: bool = False) -> Tensor:
    """(cos, sin) of t at frequencies exp(-ln(10^4) i / half): [B] -> float32 [B, channels] (Dhariwal and Nichol 2021).

    sine_first: (sin, cos), as in Ho et al. 2020.
    """
    half = channels // 2
    frequencies = torch.exp(-math.log(10_000.0) / half * torch.arange(half, device=t.device, dtype=torch.float32))
    angles = t.to(torch.float32).unsqueeze(1) * frequencies
    waves = [angles.cos(), angles.sin()]
    return torch.cat(waves[::-1] if sine_first else waves, 1)


class ClassEmbedding(nn.Embedding):
    """A row for each class and, last, one for no class: int64 [B] in 0..num_classes, or None for no class -> [B, channels]."""

    def __init__(self, num_classes: int, channels: int) -> None:
        super().__init__(num_classes + 1, channels)

    def forward(self, class_labels: Tensor | None, batch: int) -> Tensor:
        if class_labels is None:
            return self.weight[-1].expand(batch, -1)
        if class_labels.shape != (batch,):
            raise ValueError(f"class_labels must have shape [{batch}], but has shape {list(class_labels.shape)}.")
        return super().forward(class_labels)


def no_classes(class_labels: Tensor | None) -> None:
    """Raises `ValueError` for the labels of a network without classes."""
    if class_labels is not None:
        raise ValueError("This model takes no class_labels: its num_classes is None.")


def group_norm(channels: int, groups: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(groups, channels), channels)


def norm_silu(
    norm: nn.GroupNorm, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None, offset: Tensor | None = None,
    silu: bool = True,
) -> Tensor:  # fmt: skip
    return ops.group_norm_silu(
        x, norm.num_groups, norm.weight, norm.bias, scale, shift, offset, eps=norm.eps, silu=silu
    )


def zero_init(module: nn.Conv2d | nn.Linear) -> nn.Conv2d | nn.Linear:
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


class ResidualBlock(nn.Module):
    """GN, SiLU, conv; GN with the time embedding, SiLU, dropout, zero-initialised conv; skip.

    scale_shift: the embedding scales and shifts the second norm (Dhariwal and Nichol 2021); otherwise it is added before it
    (Ho et al. 2020). resize: `halve` or `double`, done to the skip and before the first conv (BigGAN, Brock et al. 2019).
    """

    def __init__(
        self, inputs: int, outputs: int, time_channels: int, groups: int, dropout: float, scale_shift: bool = True,
        resize: Callable[[Tensor], Tensor] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.scale_shift, self.resize = scale_shift, resize
        self.norm_in = group_norm(inputs, groups)
        self.conv_in = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.time = nn.Linear(time_channels, 2 * outputs if scale_shift else outputs)
        self.norm_out = group_norm(outputs, groups)
        self.dropout = nn.Dropout(dropout)
        self.conv_out = zero_init(nn.Conv2d(outputs, outputs, 3, padding=1))
        self.skip = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h = norm_silu(self.norm_in, x)
        if self.resize is not None:
            x, h = self.resize(x), self.resize(h)
        h, time = self.conv_in(h), self.time(time)
        if self.scale_shift:
            scale, shift = time.chunk(2, 1)
            h = norm_silu(self.norm_out, h, scale, shift)
        else:
            h = norm_silu(self.norm_out, h, offset=time)
        return self.skip(x) + self.conv_out(self.dropout(h))


class Attention(nn.Module):
    """Multi-head self-attention over the pixels, with a zero-initialised projection and a skip."""

    def __init__(self, channels: int, head_channels: int, groups: int) -> None:
        super().__init__()
        if channels % head_channels:
            raise ValueError(f"head_channels must divide the {channels} channels of its level, but is {head_channels}.")
        self.heads = channels // head_channels
        self.norm = group_norm(channels, groups)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.projection = zero_init(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        b, c, height, width = x.shape
        qkv = self.qkv(norm_silu(self.norm, x, silu=False)).reshape(b, 3, self.heads, c // self.heads, height * width)
        q, k, v = qkv.transpose(-1, -2).unbind(1)  # [B, heads, H W, head_channels]
        h = F.scaled_dot_product_attention(q, k, v)
        return x + self.projection(h.transpose(-1, -2).reshape(b, c, height, width))


def halve(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 2)


def double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


class Downsample(nn.Conv2d):
    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, stride=2, padding=1)


class Upsample(nn.Conv2d):
    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(double(x))
