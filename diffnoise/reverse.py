"""The reverse process: from x_t back to x_0."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.profiler import record_function

from . import ops
from .models import Denoiser, denoise
from .noise import Noise
from .ops._images import layout

# Keeps structured reverse noise apart from the forward noise of the same seed and step.
_REVERSE_KEY = 0x5DEECE66D


def reverse_process(
    model: Denoiser,
    x_t: Tensor,
    timesteps: Sequence[int],
    table: Tensor,
    *,
    seeds: Tensor | None = None,
    origins: Tensor | None = None,
    noise: Noise | None = None,
    learned_variance: bool = False,
    clip: float | None = 1.0,
    target: Tensor | None = None,
    guidance: float = 0.0,
) -> Tensor:
    """Denoise x_t at every index of `timesteps` (falling) with the coefficients of `table`, [B, C, H, W].

    model(x_t, t) predicts epsilon, x_0 or v, as the table was made for. learned_variance: use the second half of the
    model's 2C output channels, with a table made for "learned_range". seeds: int64 [B], for steps that add noise:
    Gaussian, or that of `noise` where given; without seeds no noise is added. origins: int64 [B, 2], the (y, x) of each
    sample's first pixel, for tiles. target and guidance: what x_0 is pulled toward, [B, C, H, W] (the input image, to condition on it),
    and how strongly, see `ops.reverse_step`. Raises `ValueError` if shapes do not fit.
    """
    if list(timesteps) != sorted(set(timesteps), reverse=True):
        raise ValueError("timesteps must fall strictly.")
    batch = x_t.shape[0]
    for index in timesteps:
        t = torch.full((batch,), index, dtype=torch.int64, device=x_t.device)
        prediction, variance, _ = denoise(model, x_t, t, learned_variance)
        with record_function("diffnoise.step"):
            # In the layout of the model's output the step copies none of them.
            form = layout(prediction)
            x_t = x_t.contiguous(memory_format=form)
            target = target if target is None else target.contiguous(memory_format=form)
            z: dict[str, Tensor | None] = {"seeds": seeds, "origins": origins}
            if noise is not None and seeds is not None:
                z = {"noise": noise(x_t.shape, t=t, seeds=seeds ^ _REVERSE_KEY, origins=origins, dtype=x_t.dtype)}
            x_t = ops.reverse_step(
                x_t, prediction, t, table, variance=variance, clip=clip, target=target, guidance=guidance, **z
            )
    return x_t.contiguous()
