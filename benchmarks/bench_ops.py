"""The cases of `diffnoise bench` for pytest-benchmark, on the CPU.

    OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 python -m pytest benchmarks -k simplex_noise_3d

A kernel that disagrees with its reference fails instead of being timed.
"""

from __future__ import annotations

import functools

import pytest
import torch

from diffnoise.bench import check
from diffnoise.bench.cases import CASES, Case
from diffnoise.bench.peers import Arguments, Peer
from diffnoise.bench.peers.own import OURS, positional
from diffnoise.memory import recycle_memory

CPU = torch.device("cpu")
recycle_memory()


@functools.lru_cache(1)
def arguments(case: Case) -> Arguments:
    return case.arguments(CPU)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_diffnoise(case: Case, benchmark) -> None:
    benchmark.group, benchmark.name = case.name, OURS
    call = positional(case.op, arguments(case))
    error = check.error(case.op, arguments(case), call())
    assert error <= check.TOLERANCE, f"WRONG: differs by {error:.1e} from the reference"
    benchmark(call)


@pytest.mark.parametrize(
    ("case", "peer"), [pytest.param(c, p, id=f"{c.name}-{p.name}") for c in CASES for p in c.peers]
)
def test_peer(case: Case, peer: Peer, benchmark, request: pytest.FixtureRequest) -> None:
    benchmark.group, benchmark.name = case.name, peer.name
    reason = peer.missing("cpu", compilers=request.config.getoption("--compile"), lowered=False)
    if reason:
        pytest.skip(reason)
    benchmark(peer.prepare(arguments(case)))
