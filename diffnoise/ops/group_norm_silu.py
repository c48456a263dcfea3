"""Group normalisation, scale and shift, and SiLU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from . import _check
from ._images import layout, work_dtype
from ._op import op


def _check_arguments(
    x: Tensor, groups: int, weight: Tensor | None = None, bias: Tensor | None = None, scale: Tensor | None = None,
    shift: Tensor | None = None, offset: Tensor | None = None, skip: Tensor | None = None, eps: float = 1e-5, silu: bool = True,
) -> None:  # fmt: skip
    _check.image("x", x)
    batch, channels = x.shape[:2]
    if skip is not None:
        _check.image("skip", skip)
        if skip.shape[0] != batch or skip.shape[2:] != x.shape[2:] or skip.dtype != x.dtype:
            raise ValueError(
                f"skip must be like x but for the number of channels, {x.dtype} of shape {list(x.shape)}, "
                f"but is {skip.dtype} of shape {list(skip.shape)}."
            )
        _check.same_device("skip", skip, x)
        channels += skip.shape[1]
    if groups < 1 or channels % groups:
        raise ValueError(f"groups must divide the {channels} channels, but is {groups}.")
    if not eps >= 0:
        raise ValueError(f"eps must not be negative, but is {eps}.")
    per_channel = {"weight": weight, "bias": bias}
    per_sample = {"scale": scale, "shift": shift, "offset": offset}
    for name, tensor in (per_channel | per_sample).items():
        shape = [channels] if name in per_channel else [batch, channels]
        if tensor is None:
            continue
        if list(tensor.shape) != shape:
            raise ValueError(f"{name} must have shape {shape}, but has shape {list(tensor.shape)}.")
        _check.floating(f"the dtype of {name}", tensor.dtype)
        _check.same_device(name, tensor, x)


def _fake(
    x: Tensor, groups: int, weight: Tensor | None = None, bias: Tensor | None = None, scale: Tensor | None = None,
    shift: Tensor | None = None, offset: Tensor | None = None, skip: Tensor | None = None, eps: float = 1e-5, silu: bool = True,
) -> Tensor:  # fmt: skip
    channels = x.shape[1] + (0 if skip is None else skip.shape[1])
    return torch.empty(
        (x.shape[0], channels, *x.shape[2:]), dtype=x.dtype, device=x.device, memory_format=layout(x)
    )  # fmt: skip


@op(_check_arguments, _fake, differentiable=True)
def group_norm_silu(
    x: Tensor, groups: int, weight: Tensor | None = None, bias: Tensor | None = None, scale: Tensor | None = None,
    shift: Tensor | None = None, offset: Tensor | None = None, skip: Tensor | None = None, eps: float = 1e-5, silu: bool = True,
) -> Tensor:  # fmt: skip
    """silu(norm(x) (1 + scale) + shift), what stands before every convolution of a UNet, [B, C, H, W].

    norm(x) = (x + offset - mean) / sqrt(variance + eps) weight + bias with mean and variance over the pixels and channels of a
    group; silu(h) = h / (1 + exp(-h)), left out with `silu=False`. With `skip` all this is done to torch.cat([x, skip], 1).

    x, skip: one floating dtype, [B, C, H, W] and [B, C', H, W]; half types are computed in float32. weight, bias: [C + C'].
    scale, shift, offset: [B, C + C']. All of these in any floating dtype. The result has the layout of x where that is
    channels_last, which is the fast one, and is contiguous otherwise. Differentiable. Raises `ValueError` for other shapes or
    dtypes. Source: Wu and He 2018; scale and shift of Dhariwal and Nichol 2021, offset of Ho et al. 2020.
    """
    work = work_dtype(x.dtype)
    weight, bias, scale, shift, offset = (
        None if a is None else a.to(work) for a in (weight, bias, scale, shift, offset)
    )
    h = (x if skip is None else torch.cat([x, skip], 1)).to(work)
    if offset is not None:
        h = h + offset[:, :, None, None]
    h = F.group_norm(h, groups, weight, bias, eps)
    if scale is not None:
        h = h * (1 + scale[:, :, None, None])
    if shift is not None:
        h = h + shift[:, :, None, None]
    if silu:
        h = F.silu(h)
    return h.to(x.dtype).contiguous(memory_format=layout(x))
