"""The study's pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from ..drawing import COLOURS, STYLE, Axes, Figure, matplotlib, save
from .panels import Record, density, image, inverse_square, spectrum
from .sweeps import SWEEPS


def draw(study: Record, folder: Path) -> list[Path]:
    """Draw what `study.run` measured into PNG files in the folder, and return their paths; settings with an error are left out."""
    rows = [row for row in study["settings"] if "error" not in row]
    defaults = [row for row in rows if row["parameter"] == "defaults"]
    swept = list(dict.fromkeys(row["kind"] for row in rows if row["parameter"] in SWEEPS))
    drawn: list[tuple[str, Callable[[], Figure]]] = []
    if defaults:
        drawn += [
            ("overview", lambda: _overview(study, defaults)),
            ("spectra", lambda: _spectra(study, defaults, rows, swept)),
        ]
    if swept:
        drawn += [
            ("samples", lambda: _samples(study, rows, swept)),
            ("histograms", lambda: _histograms(rows, swept)),
            ("statistics", lambda: _statistics(rows, swept)),
        ]
    with matplotlib.rc_context(STYLE):
        return [save(figure(), folder / f"{name}.png") for name, figure in drawn]


def _overview(study: Record, defaults: Sequence[Record]) -> Figure:
    """A sample, the histogram and the spectrum of every kind with its defaults."""
    figure = Figure(figsize=(1.9 * len(defaults) + 0.5, 5.6), layout="constrained")
    axes = figure.subplots(3, len(defaults), squeeze=False, height_ratios=(1.2, 1, 1))
    for column, row in zip(axes.T, defaults, strict=True):
        kind = row["kind"]
        image(column[0], study, row)
        column[0].set_title(kind, color=COLOURS[kind], fontweight="bold")
        density(column[1], row, COLOURS[kind], fill=True)
        values = row["values"]
        x = np.linspace(-4, 4, 201)
        normal = np.exp(-0.5 * ((x - values["mean"]) / values["deviation"]) ** 2)
        column[1].plot(x, normal / (values["deviation"] * math.sqrt(2 * math.pi)), "--", color="#1d2024", linewidth=0.8)
        column[1].set(xlim=(-3.2, 3.2), yticks=[], xlabel="value")
        column[1].text(
            *(0.98, 0.97, f"sd {values['deviation']:.2f}\nkurtosis {values['kurtosis']:.2f}\nskew {values['skewness']:+.2f}"),
            transform=column[1].transAxes, ha="right", va="top", fontsize=7,
        )  # fmt: skip
        spectrum(column[2], study, row)
        inverse_square(column[2])
        column[2].set(xlabel="cycles per pixel", ylim=(1e-4, 1e4))
        column[2].tick_params(labelleft=column[2] is axes[2, 0])
    axes[1, 0].set_ylabel("density (dashed: normal)")
    axes[2, 0].set_ylabel("power (dashed: 1/f²)")
    return figure


def _samples(study: Record, rows: Sequence[Record], kinds: Sequence[str]) -> Figure:
    """One image for every kind and every value of every parameter."""
    lines = [
        (kind, parameter, found) for kind in kinds for parameter in SWEEPS if (found := _sweep(rows, kind, parameter))
    ]
    columns = max(len(found) for _, _, found in lines)
    figure = Figure(figsize=(1.05 * columns + 0.8, 1.22 * len(lines)), layout="constrained")
    axes = figure.subplots(len(lines), columns, squeeze=False)
    for line, (kind, parameter, found) in zip(axes, lines, strict=True):
        for place in line[len(found) :]:
            place.set_axis_off()
        for place, row in zip(line, found, strict=False):
            image(place, study, row)
            place.set_title(f"{row['value']:g}", fontsize=7, pad=2)
        line[0].set_ylabel(f"{kind}\n{parameter}", color=COLOURS[kind])
    return figure


def _histograms(rows: Sequence[Record], kinds: Sequence[str]) -> Figure:
    """The histograms against every parameter, a panel for each kind and parameter."""
    parameters = _parameters(rows, kinds)
    figure = Figure(figsize=(3 * len(parameters), 2.1 * len(kinds)), layout="constrained")
    axes = figure.subplots(len(kinds), len(parameters), squeeze=False)
    colours = matplotlib.colormaps["viridis"]
    for line, kind in zip(axes, kinds, strict=True):
        for place, parameter in zip(line, parameters, strict=True):
            found = _sweep(rows, kind, parameter)
            if not found:
                place.set_axis_off()
                continue
            for i, row in enumerate(found):
                density(place, row, colours(0.9 * i / max(1, len(found) - 1)), label=f"{row['value']:g}")
            place.axvline(0, color="#dfe1e4", linewidth=0.8, zorder=0)
            place.set(xlim=(-2.6, 2.6), yticks=[], xlabel="value")
            place.set_title(f"{kind}, {parameter}", color=COLOURS[kind])
            place.legend(loc="upper right", handlelength=1, labelspacing=0.15, ncols=1 + (len(found) > 6))
    return figure


# Name of the panel, group and name in the row, and the figure over images that is drawn.
STATISTICS = (
    ("deviation", "deviation", "mean"),
    ("kurtosis", "kurtosis", "mean"),
    ("skewness, root mean square", "skewness", "rms"),
    ("asymmetry about 0", "asymmetry", "mean"),
    ("mean, root mean square", "mean", "rms"),
    ("smallest and largest value", "minimum", "mean"),
)


def _statistics(rows: Sequence[Record], swept: Sequence[str]) -> Figure:
    """Statistics of single images against every parameter: means over the images, and the deviation between images as a band."""
    parameters = _parameters(rows, swept)
    constants = [row for row in rows if row["kind"] not in swept and row["parameter"] == "defaults"]
    figure = Figure(figsize=(3 * len(parameters) + 0.4, 2 * len(STATISTICS) + 0.6), layout="constrained")
    axes = figure.subplots(len(STATISTICS), len(parameters), squeeze=False, sharex="col", sharey="row")
    for line, (title, name, over) in zip(axes, STATISTICS, strict=True):
        for place, parameter in zip(line, parameters, strict=True):
            place.grid(True)
            for kind in swept:
                _line(place, _sweep(rows, kind, parameter), name, over, COLOURS[kind], kind)
            if parameter == "wavelength":
                place.set_xscale("log", base=2)
        if name == "kurtosis":
            for place in line:
                place.axhline(3, color="#1d2024", linestyle="--", linewidth=0.8, label="normal")
        line[0].set(ylim=line[0].get_ylim(), ylabel=title)  # the constants below do not change them
        for row in constants:
            for part in _parts(name):
                _constant(line, row["images"][part][over], row["kind"])
    for place, parameter in zip(axes[-1], parameters, strict=True):
        place.set_xlabel(parameter)
    handles, labels = axes[1, 0].get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    figure.legend(unique.values(), unique.keys(), loc="outside upper center", ncols=len(unique))
    return figure


def _line(place: Axes, found: Sequence[Record], name: str, over: str, colour: str, label: str) -> None:
    x = [row["value"] for row in found]
    for part in _parts(name):
        figures = [row["images"][part] for row in found]
        centre = np.array([f[over] for f in figures])
        place.plot(x, centre, "o-", color=colour, markersize=2.5, label=label)
        if over == "mean":
            spread = np.array([f["deviation"] for f in figures])
            place.fill_between(x, centre - spread, centre + spread, color=colour, alpha=0.12, linewidth=0)


def _parts(name: str) -> tuple[str, ...]:
    return ("minimum", "maximum") if name == "minimum" else (name,)


def _constant(line: Sequence[Axes], value: float, kind: str) -> None:
    """A dotted line for a kind without parameters, or its value at the border where it lies beyond."""
    low, high = line[0].get_ylim()
    for place in line:
        place.axhline(value, color=COLOURS[kind], linestyle=":", label=kind)
    if not low <= value <= high:
        above = value > high
        line[0].annotate(
            f"{kind} {value:.3g} {'↑' if above else '↓'}", (0.02, 0.98 if above else 0.02), xycoords="axes fraction",
            color=COLOURS[kind], fontsize=7, va="top" if above else "bottom",
        )  # fmt: skip


def _spectra(study: Record, defaults: Sequence[Record], rows: Sequence[Record], swept: Sequence[str]) -> Figure:
    """The radial spectra of all kinds, and the exponents of the fractal ones against persistence."""
    figure = Figure(figsize=(8.4 if swept else 4.4, 3.8), layout="constrained")
    axes = figure.subplots(1, 1 + bool(swept), squeeze=False)[0]
    for row in defaults:
        spectrum(axes[0], study, row, label=row["kind"])
    inverse_square(axes[0])
    axes[0].set(
        xlabel="cycles per pixel", ylabel="power", ylim=(1e-6, 1e5), title="radial power spectrum (dashed: 1/f²)"
    )
    axes[0].legend(loc="lower left")
    axes[0].grid(True)
    if swept:
        p = np.array(SWEEPS["persistence"])
        axes[1].plot(p, -2 + 2 * np.log2(p), "--", color="#1d2024", linewidth=0.8, label="-2 + 2 log2(persistence)")
        for kind in swept:
            found = _sweep(rows, kind, "persistence")
            axes[1].plot([r["value"] for r in found], [r["slope"] for r in found], "o-", color=COLOURS[kind], markersize=2.5, label=kind)  # fmt: skip
        axes[1].set(xlabel="persistence", title="exponent of f between 1/32 and 1/4 cycles per pixel")
        axes[1].legend(loc="lower right")
        axes[1].grid(True)
    return figure


def _sweep(rows: Iterable[Record], kind: str, parameter: str) -> list[Record]:
    return [row for row in rows if row["kind"] == kind and row["parameter"] == parameter]


def _parameters(rows: Sequence[Record], kinds: Sequence[str]) -> list[str]:
    return [parameter for parameter in SWEEPS if any(_sweep(rows, kind, parameter) for kind in kinds)]
