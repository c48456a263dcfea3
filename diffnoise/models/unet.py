"""The UNet of the ADM family (Dhariwal and Nichol 2021), with the options that make it AnoDDPM's (Wyatt et al. 2022)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import (
    Attention,
    ClassEmbedding,
    Downsample,
    ResidualBlock,
    Upsample,
    double,
    group_norm,
    halve,
    no_classes,
    norm_silu,
    timestep_embedding,
    zero_init,
)
from .denoising import Output
from .model_config import ModelConfig


@dataclass(frozen=True)
class UNetConfig(ModelConfig):
    """The numbers that make a `UNet`.

    image_channels: channels of the images. channels: width of the first level (16 to 128 are usual); channel_mult: width of each
    level as a multiple of it; every level halves the size. res_blocks: residual blocks per level (one more on the way up).
    attention_levels: levels, 0 being the finest, with attention behind each residual block; the middle always has it.
    head_channels: width of an attention head; heads: the number of heads instead, the same at all levels.
    patch_size: pixels per side that are folded into channels before the first level (1: none), which makes the network
    patch_size^2 times cheaper. learn_variance: 2 x image_channels outputs, the second half being v of the learned range.
    num_classes: classes, whose embedding is added to that of the time; None: no classes. time_embedding: what that embedding does
    to a residual block, "scale_shift" (ADM) or "add" (DDPM, AnoDDPM); embedding_order: "cos_sin" (ADM) or "sin_cos" (AnoDDPM).
    resample: sizes change by a convolution ("conv") or inside a residual block ("residual": BigGAN, ADM, AnoDDPM).
    feature_channels: channels of a feature head, GroupNorm, SiLU and a 1 x 1 convolution behind residual block number feature_block
    of the way up, 0 being the coarsest (Lu et al. 2023: 272 behind block 10 of 18); None: no such head.
    """

    kind: ClassVar[str] = "unet"

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
    num_classes: int | None = None
    time_embedding: Literal["scale_shift", "add"] = "scale_shift"
    embedding_order: Literal["cos_sin", "sin_cos"] = "cos_sin"
    resample: Literal["conv", "residual"] = "conv"
    heads: int | None = None
    feature_channels: int | None = None
    feature_block: int = 10

    def __post_init__(self) -> None:
        # JSON has lists only.
        object.__setattr__(self, "channel_mult", tuple(self.channel_mult))
        object.__setattr__(self, "attention_levels", tuple(self.attention_levels))
        self.check_positive(
            "image_channels", "channels", "res_blocks", "head_channels", "norm_groups", "patch_size",
            "num_classes", "heads", "feature_channels",
        )  # fmt: skip
        self.check_choices()
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
        blocks = len(self.channel_mult) * (self.res_blocks + 1)
        if self.feature_channels is not None and not 0 <= self.feature_block < blocks:
            raise ValueError(f"feature_block must lie in 0..{blocks - 1}, but is {self.feature_block}.")

    @property
    def size_multiple(self) -> int:
        return self.patch_size * 2 ** (len(self.channel_mult) - 1)

    @property
    def feature_stride(self) -> int:
        """Pixels of the input for each place of the feature head's output, along each axis."""
        level = len(self.channel_mult) - 1 - self.feature_block // (self.res_blocks + 1)
        return self.patch_size * 2**level


