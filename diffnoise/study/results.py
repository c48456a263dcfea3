"""Writes a study: tables, plots and the page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import page, plots, tables
from .experiments import EXPERIMENTS, noise
from .runner import Row, Study


def write(
    study: Study,
    rows: dict[str, Sequence[Row]],
    trainings: dict[str, dict[str, Any]],
    noises: tuple[dict[str, Any], Sequence[Path]] | None = None,
) -> Path:
    """`<experiment>.csv`, `.json` and `.png` for each experiment, and `study.html` over all of them.

    rows, trainings: as from `run`. noises: what `noises.report.write` returned.
    """
    sections = []
    for name, measured in rows.items():
        experiment = EXPERIMENTS[name]
        records = tables.table(experiment, measured)
        tables.write(study.output, experiment, records)
        pictures = [plots.draw(experiment, records, study.output)]
        if name == "forward":
            config = study.config.updated(noise("gaussian"))
            pictures.insert(0, plots.draw_forward(config, study.samples[0], study.channels, study.output))
        sections.append(page.section(experiment, records, [path for path in pictures if path]))
    if noises is not None:
        sections.append(page.noises_section(*noises))
    return page.write(study, sections, trainings)
