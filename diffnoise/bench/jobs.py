"""Which processes a run needs, and running one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .cases import Case
from .timing import Effort

BEST = "best"
# A machine of that level: for us, for torch, its matrix library and its compiler, and for numba.
LEVELS = {
    "avx2": {
        "DIFFNOISE_ISA": "avx2",
        "ATEN_CPU_CAPABILITY": "avx2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "NUMBA_CPU_NAME": "haswell",
        "NUMBA_CPU_FEATURES": "",
    },
    "baseline": {
        "DIFFNOISE_ISA": "baseline",
        "ATEN_CPU_CAPABILITY": "default",
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "NUMBA_CPU_NAME": "x86-64",
        "NUMBA_CPU_FEATURES": "",
    },
}
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
SECONDS = 900  # after which a process is ended


@dataclass(frozen=True)
class Job:
    """What one process measures; without cases, the limits of the GPU."""

    cases: tuple[str, ...]
    device: str
    threads: int | None
    isa: str
    effort: Effort
    compilers: bool

    def __str__(self) -> str:
        what = ", ".join(self.cases) or "limits of the GPU"
        if self.device == "cuda":
            return f"{what} on cuda"
        level = "" if self.isa == BEST else f", {self.isa}"
        return f"{what}: {self.threads} thread{'s' if self.threads != 1 else ''}{level}"

    def environment(self) -> dict[str, str]:
        """The variables that fix threads and instruction set, beside those of this process."""
        threads = {name: str(self.threads) for name in THREADS} if self.threads else {}
        return threads | LEVELS.get(self.isa, {})


def plan(
    cases: Sequence[Case],
    devices: Sequence[str],
    threads: Sequence[int],
    isas: Sequence[str],
    effort: Effort,
    quick: bool,
) -> list[Job]:
    """The most telling first: the GPU, then one thread, then more, then lower instruction sets, in the order of the cases.

    Lower instruction sets are measured with the first number of threads alone. A quick run compiles nothing, and neither
    does one at a lower instruction set.
    """
    by_op: dict[str, list[str]] = {}
    for case in cases:
        by_op.setdefault(case.op.name, []).append(case.name)
    jobs = []
    if "cuda" in devices:
        groups = [(), *map(tuple, by_op.values())]
        jobs += [Job(names, "cuda", None, BEST, effort, not quick) for names in groups]
    if "cpu" in devices:
        settings = [(count, isas[0]) for count in threads] + [(threads[0], isa) for isa in isas[1:]]
        for count, isa in settings:
            compilers = not quick and isa == BEST
            jobs += [Job(tuple(names), "cpu", count, isa, effort, compilers) for names in by_op.values()]
    return jobs


def run(job: Job) -> Iterator[dict[str, Any]]:
    """The rows of a job as they come; one of status "failed" for every case that gave none."""
    expected = list(job.cases)
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", f"{__package__}.worker"],  # -P: this package, not one that lies in the folder
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=os.environ | _python_path() | job.environment(),
            process_group=0,
        )
        assert process.stdin is not None and process.stdout is not None
        clock = threading.Timer(SECONDS, _end, [process])
        clock.start()
        try:
            with suppress(BrokenPipeError):  # it died at once; what it said follows
                process.stdin.write(json.dumps(asdict(job)) + "\n")
                process.stdin.flush()
            for line in process.stdout:
                row = json.loads(line)
                if row.get("case") in expected:
                    expected.remove(row["case"])
                yield _placed(row, job)
            process.wait()
        finally:
            late = not clock.is_alive()
            clock.cancel()
            _end(process)
            with suppress(BrokenPipeError):
                process.stdin.close()
            process.stdout.close()
        errors.seek(0)
        said = errors.read().strip().splitlines()
    reason = f"ended after {SECONDS} s" if late else f"exit code {process.returncode}: {said[-1] if said else ''}"
    if not job.cases and process.returncode:
        print(f"diffnoise: the limits of the GPU were not measured: {reason}", file=sys.stderr)
    for name in expected:
        yield _placed({"case": name, "status": "failed", "reason": reason}, job)


def _placed(row: dict[str, Any], job: Job) -> dict[str, Any]:
    """A failed row, too, says where it failed."""
    return {"device": job.device, "threads": job.threads, "isa": job.isa} | row if "case" in row else row


def _end(process: subprocess.Popen[str]) -> None:
    """End the process and those that it started, such as compilers."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def _python_path() -> dict[str, str]:
    """In a checkout that is not installed the process has to be told where the package is."""
    root = Path(__file__).resolve().parents[2]
    if not (root / "pyproject.toml").exists():
        return {}
    return {"PYTHONPATH": os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])}
