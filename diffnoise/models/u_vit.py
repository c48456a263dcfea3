"""U-ViT (Bao et al. 2023, "All are Worth Words"): a vision transformer with long skips, time and class being tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from .transformer import Block, Mlp, SelfAttention, SkipTransformer, TimeMlp, TransformerConfig


@dataclass(frozen=True)
class UViTConfig(TransformerConfig):
    """The numbers that make a `UViT`, see `TransformerConfig`.

    time_mlp: the time token is an MLP of the sines and cosines of t, instead of these themselves.
    """

    kind: ClassVar[str] = "u_vit"

    time_mlp: bool = False


class UViT(SkipTransformer):
    """U-ViT; called as its base class says."""

    def __init__(self, config: UViTConfig) -> None:
        width = config.width

        def block(long_skip: bool) -> Block:
            return Block(width, SelfAttention(width, config.heads), Mlp(width, config.hidden), long_skip)

        super().__init__(
            config,
            nn.Conv2d(config.image_channels, width, config.patch_size, stride=config.patch_size),
            TimeMlp(width) if config.time_mlp else nn.Identity(),
            block,
            nn.Conv2d(config.outputs, config.outputs, 3, padding=1),
        )
        nn.init.trunc_normal_(self.position, std=0.02)
