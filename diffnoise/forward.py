"""The forward process: noise an image to step t at once."""

from __future__ import annotations

import torch
from torch import Tensor

from .ops import _check
from .schedule import Schedule


def add_noise(x_0: Tensor, eps: Tensor, t: Tensor, schedule: Schedule, omega: float = 1.0) -> Tensor:
    """x_t = sqrt(alpha_bar_t) x_0 + omega sqrt(1 - alpha_bar_t) eps, [B, C, H, W].

    omega = 1 is the ordinary forward process, omega = 0 noiseless scaling (Tebbe and Tayyub 2024, equation 12). t: int64 [B],
    indices of the schedule. Raises `ValueError` if shapes or t do not fit.
    """
    if eps.shape != x_0.shape:
        raise ValueError(f"eps has shape {list(eps.shape)}, but {list(x_0.shape)} is needed.")
    if t.dtype != torch.int64 or t.shape != (x_0.shape[0],):
        raise ValueError(f"t must be int64 [{x_0.shape[0]}], but has dtype {t.dtype} and shape {list(t.shape)}.")
    _check.floating("the dtype of x_0", x_0.dtype)
    # Elsewhere the comparison would make the host wait for the device.
    if t.device.type == "cpu" and bool(((t < 0) | (t >= schedule.steps)).any()):
        raise ValueError(f"t must lie between 0 and {schedule.steps - 1}, but is {t.tolist()}.")
    alpha_bar = schedule.alpha_bars.to(t.device)[t].view(-1, *[1] * (x_0.ndim - 1))
    return alpha_bar.sqrt().to(x_0.dtype) * x_0 + (omega * (1 - alpha_bar).sqrt()).to(x_0.dtype) * eps
