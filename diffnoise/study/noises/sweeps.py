"""What the study looks at: every kind of noise with its defaults, and with one parameter after the other changed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import numpy as np
import torch

from ...noise import KINDS, Noise, Simplex, Tsimplex

STEPS = 1000  # length of the schedule that t runs through
SWEEPS: dict[str, tuple[int | float, ...]] = {
    "octaves": tuple(range(1, 11)),
    "persistence": (0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
    "wavelength": tuple(2**mu for mu in range(8)),
    "t": tuple(range(0, STEPS + 1, 100)),
}
FIELDS = {"octaves": "octaves", "persistence": "persistence", "wavelength": "frequency"}


@dataclass(frozen=True)
class Setting:
    """A noise and the steps t at which it is sampled; `parameter` and `value` say what differs from its kind's defaults."""

    parameter: str  # "defaults", "paper" or one of SWEEPS
    value: int | float | str | None
    noise: Noise
    first_t: int = 0
    last_t: int = STEPS - 1

    def image(self, size: int, seed: int, i: int, samples: int) -> np.ndarray:
        """Image i of `samples`, float32 [size, size]: seed `seed` + i, and a t that runs evenly from `first_t` to `last_t`."""
        t = self.first_t + (self.last_t - self.first_t) * i // max(1, samples - 1)
        noise = self.noise((1, 1, size, size), t=torch.tensor([t]), seeds=torch.tensor([seed + i]))
        return noise[0, 0].numpy()


def settings(kind: str) -> Iterator[Setting]:
    """All settings of a kind: its defaults, what else the papers measured, and one parameter after the other.

    Tsg, which turns into another noise as t grows, is also measured at fixed t.
    """
    default = KINDS[kind]()
    yield Setting("defaults", None, default)
    if isinstance(default, Simplex):
        yield Setting("paper", "2-D", replace(default, dims=2))
    if isinstance(default, Tsimplex):
        yield Setting("paper", "figure 11d", Tsimplex(10, 0.8, 128), 0, 100)
    names = {field.name for field in fields(default)}  # type: ignore[arg-type]
    for parameter, name in FIELDS.items():
        for value in SWEEPS[parameter] if name in names else ():
            yield Setting(parameter, value, replace(default, **{name: value}))  # type: ignore[type-var]
    for value in SWEEPS["t"] if "steps" in names else ():
        yield Setting("t", value, default, int(value), int(value))
