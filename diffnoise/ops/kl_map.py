"""The Kullback-Leibler divergence per pixel between posterior and prediction."""

from __future__ import annotations

import torch
from torch import Tensor

from . import _check
from ._images import work_dtype
from ._op import op
from .reverse_step import check_step, rows


def _check_arguments(
    x_0: Tensor,
    x_t: Tensor,
    model_output: Tensor,
    t: Tensor,
    table: Tensor,
    variance: Tensor | None = None,
    clip: float | None = None,
    out: Tensor | None = None,
) -> None:
    check_step(x_t, model_output, t, table, variance, clip)
    _check.image("x_0", x_0, x_t)
    if out is not None:
        _check.output(out, (x_t.shape[0], 1, *x_t.shape[2:]), work_dtype(x_t.dtype), x_t)


def _fake(
    x_0: Tensor,
    x_t: Tensor,
    model_output: Tensor,
    t: Tensor,
    table: Tensor,
    variance: Tensor | None = None,
    clip: float | None = None,
) -> Tensor:
    return x_t.new_empty((x_t.shape[0], 1, x_t.shape[2], x_t.shape[3]), dtype=work_dtype(x_t.dtype))


@op(_check_arguments, _fake, out=True)
def kl_map(
    x_0: Tensor,
    x_t: Tensor,
    model_output: Tensor,
    t: Tensor,
    table: Tensor,
    variance: Tensor | None = None,
    clip: float | None = None,
) -> Tensor:
    """KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)) in nats, mean over channels, [B, 1, H, W].

    KL = (-1 + l_p - l_q + exp(l_q - l_p) + (mu_q - mu_p)^2 exp(-l_p)) / 2 with l_q = log beta~_t (at t = 0 that of t = 1), l_p
    the model's log variance (learned from `variance`, else the row's fixed one) and mu_q - mu_p = c_1 (x_0 - x_0 predicted).

    x_0, x_t, model_output, variance: one floating dtype, [B, C, H, W]; the map of half types is float32. t: int64 [B], indices of
    the table. table: [T, 11] from `Schedule.ddpm_table`. With `out=`, [B, 1, H, W] of the map's dtype, the map is written there. Raises
    `ValueError` for other shapes or dtypes. Source: Lu et al. 2023, equation 9.
    """
    work = work_dtype(x_t.dtype)
    a, b, c_1, _, _, _, small, large, fixed, *_ = rows(table, t, work)
    predicted = a * x_t.to(work) + b * model_output.to(work)
    if clip is not None:
        predicted = predicted.clamp(-clip, clip)
    difference = c_1 * (x_0.to(work) - predicted)
    # l_q - l_p; as k (small - large) it keeps the digits that the difference of the two would cancel.
    gap = small - fixed if variance is None else (variance.to(work) + 1) / 2 * (small - large)
    kl = 0.5 * (torch.expm1(gap) - gap + difference * difference * torch.exp(gap - small))
    return kl.mean(1, keepdim=True)
