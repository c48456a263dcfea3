"""DTU-Net (Kumar et al. 2025): U-ViT's trunk with the blocks of DHVT (Lu et al. 2022), head-interaction attention and DAFF."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from .blocks import group_norm
from .transformer import Block, Mlp, SelfAttention, SkipTransformer, TimeMlp, TransformerConfig

Norm = Callable[[int], nn.Module]


@dataclass(frozen=True)
class DTUNetConfig(TransformerConfig):
    """The numbers that make a `DTUNet`, see `TransformerConfig`.

    embedding: patches come from one convolution ("patch", PE) or from log2(patch_size) convolutions of stride 2 ("conv", SPE).
    feed_forward: "mlp", or "daff", convolutions over the grid of patches. norm: of the convolutions, "batch" as published, or "group", which
    unlike it does the same in training and in scoring, whatever the batch. refine: a norm, GELU and a second convolution at the end (no norm
    with "group", which would take level and contrast from every output).
    """

    kind: ClassVar[str] = "dtu_net"

    embedding: Literal["patch", "conv"] = "conv"
    feed_forward: Literal["mlp", "daff"] = "daff"
    norm: Literal["batch", "group"] = "batch"
    refine: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.embedding == "conv" and (
            self.patch_size < 2 or self.patch_size & (self.patch_size - 1) or 2 * self.width % self.patch_size
        ):
            raise ValueError(
                'The embedding "conv" needs a patch_size that is a power of two, from 2 to 2 x width and dividing it, '
                f'but they are {self.patch_size} and {self.width}; use "patch" for others.'
            )


class HeadInteractionAttention(SelfAttention):
    """Self-attention in which each head's mean over the tokens becomes a token of its own, of width D, appended to the others.

    Head i, width d = D / heads: the mean of its d channels over all tokens -> Linear to D -> LayerNorm and GELU of each d channels
    -> + position i. Afterwards the mean of the head tokens is added to the first token, and they are dropped (Lu et al. 2022).
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, heads)
        self.head_projection = nn.Linear(width // heads, width)
        self.head_norm = nn.LayerNorm(width // heads)
        self.head_position = nn.Parameter(torch.zeros(1, heads, width))
        nn.init.trunc_normal_(self.head_position, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        means = x.mean(1).unflatten(1, (self.heads, -1))  # [B, heads, d]
        of_heads = self.head_projection(means).unflatten(2, (self.heads, -1))  # [B, heads, heads, d]
        of_heads = nn.functional.gelu(self.head_norm(of_heads)).flatten(2) + self.head_position
        h, of_heads = super().forward(torch.cat([x, of_heads], 1)).split([x.shape[1], self.heads], 1)
        return torch.cat([h[:, :1] + of_heads.mean(1, keepdim=True), h[:, 1:]], 1)


class Daff(nn.Module):
    """Dynamic aggregation feed-forward (Lu et al. 2022): convolutions over the grid of patches, whose mean gates the other tokens."""

    def __init__(self, width: int, hidden: int, grid: int, norm: Norm) -> None:
        super().__init__()
        self.grid = grid
        self.expand = nn.Sequential(nn.Conv2d(width, hidden, 1), norm(hidden), nn.GELU())
        self.depthwise = nn.Sequential(nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden), norm(hidden), nn.GELU())
        self.contract = nn.Sequential(nn.Conv2d(hidden, width, 1), norm(width))
        self.gate = nn.Sequential(nn.Linear(width, width // 4), nn.GELU(), nn.Linear(width // 4, width))

    def forward(self, x: Tensor) -> Tensor:
        extras, patches = x.split([x.shape[1] - self.grid**2, self.grid**2], 1)
        h = self.expand(patches.transpose(1, 2).unflatten(2, (self.grid, self.grid)))
        h = self.contract(h + self.depthwise(h)).flatten(2)  # [B, D, N]
        return torch.cat([extras * self.gate(h.mean(2)).unsqueeze(1), h.transpose(1, 2)], 1)


class Affine(nn.Module):
    """A factor and an offset for each channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(channels, 1, 1))
        self.offset = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor + self.offset


def conv_embedding(channels: int, width: int, patch_size: int, norm: Norm) -> nn.Sequential:
    """Convolutions of stride 2 to the grid of patches, doubling their channels up to the width; affine before and behind (SPE)."""
    layers: list[nn.Module] = [Affine(channels)]
    for i in reversed(range(int(math.log2(patch_size)))):
        outputs = width // 2**i
        layers += [nn.Conv2d(channels, outputs, 3, stride=2, padding=1, bias=False), norm(outputs)]
        layers += [nn.GELU()] if i else [Affine(outputs)]
        channels = outputs
    return nn.Sequential(*layers)


class DTUNet(SkipTransformer):
    """DTU-Net; called as its base class says.

    The published code puts the class before the time, so that there the head tokens are added to the class; it takes no class at all with
    DAFF, which expects one token beside the patches; and it holds a class token that it never reads.
    """

    def __init__(self, config: DTUNetConfig) -> None:
        width, outputs = config.width, config.outputs
        norm: Norm = nn.BatchNorm2d if config.norm == "batch" else lambda channels: group_norm(channels, 32)

        def block(long_skip: bool) -> Block:
            feed_forward = (
                Mlp(width, config.hidden)
                if config.feed_forward == "mlp"
                else Daff(width, config.hidden, config.grid, norm)
            )
            return Block(width, HeadInteractionAttention(width, config.heads), feed_forward, long_skip)

        if config.embedding == "conv":
            patches: nn.Module = conv_embedding(config.image_channels, width, config.patch_size, norm)
        else:
            patches = nn.Conv2d(config.image_channels, width, config.patch_size, stride=config.patch_size)
        refine: list[nn.Module] = [nn.Conv2d(outputs, outputs, 3, padding=1)]
        if config.refine:
            refine += [norm(outputs)] if config.norm == "batch" else []
            refine += [nn.GELU(), nn.Conv2d(outputs, outputs, 3, padding=1)]
        super().__init__(config, patches, TimeMlp(width), block, nn.Sequential(*refine))
