"""Denoising networks: anything that maps (x_t, t) to a tensor, or to an object with a `sample` tensor, fits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.profiler import record_function

from .prepared import prepare as prepare
from .unet import UNet as UNet
from .unet import UNetConfig as UNetConfig

Denoiser = Callable[[Tensor, Tensor], Any]


def denoise(model: Denoiser, x_t: Tensor, t: Tensor, learned_variance: bool = False) -> tuple[Tensor, Tensor | None]:
    """The model's prediction and, if `learned_variance`, its variance output v: both [B, C, H, W].

    Takes diffusers' models (output in `.sample`) as well as plain ones; they return C channels, or 2C whose second half is v. Raises
    `ValueError` for any other shape, or if a variance is wanted and there is none.
    """
    with record_function("diffnoise.network"):
        output = model(x_t, t)
    output = getattr(output, "sample", output)
    if not isinstance(output, Tensor):
        raise ValueError(
            f"The model must return a tensor, or an object whose `sample` is one, not {type(output).__name__}."
        )
    batch, channels, *size = x_t.shape
    if list(output.shape) == [batch, 2 * channels, *size]:
        prediction, variance = output.chunk(2, 1)
        return prediction, variance if learned_variance else None
    if output.shape == x_t.shape:
        if learned_variance:
            raise ValueError(
                "A learned variance needs a model with twice as many output channels as x_t; this one has none."
            )
        return output, None
    raise ValueError(f"The model returned shape {list(output.shape)} for an input of shape {list(x_t.shape)}.")
