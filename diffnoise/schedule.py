"""Noise schedules and the coefficient tables of the reverse steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from .ops.reverse_step import COLUMNS

Prediction = Literal["epsilon", "sample", "v_prediction"]
Variance = Literal["fixed_small", "fixed_large", "learned_range"]


@dataclass(frozen=True, eq=False)
class Schedule:
    """The variances beta_t of the forward process, t = 0 .. T-1, and all that follows from them (float64 tables).

    Make one with `Schedule.linear` or `Schedule.cosine`. "T' steps" of partial diffusion means: noise at index T'-1,
    denoise at T'-1 .. 0.
    """

    betas: Tensor  # float64 [T]

    def __post_init__(self) -> None:
        if self.betas.ndim != 1 or len(self.betas) == 0 or not bool(((self.betas > 0) & (self.betas < 1)).all()):
            raise ValueError("betas must be a non-empty vector of numbers between 0 and 1 (both excluded).")
        object.__setattr__(self, "betas", self.betas.to(torch.float64))

    @staticmethod
    def linear(start: float = 1e-4, end: float = 2e-2, steps: int = 1000) -> Schedule:
        """beta_t evenly spaced from `start` to `end` (Ho et al. 2020; 1e-4 to 1e-2 in Fucka et al. 2024)."""
        _check_steps(steps)
        return Schedule(torch.linspace(start, end, steps, dtype=torch.float64))

    @staticmethod
    def cosine(steps: int = 1000) -> Schedule:
        """beta_t = min(1 - f((t+1)/T) / f(t/T), 0.999), f(u) = cos^2((u + 0.008) / 1.008 * pi/2) (Nichol and Dhariwal 2021)."""
        _check_steps(steps)
        f = [math.cos((i / steps + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(steps + 1)]
        return Schedule(torch.tensor([min(1 - f[i + 1] / f[i], 0.999) for i in range(steps)], dtype=torch.float64))

    @property
    def steps(self) -> int:
        """T, the length of the schedule."""
        return len(self.betas)

    @cached_property
    def alpha_bars(self) -> Tensor:
        """Product of (1 - beta_s) for s <= t, float64 [T]."""
        return torch.cumprod(1 - self.betas, 0)

    @cached_property
    def posterior_variances(self) -> Tensor:
        """beta~_t = beta_t (1 - alpha_bar_{t-1}) / (1 - alpha_bar_t), float64 [T]; 0 at t = 0."""
        previous = torch.cat([self.alpha_bars.new_ones(1), self.alpha_bars[:-1]])
        return self.betas * (1 - previous) / (1 - self.alpha_bars)

    def timesteps(self, start: int, count: int) -> list[int]:
        """`count` indices from start - 1 down to 0, evenly spaced and rounded: the sub-sequence of a partial diffusion.

        Raises `ValueError` unless 1 <= count <= start <= T.
        """
        if not 1 <= count <= start <= self.steps:
            raise ValueError(
                f"A sub-sequence needs 1 <= count <= start <= {self.steps}, but count is {count} and start is {start}."
            )
        if count == 1:
            return [start - 1]
        return [round(i * (start - 1) / (count - 1)) for i in reversed(range(count))]

    def ddpm_table(
        self,
        variance: Variance = "fixed_small",
        prediction: Prediction = "epsilon",
        timesteps: Sequence[int] | None = None,
        previous: Sequence[int] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Coefficients of the ancestral step for `ops.reverse_step` and `ops.kl_map`, [T, 11].

        A step at t goes to the next lower index of `timesteps` (all of them by default), or to `previous` where given;
        below index 0 lies x_0 itself. The last step adds no noise. Rows outside `timesteps` hold NaN.
        """
        if variance not in ("fixed_small", "fixed_large", "learned_range"):
            raise ValueError(f'variance must be "fixed_small", "fixed_large" or "learned_range", not {variance!r}.')
        index, ab_t, ab_p, lower = self._pairs(timesteps, previous)
        alpha = ab_t / ab_p
        beta = 1 - alpha
        posterior = beta * (1 - ab_p) / (1 - ab_t)
        # At the last step the posterior variance is 0; its logarithm takes the value of the step before.
        first_positive = posterior[posterior > 0][0] if bool((posterior > 0).any()) else posterior.new_tensor(1e-20)
        log_small = torch.where(posterior > 0, posterior, first_positive).log()
        log_large = torch.where(posterior > 0, beta, first_positive).log() if variance == "fixed_large" else beta.log()
        fixed = log_large if variance == "fixed_large" else log_small
        noisy = (lower >= 0).to(torch.float64)
        sigma = noisy if variance == "learned_range" else noisy * torch.exp(0.5 * fixed)
        a, b = self._x_0(prediction, ab_t)
        p = beta * ab_p.sqrt() / (1 - ab_t)
        q = (1 - ab_p) * alpha.sqrt() / (1 - ab_t)
        return self._fill(index, [a, b, p, q, torch.zeros_like(p), sigma, log_small, log_large, fixed], dtype)

    def ddim_table(
        self,
        timesteps: Sequence[int] | None = None,
        eta: float = 0.0,
        prediction: Prediction = "epsilon",
        previous: Sequence[int] | None = None,
        recompute_epsilon: bool = True,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Coefficients of the DDIM step for `ops.reverse_step`, [T, 11].

        `timesteps` and `previous` as in `ddpm_table`. `recompute_epsilon` takes epsilon from the clipped x_0 (ADM;
        `use_clipped_model_output` in diffusers), otherwise from the model's output.
        """
        if not eta >= 0:
            raise ValueError(f"eta must not be negative, but is {eta}.")
        index, ab_t, ab_p, _ = self._pairs(timesteps, previous)
        variance = (1 - ab_p) / (1 - ab_t) * (1 - ab_t / ab_p)
        sigma = eta * variance.clamp_min(0).sqrt()
        direction = (1 - ab_p - sigma**2).clamp_min(0).sqrt()  # factor of epsilon
        signal, deviation = ab_t.sqrt(), (1 - ab_t).sqrt()
        zero = torch.zeros_like(signal)
        a, b = self._x_0(prediction, ab_t)
        if recompute_epsilon:  # epsilon = (x_t - signal x_0) / deviation, with the clipped x_0
            from_x_0, from_x_t, from_output = -signal / deviation, 1 / deviation, zero
        else:
            from_x_0 = zero
            from_x_t, from_output = {
                "epsilon": (zero, zero + 1),
                "sample": (1 / deviation, -signal / deviation),
                "v_prediction": (deviation, signal),
            }[prediction]
        log_variance = (sigma**2).clamp_min(1e-20).log()
        columns = [a, b, ab_p.sqrt() + direction * from_x_0, direction * from_x_t, direction * from_output, sigma]
        # Where epsilon comes from the output, a shift of x_0 (by guidance) shifts it, too.
        from_shift = zero if recompute_epsilon else -direction * signal / deviation
        return self._fill(index, columns + [log_variance] * 3, dtype, from_shift)

    def x_0_table(self, prediction: Prediction = "epsilon", dtype: torch.dtype = torch.float32) -> Tensor:
        """A table with which `ops.reverse_step` returns the predicted x_0 itself, [T, 11]."""
        a, b = self._x_0(prediction, self.alpha_bars)
        one, zero = torch.ones_like(a), torch.zeros_like(a)
        return self._fill(torch.arange(self.steps), [a, b, one, zero, zero, zero, zero, zero, zero], dtype)

    def _pairs(
        self, timesteps: Sequence[int] | None, previous: Sequence[int] | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        index = torch.arange(self.steps) if timesteps is None else torch.as_tensor(sorted(timesteps), dtype=torch.int64)
        if len(index) == 0 or int(index[0]) < 0 or int(index[-1]) >= self.steps or len(index.unique()) != len(index):
            raise ValueError(f"timesteps must be different indices between 0 and {self.steps - 1}.")
        if previous is None:
            lower = torch.cat([index.new_tensor([-1]), index[:-1]])
        else:
            if timesteps is None or len(previous) != len(timesteps):
                raise ValueError("previous needs timesteps of the same length.")
            order = torch.as_tensor(timesteps).argsort()
            lower = torch.as_tensor(previous, dtype=torch.int64)[order]
            if bool((lower >= index).any()):
                raise ValueError("Every previous index must be lower than its timestep.")
        ab_t = self.alpha_bars[index]
        ab_p = torch.where(lower >= 0, self.alpha_bars[lower.clamp_min(0)], torch.ones_like(ab_t))
        return index, ab_t, ab_p, lower

    @staticmethod
    def _x_0(prediction: Prediction, ab_t: Tensor) -> tuple[Tensor, Tensor]:
        """x_0 = a x_t + b output."""
        if prediction == "epsilon":
            return 1 / ab_t.sqrt(), -(1 / ab_t - 1).sqrt()
        if prediction == "sample":
            return torch.zeros_like(ab_t), torch.ones_like(ab_t)
        if prediction == "v_prediction":
            return ab_t.sqrt(), -(1 - ab_t).sqrt()
        raise ValueError(f'prediction must be "epsilon", "sample" or "v_prediction", not {prediction!r}.')

    def _fill(
        self, index: Tensor, columns: list[Tensor], dtype: torch.dtype, prev_from_shift: Tensor | None = None
    ) -> Tensor:
        """prev_from_shift: zero by default."""
        one_minus_alpha_bar = 1 - self.alpha_bars[index]
        if prev_from_shift is None:
            prev_from_shift = torch.zeros_like(one_minus_alpha_bar)
        table = torch.full((self.steps, len(COLUMNS)), math.nan, dtype=torch.float64)
        table[index] = torch.stack([*columns, one_minus_alpha_bar, prev_from_shift], 1)
        return table.to(dtype)


def _check_steps(steps: int) -> None:
    if steps < 1:
        raise ValueError(f"A schedule needs at least one step, not {steps}.")
