"""The microbenchmarks: every op beside its peers and the limits of the machine, in one run.

`cases` says what is timed, `peers` who else does it, `work` what it takes at least, `limits` what the machine can do, `check` whether a
kernel is right, `timing` how time is taken. `jobs` starts one process per op, number of threads and instruction set.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from ..ops import _native
from . import jobs, machine, table
from .cases import CASES, Case
from .cases import chosen as chosen
from .jobs import BEST, LEVELS
from .report import FAILED, Report
from .timing import QUICK, THOROUGH


def devices(asked: str | None) -> list[str]:
    """The devices to measure on: the GPU, where there is one, and the CPU. Raises `ValueError` for a GPU that is not there."""
    there = torch.cuda.is_available()
    if asked == "cuda" and not there:
        raise ValueError("There is no GPU that torch can use; leave out --device, or say --device cpu.")
    return [asked] if asked else ["cuda", "cpu"] if there else ["cpu"]


def default_threads() -> list[int]:
    """One, two and all cores."""
    cores = machine.cores()
    return sorted({1, min(2, cores), cores})


def levels(asked: Sequence[str]) -> list[str]:
    """The instruction sets among those asked for that this machine can be held to; the best where none is."""
    best = _native.status().isa
    order = ["avx512", *LEVELS]
    below = order[order.index(best) + 1 :] if best in order else []
    return [name for name in asked if name == BEST or name in below] or [BEST]


def run(
    cases: Sequence[Case],
    devices: Sequence[str],
    threads: Sequence[int],
    isas: Sequence[str],
    *,
    quick: bool = False,
    output: str | Path | None = None,
    as_json: bool = False,
) -> int:
    """Measure the cases, print their tables as they come or one JSON object in the end, and return the exit code.

    output: a JSON file that holds all results so far at any time.
    """
    todo = jobs.plan(cases, devices, threads, isas, QUICK if quick else THOROUGH, quick)
    settings = {"cases": [case.name for case in cases], "threads": list(threads), "isas": list(isas), "quick": quick}
    report = Report(settings, output)
    code = FAILED
    try:
        for number, job in enumerate(todo, start=1):
            print(f"[{number}/{len(todo)}] {job}", file=sys.stderr, flush=True)
            for row in jobs.run(job):
                report.add(row)
                if not as_json and "case" in row:
                    print(table.case(row), flush=True)
        code = report.finish()
    finally:  # also when interrupted
        print(report.json() if as_json else table.ratios(report.content["ratios"]))
    return code


def listing() -> str:
    """Names of the cases and what they are."""
    width = max(len(case.name) for case in CASES) + 2
    return "\n".join(f"{case.name:<{width}}{case.what}" for case in CASES)
