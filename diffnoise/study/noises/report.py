"""The noise study on disk: `study.json` and its pictures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...checkpoint import write_atomically
from .measurement import as_json, header, run
from .pictures import draw


def write(
    folder: Path, kinds: Sequence[str], size: int, samples: int, seed: int, again: bool = True
) -> tuple[dict[str, Any], list[Path]]:
    """Measure and draw into the folder; returns the study and its pictures. Unless `again`, what `study.json` holds of the same study is taken."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "study.json"
    found = None if again or not path.exists() else json.loads(path.read_text(encoding="utf-8"))
    if found is None or any(found[name] != value for name, value in header(kinds, size, samples, seed).items()):
        found = run(kinds, size, samples, seed, progress=True)
        write_atomically(path, as_json(found).encode())
    return found, draw(found, folder)
