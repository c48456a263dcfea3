"""Writes the README's tables from benchmarks/results; `--check` only says whether they are up to date.

python benchmarks/tables.py [--check]
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
KEYS = ("image_AUROC", "pixel_AUROC", "pixel_AP", "pixel_AUPRO")
# Nearest neighbour on EfficientNet-Lite0 features, image and pixel AUROC, as given with the data.
NEAREST_NEIGHBOUR = {"magnetic_tile": (0.840, 0.794), "screw": (0.658, 0.974)}


def accuracy() -> str:
    lines = [
        "| category | method | image AUROC | pixel AUROC | pixel AP | pixel AUPRO | images/s |",
        "|---|---|---|---|---|---|---|",
    ]
    for path in sorted((ROOT / "benchmarks/results").glob("accuracy_*.json")):
        result = json.loads(path.read_text())
        name, metrics = result["category"], result["metrics"]
        minutes = result["training"]["seconds"] / 60
        lines.append(
            _row(
                name,
                f"diffnoise, {minutes:.0f} minutes on {result['machine']['threads']} CPU cores",
                [metrics[k] for k in KEYS],
                metrics["fps"],
            )
        )
        lines.append(_row("", "brightness, the better sign", [result["baselines"][f"brightness_{k}"] for k in KEYS]))
        if name in NEAREST_NEIGHBOUR:
            lines.append(_row("", "nearest neighbour on pretrained features", [*NEAREST_NEIGHBOUR[name], None, None]))
    return "\n".join(lines)


def _row(name: str, method: str, values: list[float | None], fps: float | None = None) -> str:
    cells = ["–" if value is None else f"{value:.3f}" for value in values]
    return f"| {name} | {method} | {' | '.join(cells)} | {'–' if fps is None else f'{fps:.1f}'} |"


def rendered(readme: str) -> str:
    """The README with its tables made anew."""
    tables: dict[str, Any] = {"accuracy": accuracy}
    for name, table in tables.items():
        pattern = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
        readme = re.sub(pattern, lambda m, table=table: m[1] + table() + "\n" + m[2], readme, flags=re.DOTALL)
    return readme


def main() -> int:
    path = ROOT / "README.md"
    before = path.read_text()
    after = rendered(before)
    if "--check" in sys.argv:
        print(
            "up to date"
            if before == after
            else "README.md differs from benchmarks/results: run python benchmarks/tables.py"
        )
        return int(before != after)
    path.write_text(after)
    return 0


if __name__ == "__main__":
    sys.exit(main())
