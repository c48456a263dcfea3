"""One reverse step, DDPM or DDIM."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from . import _check
from ._images import layout, work_dtype
from ._op import op
from ._philox import STREAM_REVERSE
from .gaussian_noise import gaussian_noise

# One row per schedule index; `Schedule.ddpm_table` and `Schedule.ddim_table` fill it.
COLUMNS = ("x_0_from_x_t", "x_0_from_output", "prev_from_x_0", "prev_from_x_t", "prev_from_output", "sigma",
           "log_variance_small", "log_variance_large", "log_variance", "one_minus_alpha_bar", "prev_from_shift")  # fmt: skip


def rows(table: Tensor, t: Tensor, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """The table's columns at t, each [B, 1, 1, 1]."""
    return table[t].to(dtype).view(-1, len(COLUMNS), 1, 1, 1).unbind(1)


def learned_log_variance(variance: Tensor, small: Tensor, large: Tensor) -> Tensor:
    """log sigma^2 = k log beta + (1 - k) log beta~, k = (v + 1) / 2 (Nichol and Dhariwal 2021, equation 15)."""
    k = (variance + 1) / 2
    return k * large + (1 - k) * small


def check_step(
    x_t: Tensor, model_output: Tensor, t: Tensor, table: Tensor, variance: Tensor | None, clip: float | None
) -> None:
    _check.image("x_t", x_t)
    _check.image("model_output", model_output, x_t)
    _check.per_sample("t", t, x_t.shape[0], x_t)
    _check.table(table, len(COLUMNS), x_t)
    _check.rows(table, t)
    if variance is not None:
        _check.image("variance", variance, x_t)
    if clip is not None and not clip > 0:
        raise ValueError(f"clip must be positive, or None for no clipping, but is {clip}.")


def _check_arguments(
    x_t: Tensor, model_output: Tensor, t: Tensor, table: Tensor, variance: Tensor | None = None, noise: Tensor | None = None,
    seeds: Tensor | None = None, origins: Tensor | None = None, clip: float | None = None, target: Tensor | None = None,
    guidance: float = 0.0, out: Tensor | None = None,
) -> None:  # fmt: skip
    check_step(x_t, model_output, t, table, variance, clip)
    if noise is not None and seeds is not None:
        raise ValueError("Give either noise or seeds, not both.")
    if noise is not None:
        _check.image("noise", noise, x_t)
    if seeds is not None:
        _check.per_sample("seeds", seeds, x_t.shape[0], x_t)
    if origins is not None:
        if seeds is None:
            raise ValueError("origins addresses the noise made from seeds; give seeds too.")
        if origins.dtype != torch.int64 or origins.shape != (x_t.shape[0], 2):
            raise ValueError(
                f"origins must be an int64 tensor of shape [{x_t.shape[0]}, 2], but has dtype {origins.dtype} and shape {list(origins.shape)}."
            )
        _check.same_device("origins", origins, x_t)
    if target is not None:
        _check.image("target", target, x_t)
    elif guidance:
        raise ValueError("guidance pulls x_0 toward a target; give target too.")
    if not 0 <= guidance < math.inf:
        raise ValueError(f"guidance must be a finite number and not negative, but is {guidance}.")
    if out is not None:
        _check.output(out, x_t.shape, x_t.dtype, x_t)


@op(_check_arguments, lambda x_t, *args, **kwargs: torch.empty_like(x_t, memory_format=layout(x_t)), out=True)
def reverse_step(
    x_t: Tensor, model_output: Tensor, t: Tensor, table: Tensor, variance: Tensor | None = None, noise: Tensor | None = None,
    seeds: Tensor | None = None, origins: Tensor | None = None, clip: float | None = None, target: Tensor | None = None,
    guidance: float = 0.0,
) -> Tensor:  # fmt: skip
    """x_{t-1} from x_t and the model's output, [B, C, H, W].

    With the table's row at t: x_0 = a x_t + b output, clamped to [-clip, clip]; x_prev = p x_0 + q x_t + r output + sigma z.
    The row decides between DDPM and DDIM, the prediction type, eta and the sub-sequence. With `variance` (the model's
    second output v in [-1, 1]) the row's sigma is multiplied by exp(log variance / 2), interpolated between the row's bounds.
    z is `noise`, or Gaussian noise addressed by (seed, channel, y, x, t) when `seeds` is given, or zero with neither.
    With `target` x_0 becomes x_0 + w (target - x_0), w = guidance (1 - alpha_bar_t), before it is clamped, and epsilon, where the row takes
    it from the output, follows: the step with epsilon - guidance sqrt(1 - alpha_bar_t) (target_t - x_t), where target_t has the
    epsilon of the output. x_0 overshoots the target where w > 1.

    x_t, model_output, variance, noise, target: one floating dtype, [B, C, H, W]; half types are computed in float32. t, seeds:
    int64 [B]; the table must have a row at every t, which is checked on the CPU. table: [T, 11] from `Schedule`. origins: int64 [B, 2], for tiles. The result is
    channels_last where x_t is, else contiguous; with `out=`, which may be an input such as x_t itself, it is written there. Raises
    `ValueError` for other shapes or dtypes. Source: Ho et al. 2020, Song et al. 2021, Nichol and Dhariwal 2021; guidance: Mousakhan et
    al. 2023, Tebbe and Tayyub 2024.
    """
    work = work_dtype(x_t.dtype)
    x, output = x_t.to(work), model_output.to(work)
    a, b, p, q, r, sigma, small, large, _, one_minus_alpha_bar, prev_from_shift = rows(table, t, work)
    x_0 = a * x + b * output
    shift = None
    if target is not None:
        shift = guidance * one_minus_alpha_bar * (target.to(work) - x_0)
        x_0 = x_0 + shift
    if clip is not None:
        x_0 = x_0.clamp(-clip, clip)
    x_prev = p * x_0 + q * x + r * output
    if shift is not None:
        x_prev = x_prev + prev_from_shift * shift
    if seeds is not None:
        if origins is None:
            origins = seeds.new_zeros((seeds.shape[0], 2))
        noise = gaussian_noise.reference(seeds, t, origins, *x_t.shape[1:], STREAM_REVERSE, work)
    if noise is not None:
        if variance is not None:
            sigma = sigma * torch.exp(0.5 * learned_log_variance(variance.to(work), small, large))
        x_prev = x_prev + sigma * noise.to(work)
    return x_prev.to(x_t.dtype).contiguous(memory_format=layout(x_t))
