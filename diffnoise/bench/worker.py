"""A process that measures: takes a `Job` as a line of JSON on standard input and prints one per result.

A process of its own, because numbers of threads and instruction sets are fixed for the whole life of one. It ends when its
standard input does, so that it never outlives the process that started it.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import traceback
from collections.abc import Iterator
from typing import Any

import torch

from ..memory import recycle_memory
from .cases import chosen
from .jobs import BEST
from .measure import gpu_limits, measure
from .timing import Effort


def results(job: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Rows of the job's cases, one after the other; a case that raises gives a row of status "failed"."""
    device, effort = torch.device(job["device"]), Effort(**job["effort"])
    if job["threads"]:
        torch.set_num_threads(job["threads"])
    recycle_memory()
    if not job["cases"]:
        yield {"gpu_limits": gpu_limits(effort)}
    for case in chosen(job["cases"]) if job["cases"] else ():
        try:
            yield measure(case, device, effort, job["compilers"], job["isa"] != BEST)
        except Exception as error:
            traceback.print_exc()
            yield {"case": case.name, "status": "failed", "reason": f"{type(error).__name__}: {error}"}


def _end_with_input() -> None:
    sys.stdin.read()
    os._exit(1)


def main() -> None:
    # Whatever else prints goes to standard error.
    lines = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    job = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_input, daemon=True).start()
    for result in results(job):
        print(json.dumps(result), file=lines, flush=True)


if __name__ == "__main__":
    main()
