"""The UNet of the ADM family (Dhariwal and Nichol 2021)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import Attention, Downsample, ResidualBlock, Upsample, group_norm, norm_silu, timestep_embedding, zero_init


@dataclass(frozen=True)
class UNetConfig:
    """The numbers that make a `UNet`.

    image_channels: channels of the images. channels: width of the first level (16 to 128 are usual); channel_mult: width of each
    level as a multiple of it; every level halves the size. res_blocks: residual blocks per level (one more on the way up).
    attention_levels: levels, 0 being the finest, with attention behind each residual block; the middle always has it.
    patch_size: pixels per side that are folded into channels before the first level (1: none), which makes the network
    patch_size^2 times cheaper. learn_variance: 2 x image_channels outputs, the second half being v of the learned range.
    """

    image_channels: int = 1
    channels: int = 64
    channel_mult: tuple[int, ...] = (1, 2, 4)
    res_blocks: int = 1
    attention_levels: tuple[int, ...] = ()
    head_channels: int = 32
    norm_groups: int = 16
    dropout: float = 0.0
    patch_size: int = 4
    learn_variance: bool = False

    def __post_init__(self) -> None:
        # JSON has lists only.
        object.__setattr__(self, "channel_mult", tuple(self.channel_mult))
        object.__setattr__(self, "attention_levels", tuple(self.attention_levels))
        for name in ("image_channels", "channels", "res_blocks", "head_channels", "norm_groups", "patch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, but is {getattr(self, name)}.")
        if self.channels % 2:
            raise ValueError(
                f"channels must be even, since the time embedding is half cosines and half sines, but is {self.channels}."
            )
        if not self.channel_mult or min(self.channel_mult) < 1:
            raise ValueError(f"channel_mult must hold positive integers, but is {self.channel_mult}.")
        if any(not 0 <= level < len(self.channel_mult) for level in self.attention_levels):
            raise ValueError(
                f"attention_levels must lie in 0..{len(self.channel_mult) - 1}, but is {self.attention_levels}."
            )

    @property
    def size_multiple(self) -> int:
        """Height and width of the images must be multiples of this."""
        return self.patch_size * 2 ** (len(self.channel_mult) - 1)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class UNet(nn.Module):
    """epsilon (or x_0, or v) from x_t and t: `model(x_t, t)`, [B, C, H, W] and int64 [B] -> [B, C or 2C, H, W].

    Any size that `config.size_multiple` divides works; other sizes and channel counts raise `ValueError`.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        widths = [config.channels * mult for mult in config.channel_mult]
        time_channels = 4 * config.channels
        folded = config.patch_size**2
        outputs = config.image_channels * (2 if config.learn_variance else 1)

        def stage(inputs: int, outputs: int, attend: bool) -> nn.ModuleList:
            modules: list[nn.Module] = [
                ResidualBlock(inputs, outputs, time_channels, config.norm_groups, config.dropout)
            ]
            if attend:
                modules.append(Attention(outputs, config.head_channels, config.norm_groups))
            return nn.ModuleList(modules)

        self.time = nn.Sequential(
            nn.Linear(config.channels, time_channels), nn.SiLU(), nn.Linear(time_channels, time_channels), nn.SiLU()
        )
        self.conv_in = nn.Conv2d(config.image_channels * folded, widths[0], 3, padding=1)
        self.down, self.downsample = nn.ModuleList(), nn.ModuleList()
        skips, current = [widths[0]], widths[0]
        for level, width in enumerate(widths):
            for _ in range(config.res_blocks):
                self.down.append(stage(current, width, level in config.attention_levels))
                current = width
                skips.append(current)
            if level + 1 < len(widths):
                self.downsample.append(Downsample(current))
                skips.append(current)
        self.middle = nn.ModuleList([stage(current, current, True), stage(current, current, False)])
        self.up, self.upsample = nn.ModuleList(), nn.ModuleList()
        for level, width in reversed(list(enumerate(widths))):
            for _ in range(config.res_blocks + 1):
                self.up.append(stage(current + skips.pop(), width, level in config.attention_levels))
                current = width
            if level > 0:
                self.upsample.append(Upsample(current))
        self.norm_out = group_norm(current, config.norm_groups)
        self.conv_out = zero_init(nn.Conv2d(current, outputs * folded, 3, padding=1))

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        self.check_input(x_t)
        time = self.time(timestep_embedding(t, self.config.channels).to(self.conv_in.weight.dtype))
        h = self.conv_in(F.pixel_unshuffle(x_t, self.config.patch_size))
        skips = [h]
        down = iter(self.down)
        for level in range(len(self.config.channel_mult)):
            for _ in range(self.config.res_blocks):
                h = _run(next(down), h, time)
                skips.append(h)
            if level < len(self.downsample):
                h = self.downsample[level](h)
                skips.append(h)
        for stage in self.middle:
            h = _run(stage, h, time)
        up, upsample = iter(self.up), iter(self.upsample)
        for level in reversed(range(len(self.config.channel_mult))):
            for _ in range(self.config.res_blocks + 1):
                h = _run(next(up), torch.cat([h, skips.pop()], 1), time)
            if level > 0:
                h = next(upsample)(h)
        return F.pixel_shuffle(self.conv_out(norm_silu(self.norm_out, h)), self.config.patch_size)

    def check_input(self, x_t: Tensor) -> None:
        config = self.config
        if x_t.ndim != 4 or x_t.shape[1] != config.image_channels:
            raise ValueError(
                f"The model takes images of shape [B, {config.image_channels}, H, W], not {list(x_t.shape)}."
            )
        if x_t.shape[2] % config.size_multiple or x_t.shape[3] % config.size_multiple:
            raise ValueError(
                f"The model takes heights and widths that are multiples of {config.size_multiple}, not {x_t.shape[2]} x {x_t.shape[3]}."
            )


def _run(stage: nn.Module, h: Tensor, time: Tensor) -> Tensor:
    residual, *attention = stage  # type: ignore[misc]
    h = residual(h, time)
    for module in attention:
        h = module(h)
    return h
