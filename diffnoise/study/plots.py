"""The pictures of the experiments: what was measured against what the papers print, and the forward process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..config import Config
from ..data import Sample, read_image
from ..forward import add_noise
from ..outputs import to_pixels
from .drawing import COLOURS, STYLE, Axes, Figure, matplotlib, save
from .experiments import FORWARD_STEPS, Experiment
from .tables import printed

OURS, PAPER = "#0072b2", "#1d2024"
SPREADS = ("_low", "_high", "_sd")  # belong to another quantity
PANELS = 4  # quantities in one picture, at most
Record = dict[str, Any]


def draw(experiment: Experiment, records: Sequence[Record], folder: Path) -> Path | None:
    """`<name>.png` with a panel for each of the first quantities that were measured; None where nothing was."""
    measured = [name for name in experiment.quantities if any(r["values"][name] is not None for r in records)]
    shown = [name for name in measured if not name.endswith(SPREADS)][:PANELS]
    if not shown:
        return None
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.3 * len(shown), 3.2), layout="constrained")
        axes = figure.subplots(1, len(shown), squeeze=False)[0]
        theirs = printed(experiment, records)
        for place, name in zip(axes, shown, strict=True):
            place.set_title(experiment.quantities[name])
            if experiment.x is None:
                _bars(place, records, name)
            else:
                _lines(place, records, name, experiment.x)
        if experiment.x is not None and (labels := axes[0].get_legend_handles_labels())[0]:
            figure.legend(*labels, loc="outside lower center", ncols=4)
        notes = ["dashed: as the paper prints it, on its own data"] if theirs and experiment.x else []
        notes += ["band: 95 % of resampled test images"] if experiment.x and f"{shown[0]}_low" in measured else []
        if notes:
            figure.suptitle("; ".join(notes), fontsize=7, color="#5c636c")
        return save(figure, folder / f"{experiment.name}.png")


def _lines(place: Axes, records: Sequence[Record], name: str, x: str) -> None:
    """A line for every combination of the other parameters, and the paper's dashed."""
    place.grid(True)
    series = dict.fromkeys(_rest(record, x) for record in records)
    for number, rest in enumerate(series):
        colour = COLOURS.get(rest, f"C{number}")
        own = [record for record in records if _rest(record, x) == rest]
        known = [r for r in own if r["values"][name] is not None]
        measured = [(r["at"][x], r["values"][name]) for r in known]
        published = [(r["at"][x], r["paper"][name]) for r in own if name in r["paper"]]
        for points, style, label in ((measured, "o-", rest), (published, "s--", None)):
            if points:
                place.plot(*zip(*points, strict=True), style, color=colour, markersize=3, label=label or None)
        if known and f"{name}_low" in known[0]["values"]:
            ends = ([r["values"][f"{name}_{end}"] for r in known] for end in ("low", "high"))
            place.fill_between([r["at"][x] for r in known], *ends, color=colour, alpha=0.1, linewidth=0)
    place.set_xlabel(x)


def _bars(place: Axes, records: Sequence[Record], name: str) -> None:
    """A bar for every row, and a mark where the paper's value lies."""
    labels = [", ".join(map(str, record["at"].values())) for record in records]
    for row, record in enumerate(records):
        if (value := record["values"][name]) is not None:
            place.barh(row, value, color=OURS)
        if name in record["paper"]:
            place.plot(record["paper"][name], row, "|", color=PAPER, markersize=9)
    leftmost = place.get_subplotspec().is_first_col()
    place.set_yticks(range(len(records)), labels if leftmost else [""] * len(records), fontsize=6)
    place.invert_yaxis()
    place.set_xlabel("mark: the paper" if any(name in record["paper"] for record in records) else "")


def _rest(record: Record, x: str) -> str:
    return ", ".join(str(value) for key, value in record["at"].items() if key != x)


def draw_forward(config: Config, sample: Sample, channels: int, folder: Path) -> Path:
    """`forward_pictures.png`: one image noised (above) and scaled (below) to T' = 100 .. 800."""
    x_0 = config.framing.split(read_image(sample.path, channels))[0][:1]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(1.25 * (len(FORWARD_STEPS) + 1), 2.9), layout="constrained")
        axes = figure.subplots(2, len(FORWARD_STEPS) + 1, squeeze=False)
        for line, omega, title in zip(axes, (1.0, 0.0), ("noising", "scaling"), strict=True):
            for place, start in zip(line, (0, *FORWARD_STEPS), strict=True):
                x_t = x_0
                if start:
                    t = torch.tensor([start - 1])
                    eps = config.noise(x_0.shape, t=t, seeds=torch.tensor([config.scoring.seed]))
                    x_t = add_noise(x_0, eps, t, config.schedule, omega)
                place.imshow(to_pixels(x_t[0]), cmap="gray", vmin=0, vmax=255)
                place.set(xticks=[], yticks=[])
                place.set_title(f"T' = {start}" if start else "input", fontsize=7)
            line[0].set_ylabel(title)
        return save(figure, folder / "forward_pictures.png")
