"""What the study's pictures are made of, on matplotlib's axes."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...noise import from_config
from ..drawing import COLOURS, Axes, matplotlib
from .sweeps import Setting

SHOWN = 128  # side of a sample in pixels, at most; larger images show their middle
GREYS = matplotlib.colormaps["gray"].resampled(48)  # noise hardly compresses: fewer greys make smaller files
Record = dict[str, Any]  # the study, or one of its settings


def image(place: Axes, study: Record, row: Record) -> None:
    """The middle of the sample in the middle of the range of t, in grey from -2.5 to 2.5 deviations."""
    size, samples = study["size"], study["samples"]
    setting = Setting(row["parameter"], row["value"], from_config(row["noise"]), *row["t"])
    pixels = setting.image(size, study["seeds"][0], samples // 2, samples)
    start = (size - min(size, SHOWN)) // 2
    pixels = pixels[start : start + SHOWN, start : start + SHOWN]
    reach = 2.5 * row["values"]["deviation"]
    place.imshow(pixels, cmap=GREYS, vmin=-reach, vmax=reach, interpolation="nearest")
    place.set(xticks=[], yticks=[])
    for spine in place.spines.values():
        spine.set_visible(False)


def density(place: Axes, row: Record, colour: Any, fill: bool = False, label: str | None = None) -> None:
    """The histogram of a setting, as a line."""
    counts, step = np.array(row["histogram"]["counts"]), row["histogram"]["step"]
    x = row["histogram"]["first"] + step * np.arange(len(counts))
    y = counts / (counts.sum() * step)
    if fill:
        place.fill_between(x, y, color=colour, alpha=0.35, linewidth=0)
    place.plot(x, y, color=colour, linewidth=1, label=label)


def spectrum(place: Axes, study: Record, row: Record, label: str | None = None) -> None:
    """Power against frequency, both on logarithmic scales."""
    power = row["power"]
    place.loglog(np.arange(1, len(power) + 1) / study["size"], power, color=COLOURS[row["kind"]], label=label)


def inverse_square(place: Axes) -> None:
    """A dashed line that falls like 1/f^2."""
    f = np.array([1 / 64, 1 / 2])
    place.loglog(f, 0.1 * f**-2, "--", color="#1d2024", linewidth=0.8)
