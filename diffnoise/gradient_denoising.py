"""Removing an anomaly step by step along the gradient of its density in feature space; second stage of Lu et al. (2023)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .features import Backbone


@dataclass(frozen=True)
class GradientDenoising:
    """The authors' settings: layers of the density's features, of which dims random ones are taken (0: all); ridge on its covariances;
    strength s of a gradient step, of which inner are taken before each denoising at index t; outer: how often."""

    layers: tuple[int, ...] = (1, 2, 3)
    dims: int = 500
    ridge: float = 0.01
    strength: float = 0.02
    inner: int = 5
    outer: int = 100
    t: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.layers))
        for name in ("dims", "inner", "outer", "t", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, not {getattr(self, name)}.")
        if not 0 < self.strength < 1 or not self.ridge > 0:
            raise ValueError(
                f"strength must lie between 0 and 1 and ridge be positive, not {self.strength} and {self.ridge}."
            )


class Density:
    """A Gaussian of the features at each place of good frames (PaDiM): mean [D, h, w] and the Cholesky factors [h w, D, D] of its covariances.

    Memory is h w D^2 floats: 3 GB for 56 x 56 places and 500 dims, so take few dims. `state` gives the tensors to save.
    """

    def __init__(
        self, backbone: Backbone, settings: GradientDenoising, mean: Tensor, factors: Tensor, chosen: Tensor
    ) -> None:
        self.backbone, self.settings, self.mean, self.factors, self.chosen = backbone, settings, mean, factors, chosen

    @classmethod
    def fit(cls, backbone: Backbone, settings: GradientDenoising, batches: Iterable[Tensor]) -> Density:
        """From batches of good images [B, C, H, W] of one size, two at least: covariance over the images (divisor n - 1) + ridge I."""
        rows, chosen = [], None
        with torch.no_grad():
            for images in batches:
                features = _aligned(backbone(images, settings.layers))
                if chosen is None:
                    generator = torch.Generator().manual_seed(settings.seed)
                    order = torch.randperm(features.shape[1], generator=generator)
                    chosen = order[: settings.dims or None].to(features.device)
                rows.append(features[:, chosen])
        samples = torch.cat(rows) if rows else torch.empty(0)
        if len(samples) < 2 or chosen is None:
            raise ValueError(f"The density needs at least two good images, not {len(samples)}.")
        mean = samples.mean(0)
        centred = (samples - mean).flatten(2).permute(2, 0, 1)  # [h w, n, D]
        covariances = centred.mT @ centred / (len(samples) - 1)
        covariances.diagonal(dim1=1, dim2=2).add_(settings.ridge)
        return cls(backbone, settings, mean, torch.linalg.cholesky(covariances), chosen)

    def distance(self, images: Tensor) -> Tensor:
        """Mahalanobis distance at each place, [B, h, w]; differentiable."""
        centred = _aligned(self.backbone(images, self.settings.layers))[:, self.chosen] - self.mean
        solved = torch.linalg.solve_triangular(self.factors, centred.flatten(2).permute(2, 1, 0), upper=False)
        return solved.norm(dim=1).mT.unflatten(1, self.mean.shape[1:])

    def state(self) -> dict[str, Tensor]:
        """`Density(backbone, settings, **state)` is the same density."""
        return {"mean": self.mean, "factors": self.factors, "chosen": self.chosen}


def gradient_denoise(images: Tensor, density: Density, denoise: Callable[[Tensor], Tensor]) -> Tensor:
    """Images [B, C, H, W] in [-1, 1] moved to where good ones are dense.

    `outer` times: inner times x <- sqrt(1 - s^2) x + s g / std(g), with g = -grad of the mean distance; then x <- denoise(x), the mean of
    p(x_{t-1} | x_t) at t. std is taken of each image (the authors take it of the batch). Lu et al. (2023), algorithm 1, which writes
    sqrt(1 - beta) and sqrt(beta) with s^2 = beta.
    """
    settings, x = density.settings, images
    for _ in range(settings.outer):
        for _ in range(settings.inner):
            with torch.enable_grad():
                x = x.detach().requires_grad_()
                (gradient,) = torch.autograd.grad(-density.distance(x).mean((1, 2)).sum(), x)
            deviation = gradient.flatten(1).std(1).clamp_min(torch.finfo(gradient.dtype).tiny)[:, None, None, None]
            x = (1 - settings.strength**2) ** 0.5 * x.detach() + settings.strength * gradient / deviation
        with torch.no_grad():
            x = denoise(x)
    return x


def _aligned(maps: list[Tensor]) -> Tensor:
    """All maps at the size of the first, the largest, [B, sum of F_k, h, w]."""
    size = maps[0].shape[2:]
    return torch.cat([F.interpolate(each, size, mode="bilinear") for each in maps], 1)
