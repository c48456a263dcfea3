"""What a measurement ran on: the machine, the versions, the commit."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from .. import __version__, telemetry
from ..noise import NOISE_VERSION
from ..ops import _native

PACKAGES = (
    "torch",
    "numpy",
    "scipy",
    "triton",
    "diffusers",
    "monai",
    "opensimplex",
    "numba",
    "pyfastnoisesimd",
    "pyfastnoiselite",
    "nvidia-ml-py",
    "opencv-python-headless",
)
ROOT = Path(__file__).resolve().parents[2]


def describe() -> dict[str, Any]:
    """Processor, cores, memory, instruction set; and the GPU, where there is one."""
    return {
        "processor": _processor(),
        "architecture": platform.machine(),
        "system": " ".join([platform.system(), *platform.libc_ver()]),
        "cores": cores(),
        "memory_GiB": _memory(),
        "isa": _native.status().isa,
        "torch_isa": torch.backends.cpu.get_cpu_capability(),
        "gpu": _gpu() if torch.cuda.is_available() else None,
    }


def versions() -> dict[str, str | None]:
    """diffnoise and its noises, Python and every package that matters; None for one that is not installed."""
    own = {"diffnoise": __version__, "noise": NOISE_VERSION, "python": platform.python_version()}
    return own | {name: _version(name) for name in PACKAGES}


def commit() -> str | None:
    """The commit of the checkout that this package is in, with "+changes" when files differ from it; None outside a checkout."""
    if not (ROOT / ".git").exists() or not (ROOT / "pyproject.toml").exists():
        return None
    head = _git("rev-parse", "HEAD")
    changed = head and _git("status", "--porcelain", "--untracked-files=no")
    return f"{head}+changes" if changed else head


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def others() -> Callable[[], float | None]:
    """A function that says how many cores other processes (and other guests of the host) have used since; None where unknown."""
    start = _busy()

    def used() -> float | None:
        now = _busy()
        if start is None or now is None:
            return None
        all_of_them, own, wall = (after - before for after, before in zip(now, start, strict=True))
        return max(0.0, all_of_them - own) / wall

    return used


def _busy() -> tuple[float, float, float] | None:
    """Seconds that all cores have been busy, that this process has, and on the clock."""
    path = Path("/proc/stat")
    if not path.exists():
        return None
    # user nice system idle iowait irq softirq steal; guests are within user.
    user, nice, system, _, _, *rest = map(int, path.read_text().split("\n", 1)[0].split()[1:9])
    return (user + nice + system + sum(rest)) / os.sysconf("SC_CLK_TCK"), time.process_time(), time.perf_counter()


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _memory() -> float | None:
    names = {"SC_PAGE_SIZE", "SC_PHYS_PAGES"}
    if not names <= set(getattr(os, "sysconf_names", ())):
        return None
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)


def _gpu() -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(0)
    return {
        "name": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory_GiB": round(properties.total_memory / 2**30, 1),
        "cuda": torch.version.cuda,
        "driver": telemetry.driver(),
    }
