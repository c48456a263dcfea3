"""How frames are computed; what is computed is `Scoring`'s."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch

Precision = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class Execution:
    """How frames run through the network; it changes scores by rounding only (half precision rounds more), so thresholds stay.

    precision: of the network; the noise, the steps and the maps stay float32. batch: frames that go through the network
    together, on all threads; None: every frame alone, on a CPU in a thread of its own and as many at a time as torch has threads, so that a
    score depends on the image alone, to the last bit. capture: on CUDA, with a batch, keep the whole way from frame to map as a CUDA
    graph for each size of batch (1, 2, 4, ... up to `batch`; smaller ones are filled up).

    The network is made ready for this once, and again when its weights have changed; a change behind autograd's back (through `.data`, or
    of a plain attribute) is not seen: set the detector's `execution` again.
    """

    precision: Precision = "float32"
    batch: int | None = None
    capture: bool = True

    def __post_init__(self) -> None:
        if self.precision not in get_args(Precision):
            raise ValueError(f"precision must be one of {', '.join(get_args(Precision))}, not {self.precision!r}.")
        if self.batch is not None and (not isinstance(self.batch, int) or self.batch < 1):
            raise ValueError(
                f"batch must be a whole number from 1 on, or None for every frame alone, not {self.batch}."
            )

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = getattr(torch, self.precision)
        return dtype
