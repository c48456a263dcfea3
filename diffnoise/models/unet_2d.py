"""diffusers' `UNet2DModel` as a `Plan`, recognised by the names of its parts: diffusers itself is not needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from .prepared import Attention, Downsample, Plan, Resample, Residual, Stage, TimeTable, Upsample

_BLOCKS = {"DownBlock2D", "AttnDownBlock2D", "UNetMidBlock2D", "UpBlock2D", "AttnUpBlock2D"}


def _parts(model: Any) -> Iterator[Any]:
    return iter([*model.down_blocks, model.mid_block, *model.up_blocks])


def _resampler(block: Any) -> Any:
    """The block's only sampler, or None."""
    (sampler,) = getattr(block, "downsamplers", None) or getattr(block, "upsamplers", None) or (None,)
    return sampler


def _attentions(block: Any) -> list[Any]:
    return list(getattr(block, "attentions", None) or [])


def _is_plain(model: Any) -> bool:
    """Whether the plan computes all that the model does."""

    def plain_resnet(r: Any) -> bool:
        return (
            type(r).__name__ == "ResnetBlock2D"
            and r.upsample is None
            and r.downsample is None
            and isinstance(r.nonlinearity, nn.SiLU)
            and r.time_embedding_norm in ("default", "scale_shift")
            and r.time_emb_proj is not None
            and not r.skip_time_act
            and r.output_scale_factor == 1
        )

    def plain_attention(a: Any) -> bool:
        return (
            (a.group_norm is None or isinstance(a.group_norm, nn.GroupNorm))
            and a.spatial_norm is None
            and a.norm_q is None
            and a.norm_k is None
            and a.residual_connection
            and a.rescale_output_factor == 1
            and type(a.processor).__name__ in ("AttnProcessor", "AttnProcessor2_0")
            and a.to_out[0].out_features == a.to_q.in_features == a.to_q.out_features
        )

    def plain_sampler(s: Any) -> bool:
        return (
            s is None
            or type(s).__name__ in ("Downsample2D", "Upsample2D")
            and s.norm is None
            and type(s.conv) is nn.Conv2d
        )

    return (
        model.class_embedding is None
        and model.config.time_embedding_type == "positional"
        and not model.config.center_input_sample
        and isinstance(model.conv_act, nn.SiLU)
        and all(type(block).__name__ in _BLOCKS for block in _parts(model))
        and all(plain_resnet(r) for block in _parts(model) for r in block.resnets)
        and all(plain_attention(a) for block in _parts(model) for a in _attentions(block) if a is not None)
        and all(plain_sampler(_resampler(block)) for block in _parts(model))
    )


@torch.no_grad()
def plan(model: Any, dtype: torch.dtype, timesteps: int) -> Plan | None:
    """The model's plan; None where it has parts that a plan has not."""
    if not _is_plain(model):
        return None
    weight = model.conv_in.weight
    t = torch.arange(timesteps, device=weight.device)
    times = TimeTable(model.time_embedding(model.time_proj(t).to(weight.dtype)))

    def residual(r: Any, skip_channels: int = 0) -> Residual:
        scale_shift = r.time_embedding_norm == "scale_shift"
        return Residual(
            r.norm1, r.conv1, r.norm2, r.conv2, r.conv_shortcut, times.add(r.time_emb_proj), scale_shift, dtype, skip_channels
        )  # fmt: skip

    def attention(a: Any) -> Attention | None:
        if a is None:
            return None
        parts = (a.to_q, a.to_k, a.to_v)
        bias = None if a.to_q.bias is None else torch.cat([part.bias for part in parts])
        qkv, out = torch.cat([part.weight for part in parts]), a.to_out[0]
        return Attention(a.group_norm, qkv, bias, out.weight, out.bias, a.heads, dtype)

    def stages(block: Any, skips: list[int] | None = None) -> list[Stage]:
        attentions = _attentions(block) or [None] * len(block.resnets)
        return [
            (residual(r, skips.pop() if skips else 0), attention(a))
            for r, a in zip(block.resnets, attentions, strict=True)
        ]

    def resampler(block: Any, kind: Callable[[Any], Resample]) -> Resample | None:
        sampler = _resampler(block)
        return None if sampler is None else kind(sampler)

    def downsample(sampler: Any) -> Downsample:
        return Downsample(sampler.conv, dtype, pads=sampler.padding == 0)

    skips = [model.conv_in.out_channels]
    for block in model.down_blocks:
        skips += [r.out_channels for r in block.resnets]
        skips += [] if _resampler(block) is None else [_resampler(block).out_channels]
    middle = model.mid_block
    first, *rest = middle.resnets
    attended: list[Stage] = [(residual(first), None)]
    for a, r in zip(_attentions(middle), rest, strict=True):
        attended[-1] = (attended[-1][0], attention(a))
        attended.append((residual(r), None))
    return Plan(
        model.conv_in, [(stages(b), resampler(b, downsample)) for b in model.down_blocks], attended,
        [(stages(b, skips), resampler(b, lambda s: Upsample(s.conv, dtype))) for b in model.up_blocks],
        model.conv_norm_out, model.conv_out, times, dtype,
    )  # fmt: skip
