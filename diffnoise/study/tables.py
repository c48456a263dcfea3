"""An experiment's results on disk: what was measured beside what its paper printed, as CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..checkpoint import write_atomically
from .experiments import Experiment
from .runner import Row


def table(experiment: Experiment, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One record for each cell, and for each row of the paper that belongs to none: at, values, paper, error, seconds, training."""
    published = experiment.published
    records = [
        {
            "at": row.at,
            "values": {name: row.values.get(name) for name in experiment.quantities},
            "paper": published.at(row.at),
            "error": row.error,
            "left_out": row.left_out,
            "seconds": row.seconds,
            "training": row.training,
        }
        for row in rows
    ]
    places = [cell.at for cell in experiment.cells]
    alone = [(at, values) for at, values in published.rows if at not in places]
    empty = dict.fromkeys(experiment.quantities)
    records += [
        {"at": at, "values": empty, "paper": values, "error": "", "left_out": "", "seconds": None, "training": None}
        for at, values in alone
    ]
    return records


def printed(experiment: Experiment, records: Sequence[dict[str, Any]]) -> list[str]:
    """The quantities of which the paper prints any value."""
    return [name for name in experiment.quantities if any(name in record["paper"] for record in records)]


def write(folder: Path, experiment: Experiment, records: Sequence[dict[str, Any]]) -> None:
    """`<name>.csv` and `<name>.json`, each whole or not at all."""
    theirs = printed(experiment, records)
    columns = list(dict.fromkeys(name for record in records for name in record["at"]))
    text = io.StringIO()
    writer = csv.writer(text)
    paper = [f"paper: {name}" for name in theirs]
    writer.writerow([*columns, *experiment.quantities, *paper, "measuring_seconds", "training", "error", "left_out"])
    for record in records:
        at, values, published = record["at"], record["values"], record["paper"]
        writer.writerow(
            [
                *(at.get(name, "") for name in columns),
                *("" if values[name] is None else values[name] for name in experiment.quantities),
                *(published.get(name, "") for name in theirs),
                "" if record["seconds"] is None else record["seconds"],
                record["training"] or "",
                record["error"],
                record["left_out"],
            ]
        )
    write_atomically(folder / f"{experiment.name}.csv", text.getvalue().encode())
    whole = {
        "experiment": experiment.name,
        "title": experiment.title,
        "source": experiment.published.source,
        "conditions of the paper": experiment.published.conditions,
        "notes": [*experiment.notes, *experiment.published.notes],
        "quantities": experiment.quantities,
        "rows": records,
    }
    write_atomically(
        folder / f"{experiment.name}.json", (json.dumps(whole, indent=1, ensure_ascii=False) + "\n").encode()
    )
