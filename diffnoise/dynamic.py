"""How far an image is noised, chosen by its distance to the good images; Tebbe & Tayyub (2024), "dynamic implicit conditioning"."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from .features import Backbone

Binning = Literal["equal_width", "quantile"]


@dataclass(frozen=True)
class DynamicSteps:
    """From a frame's distance to the good frames to its number of noise steps T'.

    The distance is the mean L1 distance to the nearest `neighbours` good frames, of the features of `layers` averaged to pool x pool. The good
    frames' own distances, each with the zero to itself unless exclude_self, are cut into `bins` by binning: "equal_width" from the least to
    the largest (the paper), or "quantile", equally many good frames each. Bin b = 1..bins, at least least_bin, gives T' = b t_max / bins, rounded to the
    nearest multiple of round_to, halves up (the authors' code), or rounded down if round_to is 0 (the paper's formula).
    """

    layers: tuple[int, ...] = (2,)
    pool: int = 16
    neighbours: int = 20
    exclude_self: bool = False
    binning: Binning = "equal_width"
    bins: int = 10
    least_bin: int = 2
    t_max: int = 80
    round_to: int = 10

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.layers))
        if self.binning not in get_args(Binning):
            raise ValueError(f"binning must be one of {', '.join(get_args(Binning))}, not {self.binning!r}.")
        for name in ("pool", "neighbours", "bins", "t_max"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}.")
        if not 1 <= self.least_bin <= self.bins:
            raise ValueError(f"least_bin must lie in 1..bins = 1..{self.bins}, not {self.least_bin}.")
        if self.round_to < 0 or min(self.starts) < 1:
            raise ValueError(
                f"round_to must not be negative nor make T' 0, but is {self.round_to} with T' from {self.least_bin * self.t_max / self.bins:g}."
            )

    @property
    def least_frames(self) -> int:
        """How many good frames are needed."""
        return self.neighbours + self.exclude_self

    @property
    def starts(self) -> tuple[int, ...]:
        """T' of the bins least_bin..bins."""
        return tuple(self._start(number) for number in range(self.least_bin, self.bins + 1))

    def _start(self, number: int) -> int:
        whole = self.round_to or 1
        half = self.bins * self.round_to
        return (2 * number * self.t_max + half) // (2 * self.bins * whole) * whole

    def embed(self, backbone: Backbone, images: Tensor) -> Tensor:
        """What distances are taken of: [B, D], D = pool^2 sum of F_k, from images [B, C, H, W] in [-1, 1]."""
        maps = backbone(images, self.layers)
        return torch.cat([F.adaptive_avg_pool2d(each, self.pool).flatten(1) for each in maps], 1)


class StepSelector:
    """The good frames' features and the edges of the bins; made by `fit`, or from the tensors that `state` gave.

    bank: float16 [N, D]. edges: float64 [bins + 1], rising. Features are rounded to float16 before they are compared, so that a good frame
    is at distance zero from itself.
    """

    def __init__(self, settings: DynamicSteps, bank: Tensor, edges: Tensor) -> None:
        self.settings, self.bank, self.edges = settings, bank, edges
        self._starts = torch.tensor(settings.starts, device=bank.device)

    @classmethod
    def fit(cls, settings: DynamicSteps, features: Iterable[Tensor]) -> StepSelector:
        """From the good frames' `DynamicSteps.embed`, [B, D] a batch. Raises `ValueError` for fewer frames than neighbours."""
        bank = torch.cat([part.half() for part in features])
        if len(bank) < settings.least_frames:
            raise ValueError(
                f"{settings.neighbours} neighbours need at least {settings.least_frames} good frames, not {len(bank)}; give more, or set fewer neighbours."
            )
        own = _nearest(bank, bank, settings.neighbours, settings.exclude_self)
        if settings.binning == "quantile":
            edges = own.quantile(torch.linspace(0, 1, settings.bins + 1, dtype=own.dtype, device=own.device))
        else:
            edges = torch.linspace(own.min().item(), own.max().item(), settings.bins + 1, dtype=own.dtype).to(own)
        return cls(settings, bank, edges)

    def distances(self, features: Tensor) -> Tensor:
        """Mean L1 distance of features [B, D] to the nearest good frames, float64 [B]."""
        return _nearest(features.to(self.bank), self.bank, self.settings.neighbours)

    def bins(self, features: Tensor) -> Tensor:
        """Bins 1..bins of features [B, D], int64 [B]: b where edges[b - 1] < distance <= edges[b], the outer ones open, none below least_bin."""
        return torch.searchsorted(self.edges, self.distances(features)).clamp(
            self.settings.least_bin, self.settings.bins
        )

    def starts(self, features: Tensor) -> Tensor:
        """T' of features [B, D], int64 [B]."""
        return self._starts[self.bins(features) - self.settings.least_bin]

    def state(self) -> dict[str, Tensor]:
        """The tensors to save: `StepSelector(settings, **state)` is the same selector."""
        return {"bank": self.bank, "edges": self.edges}


def _nearest(features: Tensor, bank: Tensor, neighbours: int, same: bool = False, block: int = 256) -> Tensor:
    """Mean L1 distance to the nearest rows of the bank, float64 [B]; same: features is the bank, and a row is no neighbour of itself."""
    means = []
    for first in range(0, len(features), block):
        part = features[first : first + block].float()
        distances = torch.cat([torch.cdist(part, rows.float(), p=1) for rows in bank.split(block)], 1)
        if same:
            distances[:, first : first + block].fill_diagonal_(torch.inf)
        means.append(distances.topk(neighbours, largest=False).values.double().mean(1))
    return torch.cat(means)
