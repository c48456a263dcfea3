"""Checks a case, times it beside its peers and the machine's limits, and makes its row of the results."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch

from .. import telemetry
from ..ops import _native
from . import check, limits, machine, work
from .cases import Case, read_bytes, written_bytes
from .peers import Arguments, Peer
from .peers.own import OURS, positional
from .timing import Clock, Effort, Timing, device_clock, host_clock, interleave

Row = dict[str, Any]


def measure(case: Case, device: torch.device, effort: Effort, compilers: bool, lowered: bool = False) -> Row:
    """One row. Its `status` is "timed", or "wrong" for a kernel that disagrees with its reference: that is not timed.

    `others` is how many cores other processes used meanwhile: where they do, long calls are interrupted more than short ones, and
    ratios of the two say little. `telemetry` is what the GPU told before and after the timing, where there is one that tells. compilers: whether peers may compile first. lowered: whether a lower instruction set than the best is in use.
    """
    arguments, shape = case.arguments(device), case.shape(device)
    ours = positional(case.op, arguments)
    error = check.error(case.op, arguments, ours())
    row: Row = {
        "case": case.name,
        "op": case.op.name,
        "what": case.what,
        "device": device.type,
        "threads": torch.get_num_threads() if device.type == "cpu" else None,
        "isa": _native.status().isa if device.type == "cpu" else None,
        "lowered": lowered,
        "kernel": case.op.has_kernel(device.type.upper()),
        "shape": list(shape),
        "samples": math.prod(shape),
        "bytes": read_bytes(arguments) + written_bytes(shape),
        "flop": case.operations * work.FLOP_PER_OPERATION * math.prod(shape),
        # JSON has no NaN.
        "error": error if math.isfinite(error) else None,
        "tolerance": check.TOLERANCE,
        "status": "timed" if error <= check.TOLERANCE else "wrong",
        "limit": None,
        "others": None,
        "telemetry": None,
        "timings": [],
    }
    if row["status"] == "wrong":
        return row
    clock = host_clock(device) if case.latency or device.type == "cpu" else device_clock()
    reasons = {peer: peer.missing(device.type, compilers, lowered) for peer in case.peers}
    calls, left_out = _prepare(reasons, arguments, clock)
    probes = {} if case.latency else _probes(arguments, shape, device)
    for probe in probes.values():
        probe.call()
    others, before = machine.others(), telemetry.sample(device)
    seconds = interleave({OURS: ours} | calls | {name: p.call for name, p in probes.items()}, clock, effort)
    row["others"] = others()
    row["telemetry"] = {"before": before, "after": telemetry.sample(device)} if before else None
    timings = {name: Timing.of(values) for name, values in seconds.items()}
    row["limit"] = limit(row, {name: (p, timings.pop(name)) for name, p in probes.items()}) if probes else None
    row["timings"] = [timed(name, timing, row) for name, timing in timings.items()]
    row["timings"] += [{"name": name, "left_out": reason} for name, reason in left_out.items()]
    return row


def _prepare(
    reasons: dict[Peer, str | None], arguments: Arguments, clock: Clock
) -> tuple[dict[str, Callable[[], Any]], dict[str, str]]:
    """The calls of the peers that have no reason to be left out, each run once; and the reasons of the others."""
    calls, left_out = {}, {}
    for peer, reason in reasons.items():
        if reason is None:
            try:
                call = peer.prepare(arguments)
                clock(call)
            except Exception as error:  # a peer's failure is not ours
                first_line = next(iter(str(error).strip().splitlines()), "")
                reason = f"failed: {type(error).__name__}: {first_line}"
            else:
                calls[peer.name] = call
        if reason is not None:
            left_out[peer.name] = reason
    return calls, left_out


def _probes(arguments: Arguments, shape: tuple[int, ...], device: torch.device) -> dict[str, limits.Probe]:
    moved = limits.memory(read_bytes(arguments), written_bytes(shape), device)
    return {"memory": moved, "arithmetic": limits.arithmetic(device)}


def limit(row: Row, probes: dict[str, tuple[limits.Probe, Timing]]) -> Row:
    """The rates of the machine at their fastest, and the least time that they leave for the row's bytes and operations."""
    (moved, moving), (done, doing) = probes["memory"], probes["arithmetic"]
    bandwidth, rate = moved.amount / moving.best, done.amount / doing.best
    return {
        "bandwidth": {"what": moved.what, "GB_per_s": bandwidth / 1e9},
        "rate": {"what": done.what, "GFLOP_per_s": rate / 1e9},
        "memory_seconds": row["bytes"] / bandwidth,
        "arithmetic_seconds": row["flop"] / rate,
    }


def timed(name: str, timing: Timing, row: Row) -> Row:
    """A timing with what follows from it for the row's work."""
    bound = row["limit"]
    floor = max(bound["memory_seconds"], bound["arithmetic_seconds"]) if bound else None
    return {
        "name": name,
        "seconds": asdict(timing),
        "samples_per_s": row["samples"] / timing.median,
        "GB_per_s": row["bytes"] / timing.median / 1e9,
        "GFLOP_per_s": row["flop"] / timing.median / 1e9,
        "share_of_limit": floor / timing.median if floor else None,
    }


def gpu_limits(effort: Effort) -> list[Row]:
    """Copy bandwidth and matrix rates of the GPU, at the sizes at which it reaches them."""
    probes = {probe.what: probe for probe in limits.of_the_gpu()}
    for probe in probes.values():
        probe.call()
    seconds = interleave({what: probe.call for what, probe in probes.items()}, device_clock(), effort)
    return [
        {"what": what, "unit": "GB/s" if what == "copy" else "GFLOP/s", "rate": probes[what].amount / min(s) / 1e9}
        for what, s in seconds.items()
    ]
