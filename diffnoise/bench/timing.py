"""Times calls in turns, so that all of them see the same machine."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

Call = Callable[[], Any]
Clock = Callable[[Call], float]
"""Runs a call and returns its seconds."""

FLUSH_BYTES = 1 << 30  # many times the L2 of any GPU
CALLS = 200  # in a turn, at most


@dataclass(frozen=True)
class Effort:
    """How long to measure: `rounds` turns, in which every call gets `seconds` in all, and none more than `limit`."""

    seconds: float
    rounds: int
    limit: float


THOROUGH = Effort(seconds=1.5, rounds=15, limit=6.0)
QUICK = Effort(seconds=0.3, rounds=5, limit=1.0)


@dataclass(frozen=True)
class Timing:
    """Seconds per call: the median, the 20th and 80th percentile, and the fastest."""

    median: float
    p20: float
    p80: float
    best: float
    calls: int

    @staticmethod
    def of(seconds: Sequence[float]) -> Timing:
        p20, median, p80 = (float(value) for value in np.percentile(seconds, (20, 50, 80)))
        return Timing(median, p20, p80, min(seconds), len(seconds))


def host_clock(device: torch.device) -> Clock:
    """Wall time with everything between the call and its result; on a GPU until the device is done."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None

    def measure(call: Call) -> float:
        wait()
        start = time.perf_counter()
        call()
        wait()
        return time.perf_counter() - start

    return measure


def device_clock() -> Clock:
    """Time on the GPU between two events. A write larger than the L2 goes before: it empties the cache and hides the launch."""
    flush = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device="cuda")

    def measure(call: Call) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        flush.zero_()
        start.record()
        call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3

    return measure


def interleave(calls: Mapping[str, Call], clock: Clock, effort: Effort) -> dict[str, list[float]]:
    """Seconds of every call of each, taken in turns, after one more to warm up; each has been called before."""
    turns = {name: _turns(clock(call), effort) for name, call in calls.items()}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for round_ in range(effort.rounds):
        for name, call in calls.items():
            if round_ not in turns[name]:
                continue
            turn: list[float] = []
            while sum(turn) < effort.seconds / effort.rounds and len(turn) < CALLS:
                turn.append(clock(call))
            seconds[name] += turn
    return seconds


def _turns(duration: float, effort: Effort) -> set[int]:
    """The rounds that a call of this duration takes part in: all, or as many as fit the limit, evenly spread."""
    count = max(1, min(effort.rounds, math.floor(effort.limit / max(duration, 1e-9))))
    return {round(i * effort.rounds / count) for i in range(count)}
