"""What the networks on patches have in common: configuration, attention, blocks, and the trunk with long skips."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import ClassEmbedding, no_classes, timestep_embedding
from .model_config import ModelConfig


@dataclass(frozen=True)
class TransformerConfig(ModelConfig):
    """The numbers that make a network on patches.

    image_channels: channels of the images. image_size: their height and width, the only one that the network takes, since every patch
    has a position of its own. patch_size: side of a patch in pixels. width: channels of a token. depth: blocks. heads: attention
    heads. mlp_ratio: channels inside the feed-forward part, as a multiple of the width. learn_variance: 2 x image_channels outputs, the second half
    being v of the learned range. num_classes: classes; None: no classes.
    """

    image_channels: int = 1
    image_size: int = 224
    patch_size: int = 16
    width: int = 384
    depth: int = 6
    heads: int = 6
    mlp_ratio: float = 4.0
    learn_variance: bool = False
    num_classes: int | None = None

    def __post_init__(self) -> None:
        self.check_positive("image_channels", "image_size", "patch_size", "width", "depth", "heads", "num_classes")
        self.check_choices()
        if self.hidden < 1:
            raise ValueError(f"mlp_ratio must make at least one channel of the width, but is {self.mlp_ratio}.")
        if self.image_size % self.patch_size:
            raise ValueError(
                f"image_size must be a multiple of the patch_size of {self.patch_size}, but is {self.image_size}."
            )
        if self.width % 2 or self.width % self.heads:
            raise ValueError(f"width must be even and a multiple of the {self.heads} heads, but is {self.width}.")

    @property
    def size_multiple(self) -> int:
        return self.image_size

    @property
    def hidden(self) -> int:
        """Channels inside the feed-forward part."""
        return int(self.width * self.mlp_ratio)

    @property
    def grid(self) -> int:
        """Patches per side."""
        return self.image_size // self.patch_size

    def check_size(self, height: int, width: int) -> None:
        if (height, width) != (self.image_size, self.image_size):
            raise ValueError(
                f"The model takes images of {self.image_size} x {self.image_size} pixels, not {height} x {width}; "
                "change the frame size, or make a model of another image_size."
            )


class SelfAttention(nn.Module):
    """Multi-head self-attention over tokens, [B, N, D] -> [B, N, D]."""

    def __init__(self, width: int, heads: int, bias: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=bias)
        self.projection = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # [B, heads, N, D / heads]
        return self.projection(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Mlp(nn.Sequential):
    def __init__(self, width: int, hidden: int, approximate: str = "none") -> None:
        super().__init__(nn.Linear(width, hidden), nn.GELU(approximate), nn.Linear(hidden, width))


class TimeMlp(nn.Sequential):
    def __init__(self, width: int) -> None:
        super().__init__(nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, width))


class Block(nn.Module):
    """x + attention(LN(x)), then x + feed_forward(LN(x)); in a block with a long skip x is Linear([x, skip]) first."""

    def __init__(self, width: int, attention: nn.Module, feed_forward: nn.Module, long_skip: bool) -> None:
        super().__init__()
        self.norm_attention, self.attention = nn.LayerNorm(width), attention
        self.norm_feed_forward, self.feed_forward = nn.LayerNorm(width), feed_forward
        if long_skip:
            self.skip = nn.Linear(2 * width, width)

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        if skip is not None:
            x = self.skip(torch.cat([x, skip], 2))
        x = x + self.attention(self.norm_attention(x))
        return x + self.feed_forward(self.norm_feed_forward(x))


class SkipTransformer(nn.Module):
    """epsilon (or x_0, or v) from x_t and t: `model(x_t, t)`, [B, C, S, S] and int64 [B] -> [B, C or 2C, S, S].

    Tokens [time, class, patches], of which class is there only with classes; depth // 2 blocks, one in the middle, and depth // 2 blocks
    with long skips (Bao et al. 2023). With classes `model(x_t, t, class_labels=labels)`, int64 [B] in 0..num_classes, of which the last
    means no class, as does None. Images of another shape raise `ValueError`.
    """

    def __init__(
        self, config: TransformerConfig, patches: nn.Module, time: nn.Module, block: Callable[[bool], Block], refine: nn.Module
    ) -> None:  # fmt: skip
        super().__init__()
        self.config = config
        self.patches, self.time = patches, time  # [B, C, S, S] -> [B, D, S / p, S / p]; [B, D] -> [B, D]
        self.extras = 1
        if config.num_classes is not None:
            self.extras = 2
            self.classes = ClassEmbedding(config.num_classes, config.width)
        self.position = nn.Parameter(torch.zeros(1, self.extras + config.grid**2, config.width))
        half = config.depth // 2
        self.down = nn.ModuleList(block(False) for _ in range(half))
        self.middle = block(False)
        self.up = nn.ModuleList(block(True) for _ in range(half))
        self.norm = nn.LayerNorm(config.width)
        self.pixels = nn.Linear(config.width, config.outputs * config.patch_size**2)
        self.refine = refine
        self.apply(narrow_init)

    def forward(self, x_t: Tensor, t: Tensor, class_labels: Tensor | None = None) -> Tensor:
        config = self.config
        config.check_input(x_t)
        patches = self.patches(x_t).flatten(2).transpose(1, 2)
        tokens = [self.time(timestep_embedding(t, config.width).to(patches.dtype)).unsqueeze(1), patches]
        if config.num_classes is None:
            no_classes(class_labels)
        else:
            tokens.insert(1, self.classes(class_labels, len(x_t)).unsqueeze(1))
        h = torch.cat(tokens, 1) + self.position
        skips = []
        for block in self.down:
            h = block(h)
            skips.append(h)
        h = self.middle(h)
        for block in self.up:
            h = block(h, skips.pop())
        return self.refine(to_image(self.pixels(self.norm(h[:, self.extras :])), config))


def to_image(patches: Tensor, config: TransformerConfig) -> Tensor:
    """[B, N, outputs p^2] -> [B, outputs, S, S], N = (S / p)^2."""
    grid = patches.transpose(1, 2).unflatten(2, (config.grid, config.grid))
    return F.pixel_shuffle(grid, config.patch_size)


def narrow_init(module: nn.Module) -> None:
    """Truncated normal weights of standard deviation 0.02, and no bias, in linear layers."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
