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


def bench(results: Path = ROOT / "benchmarks/results") -> str:
    """A table per result file of `diffnoise bench --output benchmarks/results/bench_<machine>.json`."""
    runs = [json.loads(path.read_text()) for path in sorted(results.glob("bench_*.json"))]
    tables = [table for run in runs for table in (_on_cpu(run), _on_gpu(run)) if table]
    return "\n\n".join(tables) or "*Not measured yet.*"


def _on_cpu(run: dict[str, Any]) -> str:
    rows = [row for row in run["results"] if row["device"] == "cpu" and row["status"] == "timed" and not row["lowered"]]
    if not rows:
        return ""
    threads = sorted({row["threads"] for row in rows})
    heads = [f"{count} thread{'s' if count > 1 else ''}" for count in threads]
    lines = [
        _caption(run, f"{run['machine']['processor']}, {run['machine']['isa']}"),
        "",
        f"| work | {' | '.join(heads)} | of the limit | times that of others, {heads[0]} |",
        "|---" * (len(threads) + 3) + "|",
    ]
    for case in dict.fromkeys(row["case"] for row in rows):
        found = {row["threads"]: row for row in rows if row["case"] == case}
        times = [_duration(_ours(found[count])["seconds"]["median"]) if count in found else "–" for count in threads]
        shown = found.get(threads[0])
        if shown:
            share, others = _share(_ours(shown)["share_of_limit"]), _others(shown)
            lines.append(f"| {_work(shown)} | {' | '.join(times)} | {share} | {others} |")
    return "\n".join(lines)


def _on_gpu(run: dict[str, Any]) -> str:
    rows = [row for row in run["results"] if row["device"] == "cuda" and row["status"] == "timed"]
    if not rows:
        return ""
    gpu = run["machine"]["gpu"]
    limits = ", ".join(f"{limit['what']} {limit['rate']:.0f} {limit['unit']}" for limit in run["gpu_limits"])
    lines = [
        _caption(run, f"{gpu['name']}, CUDA {gpu['cuda']}"),
        *([f"Its limits: {limits}."] if limits else []),
        "",
        "| work | diffnoise | memory alone | arithmetic alone | of the larger | times that of others |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        bound = row["limit"]
        floors = [_duration(bound[f"{name}_seconds"]) if bound else "–" for name in ("memory", "arithmetic")]
        time, share = _duration(_ours(row)["seconds"]["median"]), _share(_ours(row)["share_of_limit"])
        lines.append(f"| {_work(row)} | {time} | {' | '.join(floors)} | {share} | {_others(row)} |")
    return "\n".join(lines)


WAYS = ("diffnoise, bfloat16", "diffnoise, float32", "diffusers", "MONAI DiffusionInferer", "torch")


def pipeline(results: Path = ROOT / "benchmarks/results") -> str:
    """The tables of each result file of `python benchmarks/pipeline.py --output benchmarks/results/pipeline_<machine>.json`."""
    runs = [json.loads(path.read_text()) for path in sorted(results.glob("pipeline_*.json"))]
    tables = [table for run in runs for table in (_networks(run), _demo(run)) if table]
    return "\n\n".join(tables) or "*Not measured yet.*"


def _networks(run: dict[str, Any]) -> str:
    rows = [row for row in run.get("rows", []) if "results" in row]
    if not rows:
        return ""
    lines = [
        _caption(run, _processor(run)),
        "",
        f"| network | steps | batch | {' | '.join(WAYS)} | not the network | of the matrix rate |",
        "|---" * (len(WAYS) + 5) + "|",
    ]
    for row in rows:
        found = [row["results"].get(way) for way in WAYS]
        rates = [f"{result['images_per_second']:.3g}" if result else "–" for result in found]
        times = row["stations"][WAYS[0]]
        rest = 1 - times["network"] / sum(times.values())
        share = row["results"][WAYS[0]]["share_of_matrix_rate"]
        cells = [row["network"], f"{row['steps']}", f"{row['batch']}", *rates, f"{rest:.1%}", _share(share)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _demo(run: dict[str, Any]) -> str:
    part = run.get("demo")
    if not part:
        return ""
    lines = [
        f"The demo's detector on its {part['images']} images; {_caption(part, _processor(part))}",
        "",
        f"| frames, precision | images/s, {part['threads']} threads | image AUROC | largest change of a score | of a map |",
        "|---|---|---|---|---|",
    ]
    for way, result in part["results"].items():
        changes = [f"{result[name]:.1e}" for name in ("score_difference", "map_difference")]
        lines.append(
            f"| {way} | {result['images_per_second']:.3g} | {result['image_AUROC']:.4f} | {' | '.join(changes)} |"
        )
    return "\n".join(lines)


def _processor(run: dict[str, Any]) -> str:
    gpu = run["machine"]["gpu"]
    return gpu["name"] if gpu else f"{run['machine']['processor']}, {run['machine']['isa']}"


def _caption(run: dict[str, Any], machine: str) -> str:
    commit = f", commit {run['commit'][:7]}" if run["commit"] else ""
    return f"{machine}; torch {run['versions']['torch']}, {run['date'][:10]}{commit}:"


def _work(row: dict[str, Any]) -> str:
    return f"`{row['case']}` {' × '.join(map(str, row['shape']))}"


def _ours(row: dict[str, Any]) -> dict[str, Any]:
    return next(timing for timing in row["timings"] if timing["name"] == "diffnoise")


def _others(row: dict[str, Any]) -> str:
    """How many times our time the peers take, the fastest first; those behind a row of ours that does more than the op, against that one."""
    found, ours = [], _ours(row)["seconds"]["median"]
    for timing in row["timings"]:
        if "seconds" not in timing:
            continue
        if timing["name"].startswith("diffnoise."):
            ours = timing["seconds"]["median"]
        elif not timing["name"].startswith("diffnoise"):
            found.append((timing["seconds"]["median"] / ours, timing["name"]))
    return (
        ", ".join(f"{name} {ratio:.2g}" if ratio < 10 else f"{name} {ratio:.0f}" for ratio, name in sorted(found))
        or "–"
    )


def _share(share: float | None) -> str:
    return "–" if share is None else f"{share:.0%}"


def _duration(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} µs"


def rendered(readme: str) -> str:
    """The README with its tables made anew."""
    tables: dict[str, Any] = {"accuracy": accuracy, "bench": bench, "pipeline": pipeline}
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
