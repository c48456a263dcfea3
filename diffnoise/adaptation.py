"""Domain adaptation: the backbone learns to see no difference between good images and their reconstructions."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from .features import Backbone

Cosine = Literal["location", "flat"]


@dataclass(frozen=True)
class Adaptation:
    """How a backbone is adapted; the defaults are those of Tebbe & Tayyub (2024).

    epochs: gamma, 0 to 3 in the paper. layers: every block that is compared; those of `Features` need not all be among them. cosine: "flat"
    compares a layer's whole map as one vector (the authors' code), "location" the vectors at each place, averaged (the paper).
    distillation: weight of the same distances to the features that the unadapted backbone sees in images and in reconstructions (0.1 or 0.01
    in DDAD, 0 is without). Optimised by AdamW.
    """

    epochs: int = 1
    layers: tuple[int, ...] = (1, 2, 3)
    cosine: Cosine = "flat"
    distillation: float = 0.0
    learning_rate: float = 1e-4
    weight_decay: float = 0.01
    batch_size: int = 30
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.layers))
        if self.cosine not in get_args(Cosine):
            raise ValueError(f"cosine must be one of {', '.join(get_args(Cosine))}, not {self.cosine!r}.")
        for name in ("epochs", "distillation", "learning_rate", "weight_decay"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, not {getattr(self, name)}.")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {self.batch_size}.")


class Adapted(NamedTuple):
    backbone: Backbone
    losses: list[float]  # mean of each epoch


Reconstruct = Callable[[Tensor, float], Tensor]


def adapt(
    backbone: Backbone, images: Tensor | Sequence[Tensor], reconstruct: Reconstruct, settings: Adaptation
) -> Adapted:
    """A copy of the backbone, trained so that good images [C, H, W] in [-1, 1] and their reconstructions have the same features.

    loss = sum_k mean(1 - cos(f_k(x), f_k(reconstruct(x, share)))), where the share of the noise steps is drawn from 0.1, 0.2, ..., 1 for
    every batch; with distillation w also w times the same of f_k(x) against g_k(x) and of f_k(x') against g_k(x'), g being the backbone as it
    was and x' the reconstruction. Gradients go through both sides, none through `reconstruct`; the stored statistics of batch norm stay.
    Tebbe & Tayyub (2024); Mousakhan et al. (2023).
    """
    device = backbone.mean.device
    adapted = copy.deepcopy(backbone).requires_grad_(True)
    optimizer = torch.optim.AdamW(adapted.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    generator = torch.Generator().manual_seed(settings.seed)
    losses = []
    for _ in range(settings.epochs):
        total = 0.0
        for batch in torch.randperm(len(images), generator=generator).split(settings.batch_size):
            x = torch.stack([images[i] for i in batch.tolist()]).to(device)
            share = int(torch.randint(1, 11, (), generator=generator)) / 10
            with torch.no_grad():
                reconstruction = reconstruct(
                    x, share
                ).clone()  # it may be an inference tensor, which no gradient can use
            with torch.enable_grad():
                loss = _loss(adapted, backbone, x, reconstruction, settings)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            total += loss.item() * len(batch)
        losses.append(total / len(images))
    return Adapted(adapted.requires_grad_(False), losses)


def _loss(adapted: Backbone, frozen: Backbone, x: Tensor, reconstruction: Tensor, settings: Adaptation) -> Tensor:
    pairs = list(zip(adapted(x, settings.layers), adapted(reconstruction, settings.layers), strict=True))
    loss = sum(_distance(a, b, settings.cosine) for a, b in pairs)
    if settings.distillation:
        with torch.no_grad():
            references = zip(frozen(x, settings.layers), frozen(reconstruction, settings.layers), strict=True)
        kept = (
            _distance(feature, reference, settings.cosine)
            for pair, reference_pair in zip(pairs, references, strict=True)
            for feature, reference in zip(pair, reference_pair, strict=True)
        )
        loss = loss + settings.distillation * sum(kept)
    assert isinstance(loss, Tensor)
    return loss


def _distance(a: Tensor, b: Tensor, cosine: Cosine) -> Tensor:
    """Mean of 1 - cos over the batch, and over the places [H, W] or of the flattened maps."""
    if cosine == "flat":
        a, b = a.flatten(1), b.flatten(1)
    return (1 - F.cosine_similarity(a, b)).mean()
