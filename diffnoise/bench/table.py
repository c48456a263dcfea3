"""Results as text."""

from __future__ import annotations

from typing import Any

from .peers.own import OURS

Row = dict[str, Any]
BUSY = 0.15  # cores
HEADER = f"{'median':>11}{'p20':>11}{'p80':>11}{'Msamples/s':>13}{'rate':>16}{'of limit':>10}{'x ours':>10}"


def case(row: Row) -> str:
    """The table of one case."""
    where = (
        "GPU"
        if row["device"] == "cuda"
        else f"{row['threads']} thread{'s' if row['threads'] != 1 else ''}, {row['isa'] or 'no kernels'}"
    )
    if row["status"] == "failed":
        return f"{row['case']} ({where})\n  FAILED: {row['reason']}\n"
    shape = " x ".join(map(str, row["shape"]))
    kernel = "" if row["kernel"] else ", PyTorch reference"
    lines = [f"{row['case']} ({where}{kernel}): {row['what']}; {shape}"]
    error = "not a number" if row["error"] is None else f"{row['error']:.1e}"
    if row["status"] == "wrong":
        return f"{lines[0]}\n  WRONG: differs by {error} from the reference, {row['tolerance']:.1e} is allowed; not timed\n"
    lines.append(f"  {limit(row)}; error {error}")
    if row["others"] is not None and row["others"] > BUSY:
        lines.append(f"  BUSY: other processes used {row['others']:.1f} cores; time again when nothing else runs")
    names = [timing["name"] for timing in row["timings"]]
    width = max(map(len, names)) + 2
    lines.append(" " * (width + 2) + HEADER)
    ours = next(timing["seconds"]["median"] for timing in row["timings"] if timing["name"] == OURS)
    lines += [f"  {timing['name']:<{width}}{cells(timing, row, ours)}" for timing in row["timings"]]
    return "\n".join(lines) + "\n"


def limit(row: Row) -> str:
    if row["limit"] is None:
        return "no limit but the call itself"
    bound = row["limit"]
    return (
        f"limits: {bound['bandwidth']['what']} {bound['bandwidth']['GB_per_s']:.1f} GB/s, so {duration(bound['memory_seconds'])}; "
        f"{bound['rate']['what']} {bound['rate']['GFLOP_per_s']:.0f} GFLOP/s, so {duration(bound['arithmetic_seconds'])}"
    )


def cells(timing: Row, row: Row, ours: float) -> str:
    if "left_out" in timing:
        return f"  left out: {timing['left_out']}"
    seconds = timing["seconds"]
    times = "".join(f"{duration(seconds[name]):>11}" for name in ("median", "p20", "p80"))
    share = "" if timing["share_of_limit"] is None else f"{timing['share_of_limit']:.1%}"
    faster = "" if timing["name"] == OURS else f"{seconds['median'] / ours:.2f} x"
    return f"{times}{timing['samples_per_s'] / 1e6:>13.2f}{rate(timing, row):>16}{share:>10}{faster:>10}"


def rate(timing: Row, row: Row) -> str:
    """In the unit of the limit that holds."""
    bound = row["limit"]
    if bound is None:
        return ""
    if bound["memory_seconds"] > bound["arithmetic_seconds"]:
        return f"{timing['GB_per_s']:.2f} GB/s"
    return f"{timing['GFLOP_per_s']:.1f} GFLOP/s"


def ratios(entries: list[Row]) -> str:
    """Ratios beside their goals; empty without any."""
    if not entries:
        return ""
    width = max(len(entry["what"]) for entry in entries) + 2
    lines = [f"{'ratios of this run':<{width}}{'value':>12}{'goal':>18}"]
    for entry in entries:
        word, goal = ("at least", entry["at_least"]) if "at_least" in entry else ("at most", entry["at_most"])
        unit = f" {entry['unit']}" if entry["unit"] else ""
        missed = "" if entry["met"] else "   missed"
        value, wanted = f"{entry['value']:.2f}{unit}", f"{word} {goal:g}{unit}"
        lines.append(f"{entry['what']:<{width}}{value:>12}{wanted:>18}{missed}")
    return "\n".join(lines) + "\n"


def duration(seconds: float) -> str:
    for unit, length in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} us"
