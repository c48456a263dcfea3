"""The results of a run: kept, written as they come, and summed up in an exit code."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from . import machine
from .ratios import ratios

SCHEMA = 1
DONE, FAILED, PARTLY = 0, 1, 3


class Report:
    """Collects rows; with a path, the file holds all of them after every one, so that a run cut short leaves its results."""

    def __init__(self, settings: dict[str, Any], path: str | Path | None) -> None:
        self.path = Path(path) if path else None
        self.content: dict[str, Any] = {
            "schema": SCHEMA,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "complete": False,
            "settings": settings,
            "machine": machine.describe(),
            "versions": machine.versions(),
            "commit": machine.commit(),
            "gpu_limits": [],
            "results": [],
            "ratios": [],
        }
        self._write()

    @property
    def rows(self) -> list[dict[str, Any]]:
        return self.content["results"]

    def add(self, row: dict[str, Any]) -> None:
        """A row of a case, or the limits of the GPU."""
        if "gpu_limits" in row:
            self.content["gpu_limits"] = row["gpu_limits"]
        else:
            self.rows.append(row)
            self.content["ratios"] = ratios(self.rows)
        self._write()

    def finish(self) -> int:
        """The run came to its end; its exit code: 0 all timed, 1 nothing, 3 something."""
        self.content["complete"] = True
        self._write()
        timed = sum(row["status"] == "timed" for row in self.rows)
        if timed == len(self.rows):
            return DONE
        return PARTLY if timed else FAILED

    def json(self) -> str:
        return json.dumps(self.content, indent=1, allow_nan=False)

    def _write(self) -> None:
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self.path.with_name(self.path.name + ".unfinished")
        unfinished.write_text(self.json() + "\n")
        os.replace(unfinished, self.path)