class UNet(nn.Module):
    """epsilon (or x_0, or v) from x_t and t: `model(x_t, t)`, [B, C, H, W] and int64 [B] -> [B, C or 2C, H, W].

    With classes `model(x_t, t, class_labels=labels)`, int64 [B] in 0..num_classes, of which the last means no class, as does None.
    With a feature head the result is an `Output`, its features [B, F, h, w] being of the size that they have there.
    Any size that `config.size_multiple` divides works; other sizes and channel counts raise `ValueError`.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        widths = [config.channels * mult for mult in config.channel_mult]
        time_channels = 4 * config.channels
        folded = config.patch_size**2

        def residual(inputs: int, outputs: int, resize: Callable[[Tensor], Tensor] | None = None) -> ResidualBlock:
            return ResidualBlock(
                inputs, outputs, time_channels, config.norm_groups, config.dropout,
                config.time_embedding == "scale_shift", resize,
            )  # fmt: skip

        def stage(inputs: int, outputs: int, attend: bool) -> nn.ModuleList:
            modules: list[nn.Module] = [residual(inputs, outputs)]
            if attend:
                modules.append(Attention(outputs, _head_channels(config, outputs), config.norm_groups))
            return nn.ModuleList(modules)

        convolves = config.resample == "conv"
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
                self.downsample.append(Downsample(current) if convolves else residual(current, current, halve))
                skips.append(current)
        self.middle = nn.ModuleList([stage(current, current, True), stage(current, current, False)])
        self.up, self.upsample = nn.ModuleList(), nn.ModuleList()
        for level, width in reversed(list(enumerate(widths))):
            for _ in range(config.res_blocks + 1):
                self.up.append(stage(current + skips.pop(), width, level in config.attention_levels))
                current = width
            if level > 0:
                self.upsample.append(Upsample(current) if convolves else residual(current, current, double))
        self.norm_out = group_norm(current, config.norm_groups)
        self.conv_out = zero_init(nn.Conv2d(current, config.outputs * folded, 3, padding=1))
        if config.num_classes is not None:
            self.classes = ClassEmbedding(config.num_classes, time_channels)
        if config.feature_channels is not None:
            level = len(widths) - 1 - config.feature_block // (config.res_blocks + 1)
            self.feature_norm = group_norm(widths[level], config.norm_groups)
            self.feature_conv = nn.Conv2d(widths[level], config.feature_channels, 1)

    def forward(self, x_t: Tensor, t: Tensor, class_labels: Tensor | None = None) -> Tensor | Output:
        config = self.config
        config.check_input(x_t)
        time = self.time[:-1](self.embedded(t))
        if config.num_classes is None:
            no_classes(class_labels)
        else:
            time = time + self.classes(class_labels, len(x_t))
        time = self.time[-1](time)
        h = self.conv_in(F.pixel_unshuffle(x_t, config.patch_size))
        skips = [h]
        down = iter(self.down)
        for level in range(len(config.channel_mult)):
            for _ in range(config.res_blocks):
                h = _run(next(down), h, time)
                skips.append(h)
            if level < len(self.downsample):
                h = _resample(self.downsample[level], h, time)
                skips.append(h)
        for stage in self.middle:
            h = _run(stage, h, time)
        features: Tensor | None = None
        upsample = iter(self.upsample)
        for i, stage in enumerate(self.up):
            h = _run(stage, torch.cat([h, skips.pop()], 1), time)
            if config.feature_channels is not None and i == config.feature_block:
                features = self.feature_conv(norm_silu(self.feature_norm, h))
            if (i + 1) % (config.res_blocks + 1) == 0 and i + 1 < len(self.up):
                h = _resample(next(upsample), h, time)
        sample = F.pixel_shuffle(self.conv_out(norm_silu(self.norm_out, h)), config.patch_size)
        return sample if features is None else Output(sample, features)

    def embedded(self, t: Tensor) -> Tensor:
        """The sines and cosines of t, [B, channels], in the dtype of the weights."""
        config = self.config
        return timestep_embedding(t, config.channels, config.embedding_order == "sin_cos").to(self.conv_in.weight.dtype)


def _head_channels(config: UNetConfig, channels: int) -> int:
    if config.heads is None:
        return config.head_channels
    if channels % config.heads:
        raise ValueError(f"heads must divide the {channels} channels of its level, but is {config.heads}.")
    return channels // config.heads


def _run(stage: nn.Module, h: Tensor, time: Tensor) -> Tensor:
    residual, *attention = stage  # type: ignore[misc]
    h = residual(h, time)
    for module in attention:
        h = module(h)
    return h


def _resample(module: nn.Module, h: Tensor, time: Tensor) -> Tensor:
    return module(h, time) if isinstance(module, ResidualBlock) else module(h)
