"""Finished measurements, one JSON object a line, so that a study can be killed at any moment and goes on where it was."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


class Ledger:
    """The lines of a file by their `key`; a line that a kill cut short counts as not there.

    Measurements are added as they are made, each with one write, and are on the disk before `add` returns.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._lines: dict[str, dict[str, Any]] = {}
        content = self.path.read_bytes() if self.path.exists() else b""
        for line in content.splitlines():
            try:
                measurement = json.loads(line)
                self._lines[measurement["key"]] = measurement
            except (ValueError, KeyError, TypeError):
                continue
        self._cut = bool(content) and not content.endswith(b"\n")

    def __contains__(self, key: str) -> bool:
        return key in self._lines

    def __getitem__(self, key: str) -> dict[str, Any]:
        return self._lines[key]

    def add(self, measurement: dict[str, Any]) -> None:
        line = json.dumps(measurement, allow_nan=False).encode() + b"\n"
        handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(handle, b"\n" * self._cut + line)
            os.fsync(handle)
        finally:
            os.close(handle)
        self._cut = False
        self._lines[measurement["key"]] = measurement
