"""DiT (Peebles and Xie 2023): a vision transformer whose norms are scaled, shifted and gated by time and class (adaLN-Zero)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from .blocks import ClassEmbedding, no_classes, timestep_embedding, zero_init
from .transformer import Mlp, SelfAttention, TransformerConfig, to_image

TIME_CHANNELS = 256  # sines and cosines of t


@dataclass(frozen=True)
class DiTConfig(TransformerConfig):
    """The numbers that make a `DiT`, see `TransformerConfig`; the defaults are those of DiT-S/8, but for the image."""

    kind: ClassVar[str] = "dit"

    patch_size: int = 8
    depth: int = 12

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % 4:
            raise ValueError(
                f"width must be a multiple of 4, for sines and cosines of rows and columns, but is {self.width}."
            )


class Modulated(nn.Module):
    """LayerNorm without weights, then factor 1 + scale and offset shift."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)

    def forward(self, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        return self.norm(x) * (1 + scale) + shift


class AdaptiveBlock(nn.Module):
    """x + gate attention(LN(x) (1 + scale) + shift), the same with an MLP; the six are SiLU and a zero-initialised Linear of the condition."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.norm_attention, self.attention = Modulated(width), SelfAttention(width, heads, bias=True)
        self.norm_feed_forward, self.feed_forward = Modulated(width), Mlp(width, hidden, approximate="tanh")

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = self.modulation(condition).unsqueeze(1).chunk(6, 2)
        x = x + gate * self.attention(self.norm_attention(x, shift, scale))
        return x + gate_mlp * self.feed_forward(self.norm_feed_forward(x, shift_mlp, scale_mlp))


class DiT(nn.Module):
    """epsilon (or x_0, or v) from x_t and t: `model(x_t, t)`, [B, C, S, S] and int64 [B] -> [B, C or 2C, S, S].

    With classes `model(x_t, t, class_labels=labels)`, int64 [B] in 0..num_classes, of which the last means no class, as does None. Images of another
    shape raise `ValueError`.
    """

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.patches = nn.Conv2d(config.image_channels, width, config.patch_size, stride=config.patch_size)
        self.time = nn.Sequential(nn.Linear(TIME_CHANNELS, width), nn.SiLU(), nn.Linear(width, width))
        if config.num_classes is not None:
            self.classes = ClassEmbedding(config.num_classes, width)
        self.register_buffer("position", grid_embedding(config.grid, width), persistent=False)
        self.blocks = nn.ModuleList(AdaptiveBlock(width, config.heads, config.hidden) for _ in range(config.depth))
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))
        self.norm = Modulated(width)
        self.pixels = nn.Linear(width, config.outputs * config.patch_size**2)
        self._init_weights()

    def _init_weights(self) -> None:
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                nn.init.xavier_uniform_(module.weight.flatten(1))
                nn.init.zeros_(module.bias)
        small = [self.time[0].weight, self.time[2].weight]
        for weight in small + ([self.classes.weight] if self.config.num_classes is not None else []):
            nn.init.normal_(weight, std=0.02)
        for module in [self.pixels, self.modulation[1], *(block.modulation[1] for block in self.blocks)]:
            zero_init(module)

    def forward(self, x_t: Tensor, t: Tensor, class_labels: Tensor | None = None) -> Tensor:
        config = self.config
        config.check_input(x_t)
        h = self.patches(x_t).flatten(2).transpose(1, 2) + self.position
        condition = self.time(timestep_embedding(t, TIME_CHANNELS).to(h.dtype))
        if config.num_classes is None:
            no_classes(class_labels)
        else:
            condition = condition + self.classes(class_labels, len(x_t))
        for block in self.blocks:
            h = block(h, condition)
        shift, scale = self.modulation(condition).unsqueeze(1).chunk(2, 2)
        return to_image(self.pixels(self.norm(h, shift, scale)), config)


def grid_embedding(grid: int, width: int) -> Tensor:
    """(sin, cos) of the column, then of the row, of each patch of a square grid, [1, grid^2, width]."""
    lines = timestep_embedding(torch.arange(grid), width // 2, sine_first=True)
    columns, rows = lines.expand(grid, -1, -1), lines.unsqueeze(1).expand(-1, grid, -1)
    return torch.cat([columns, rows], 2).flatten(0, 1).unsqueeze(0)
