"""What a denoiser is trained towards: a sum of terms on its prediction, its variance and its features."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from . import ops
from .models import Denoised
from .ops.reverse_step import learned_log_variance, rows
from .schedule import Prediction, Schedule
from .similarity import ms_ssim, ssim

TERMS = ("l1", "l2", "tv", "vlb", "ssim", "ms_ssim")
DISTANCES = ("l1", "l2", "ssim", "ms_ssim")  # each alone draws the prediction to its target
TV_WEIGHT = 20.0
BIN = 1 / 255  # half the distance of two grey levels in [-1, 1]


def terms_of(loss: str) -> tuple[str, ...]:
    """The terms of a sum such as "l2+vlb"; raises `ValueError` for unknown or repeated ones, or if none is a distance to the target."""
    terms = tuple(loss.split("+"))
    if unknown := [term for term in terms if term not in TERMS]:
        raise ValueError(
            f'loss must be a sum of {", ".join(TERMS)}, such as "l2+vlb", not {loss!r}: {unknown[0]!r} is none of them.'
        )
    if len(set(terms)) < len(terms):
        raise ValueError(f"loss must name every term once, not {loss!r}.")
    if not set(terms) & set(DISTANCES):
        raise ValueError(f"loss {loss!r} leaves the prediction free; add one of {', '.join(DISTANCES)}.")
    return terms


def total_variation(images: Tensor) -> Tensor:
    """Sum of the absolute first differences along x and y, divided by C H W: [B, C, H, W] -> [B]."""
    total = images.diff(dim=2).abs().sum((1, 2, 3)) + images.diff(dim=3).abs().sum((1, 2, 3))
    return total / images[0].numel()


def discretized_gaussian_nll(x: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """-log of a Gaussian's mass in the bin of the 8-bit grey level x in [-1, 1], in nats, of each element.

    The bin is x +- 1/255; those of -1 and 1 reach to infinity. log_variance broadcasts. Source: Ho et al. 2020, equation 13.
    """
    deviation = torch.exp(0.5 * log_variance)
    distance = (x - mean).abs()  # by symmetry the bin may lie on either side; in the lower tail no digits cancel
    near = torch.special.log_ndtr((BIN - distance) / deviation)
    far = torch.special.log_ndtr((-BIN - distance) / deviation)
    inside = near + torch.log1p(-torch.exp(far - near))
    lowest = torch.special.log_ndtr((x + BIN - mean) / deviation)
    highest = torch.special.log_ndtr((mean - x + BIN) / deviation)
    return -torch.where(x < BIN - 1, lowest, torch.where(x > 1 - BIN, highest, inside))


class Objective:
    """The loss of a batch, a mean over it: `objective(denoised, x_0, x_t, eps, t)`.

    loss: a sum of terms between the prediction p and its target y (eps, x_0 or v, as `prediction` says), each a mean over C H W:

    - l1, l2: |p - y| and (p - y)^2.
    - tv: 20 times the total variation of p.
    - ssim, ms_ssim: 1 - SSIM or 1 - MS-SSIM of p and y, both counted from the smallest value of each image's y, the data range being the largest
      minus the smallest; where pixels are predicted, from -1 with a data range of 2.
    - vlb: `vlb_weight` times the term L_t of the variational bound, in bits per dimension: KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)), and at
      t = 0 the negative logarithm of the mass that p(x_0 | x_1) gives the grey level of x_0. The predicted x_0 is clipped to [-1, 1].

    With a fixed variance, beta_t, vlb weighs l2 anew for each t. A learned one is taught by vlb alone: the mean is detached there, and vlb is added
    to every loss. pixels=False is for latents, which have neither limits nor grey levels: nothing is clipped, and at t = 0 stands the KL with the
    posterior variance of t = 1.

    Raises `ValueError` for an unknown loss. Sources: Nichol and Dhariwal 2021 (hybrid loss), Wyatt et al. 2022 and Kumar et al. 2025 (fixed variance,
    tv, ssim, ms_ssim).
    """

    def __init__(
        self,
        loss: str,
        schedule: Schedule,
        prediction: Prediction = "epsilon",
        vlb_weight: float = 1.0,
        pixels: bool = True,
        device: str | torch.device = "cpu",
    ) -> None:
        self._terms = terms_of(loss)
        self._prediction, self._vlb_weight, self._pixels = prediction, vlb_weight, pixels
        self._alpha_bars = schedule.alpha_bars.to(device)
        self._fixed = schedule.ddpm_table("fixed_large", prediction, dtype=torch.float64).to(device)
        self._learned = schedule.ddpm_table("learned_range", prediction, dtype=torch.float64).to(device)

    def __call__(self, denoised: Denoised, x_0: Tensor, x_t: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        prediction, variance, _ = denoised
        target = self.target(x_0, eps, t)
        total = prediction.new_zeros(())
        for term in self._terms:
            if term == "l1":
                total = total + (prediction - target).abs().mean()
            elif term == "l2":
                total = total + (prediction - target).square().mean()
            elif term == "tv":
                total = total + TV_WEIGHT * total_variation(prediction).mean()
            elif term in ("ssim", "ms_ssim"):
                total = total + 1 - self._similarity(term, prediction, target).mean()
        if "vlb" in self._terms or variance is not None:
            total = total + self._vlb_weight * self.bound(prediction, variance, x_0, x_t, t).mean()
        return total

    def target(self, x_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """What the network should answer: eps, x_0 or v = sqrt(alpha_bar_t) eps - sqrt(1 - alpha_bar_t) x_0, [B, C, H, W]."""
        if self._prediction == "epsilon":
            return eps
        if self._prediction == "sample":
            return x_0
        alpha_bar = self._alpha_bars[t].to(x_0.dtype).view(-1, 1, 1, 1)
        return alpha_bar.sqrt() * eps - (1 - alpha_bar).sqrt() * x_0

    def bound(self, prediction: Tensor, variance: Tensor | None, x_0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """L_t of each image in bits per dimension, [B]; `variance` is the network's v, or None for the fixed variance."""
        table = self._fixed if variance is None else self._learned
        if variance is not None:
            prediction = prediction.detach()
        clip = 1.0 if self._pixels else None
        nats = ops.kl_map.reference(x_0, x_t, prediction, t, table, variance, clip=clip).mean((1, 2, 3))
        if self._pixels:
            first = (t == 0).nonzero().flatten()
            a, b, *_, small, large, fixed, _, _ = rows(table, t[first], x_0.dtype)
            mean = (a * x_t[first] + b * prediction[first]).clamp(-1, 1)  # of p(x_0 | x_1): the predicted x_0
            log_variance = fixed if variance is None else learned_log_variance(variance[first], small, large)
            nll = discretized_gaussian_nll(x_0[first], mean, log_variance).mean((1, 2, 3))
            nats = nats.index_copy(0, first, nll)
        return nats / math.log(2)

    def _similarity(self, term: str, prediction: Tensor, target: Tensor) -> Tensor:
        low, high = target.amin((1, 2, 3), keepdim=True), target.amax((1, 2, 3), keepdim=True)
        if self._prediction == "sample" and self._pixels:
            low, high = -torch.ones_like(low), torch.ones_like(high)
        # The index is made for signals from 0 up: around 0 both its factors change sign together, and the negated noise would look alike.
        measure = ssim if term == "ssim" else ms_ssim
        return measure(prediction - low, target - low, (high - low).flatten().clamp_min(1e-6))


def feature_error(features: Tensor, target: Tensor) -> Tensor:
    """Mean squared difference between a feature head's output [B, F, h, w] and the clean images' features [B, F, h', w'], resized bilinearly.

    Raises `ValueError` if their numbers of channels differ. Source: Lu et al. 2023.
    """
    if features.shape[:2] != target.shape[:2]:
        raise ValueError(
            f"The features of the clean images must have shape [{features.shape[0]}, {features.shape[1]}, h, w] for this model's feature head, "
            f"not {list(target.shape)}."
        )
    if target.shape[2:] != features.shape[2:]:
        target = F.interpolate(target, features.shape[2:], mode="bilinear", align_corners=False)
    return F.mse_loss(features, target)
