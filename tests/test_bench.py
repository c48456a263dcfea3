"""`diffnoise bench`: what it calls right and wrong, its arithmetic, its peers, its processes and what it writes. No timings."""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import python_environment
from torch import Tensor

from diffnoise import bench, cli, ops
from diffnoise.bench import check, jobs, limits, machine, measure, ratios, table, timing, work
from diffnoise.bench.cases import CASES, Case, read_bytes, written_bytes
from diffnoise.bench.peers import Peer, classic_simplex, divergence, mixture, opensimplex, ranking, steps
from diffnoise.bench.peers.own import OURS, positional
from diffnoise.ops import _native, _philox
from diffnoise.ops._opensimplex import channel_seeds
from diffnoise.schedule import Schedule

CPU = torch.device("cpu")
BRIEF = timing.Effort(seconds=1e-9, rounds=1, limit=0.0)  # every call once
NAMES = {case.name: case for case in CASES}


def small(name: str) -> Case:
    """The case with a result of few values."""
    case = NAMES[name]
    flat = {ops.simplex_noise_at: (2, 40), ops.interval_counts: (81,)}
    shape = flat[case.op] if case.op in flat else (2, case.shapes["cpu"][1], 9, 16)
    return dataclasses.replace(case, shapes={"cpu": shape, "cuda": shape})


def broken(monkeypatch: pytest.MonkeyPatch, op: Any, damage: Any) -> None:
    """Let the op's kernel give `damage(result)`."""
    kernel = op._overload
    monkeypatch.setattr(op, "_overload", lambda *a, **k: damage(kernel(*a, **k)))


def test_every_op_has_a_case_and_every_case_a_name():
    assert {case.op.name for case in CASES} == set(ops.registry)
    assert len(NAMES) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_arguments_are_those_of_the_op_and_give_the_shape(case):
    case = small(case.name)
    arguments = case.arguments(CPU)
    assert list(arguments) == list(inspect.signature(case.op.reference).parameters)[: len(arguments)]
    assert positional(case.op, arguments)().shape == case.shape(CPU)


def test_bytes_are_those_of_the_images_and_points():
    step, field = small("reverse_step_ddpm"), small("simplex_noise_3d")
    assert read_bytes(step.arguments(CPU)) == 3 * 4 * 2 * 3 * 9 * 16  # x_t, the output and the noise
    assert read_bytes(field.arguments(CPU)) == 0
    assert read_bytes(small("interval_counts").arguments(CPU)) == 4 * 40 * 74
    assert read_bytes(small("simplex_noise_at_3d").arguments(CPU)) == 8 * 2 * 40 * 3
    assert written_bytes((2, 3, 9, 16)) == 4 * 864


def test_lattice_points_within_reach():
    """By counting: lattice points around random points of the original's lattice, 5.92 of them in 3-D."""
    generator = torch.Generator().manual_seed(0)
    for dims in (2, 3):
        squish = ops._opensimplex.SQUISH[dims]
        axis = torch.arange(-6.0, 7.0, dtype=torch.float64)
        lattice = torch.cartesian_prod(*[axis] * dims)
        lattice = lattice + squish * lattice.sum(1, keepdim=True)
        points = torch.rand(4000, dims, generator=generator, dtype=torch.float64)
        points = points + squish * points.sum(1, keepdim=True)
        near = (torch.cdist(points, lattice) < math.sqrt(2)).sum(1).double().mean()
        assert work.vertices(dims) == pytest.approx(float(near), rel=0.01)


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_right_kernel_passes(name):
    case = small(name)
    arguments = case.arguments(CPU)
    assert check.error(case.op, arguments, positional(case.op, arguments)()) <= check.TOLERANCE


def far_corner(value: Tensor) -> Tensor:
    value = value.clone()
    value[-1, ..., -1] += 1e-3
    return value


def not_finite(value: Tensor) -> Tensor:
    value = value.clone()
    value[:, ..., value.shape[-1] // 2] = torch.inf
    return value


@pytest.mark.parametrize("damage", (lambda value: value * (1 + 1e-5), far_corner, not_finite))
@pytest.mark.parametrize(
    "name", ("simplex_noise_at_2d", "gmm_noise", "reverse_step_ddpm_noise", "kl_map", "anomaly_map_mean")
)
def test_a_wrong_kernel_is_reported_and_not_timed(name, damage, monkeypatch):
    case = small(name)
    broken(monkeypatch, case.op, damage)
    row = measure.measure(case, CPU, BRIEF, compilers=False)
    assert row["status"] == "wrong" and row["timings"] == []
    assert "WRONG" in table.case(row)
    json.dumps(row, allow_nan=False)


def test_percentiles():
    found = timing.Timing.of(
        [1.0, 9.0, 3.0, 4.0, 2.0, 8.0]
    )  # sorted: 1 2 3 4 8 9; p20 at position 1, p80 at position 4
    assert (found.median, found.p20, found.p80, found.best, found.calls) == (3.5, 2.0, 8.0, 1.0, 6)


def test_calls_are_timed_in_turns():
    """With a clock of our own: 4 rounds of 1 s each; a call of 0.5 s fits twice, one of 3 s in two rounds of the four."""
    lasts = {"short": 0.5, "long": 3.0}
    order = []

    def clock(call):
        order.append(call())
        return lasts[order[-1]]

    calls = {name: (lambda name=name: name) for name in lasts}
    seconds = timing.interleave(calls, clock, timing.Effort(seconds=4.0, rounds=4, limit=6.0))
    assert seconds == {"short": [0.5] * 8, "long": [3.0] * 2}
    assert order == ["short", "long"] + ["short", "short", "long", "short", "short"] * 2
    tiny = timing.interleave({"tiny": lambda: 0}, lambda call: 1e-9, timing.Effort(4.0, rounds=2, limit=6.0))
    assert len(tiny["tiny"]) == 2 * timing.CALLS


def synthetic(case: str, median: float, peers: dict[str, float] | None = None, **changes: Any) -> dict[str, Any]:
    """A row as `measure` makes it: 1e6 values, 4e6 bytes, 1e9 operations on a machine of 10 GB/s and 100 GFLOP/s."""
    row: dict[str, Any] = {
        "case": case, "op": case, "what": "a work", "device": "cpu", "threads": 1, "isa": "avx512", "lowered": False, "kernel": True,
        "shape": [1, 1, 1000, 1000], "samples": 10**6, "bytes": 4 * 10**6, "flop": 1e9, "error": 1e-7, "tolerance": 1.3e-6,
        "status": "timed", "others": 0.0,
    } | changes  # fmt: skip
    moved = limits.Probe("write", 1e6, lambda: None), timing.Timing.of([2e-4, 1e-4])
    done = limits.Probe("multiply-add", 1e8, lambda: None), timing.Timing.of([1e-3, 5e-3])
    row["limit"] = measure.limit(row, {"memory": moved, "arithmetic": done})
    times = {OURS: median} | (peers or {})
    row["timings"] = [measure.timed(name, timing.Timing.of([t]), row) for name, t in times.items()]
    return row


def test_limits_and_shares():
    row = synthetic("simplex_noise_3d", 0.04, {"peer": 0.4})
    assert row["limit"]["bandwidth"]["GB_per_s"] == pytest.approx(10)  # 1e6 bytes in the fastest 1e-4 s
    assert row["limit"]["rate"]["GFLOP_per_s"] == pytest.approx(100)
    assert row["limit"]["memory_seconds"] == pytest.approx(4e-4)
    assert row["limit"]["arithmetic_seconds"] == pytest.approx(0.01)
    ours, peer = row["timings"]
    assert ours["share_of_limit"] == pytest.approx(0.25) and peer["share_of_limit"] == pytest.approx(0.025)
    assert ours["samples_per_s"] == pytest.approx(25e6)
    assert ours["GB_per_s"] == pytest.approx(0.1) and ours["GFLOP_per_s"] == pytest.approx(25)


def test_the_table_of_a_case():
    lines = table.case(synthetic("simplex_noise_3d", 0.04, {"peer": 0.4})).splitlines()
    assert "1 thread, avx512" in lines[0] and "1 x 1 x 1000 x 1000" in lines[0]
    assert "write 10.0 GB/s, so 400 us" in lines[1] and "100 GFLOP/s, so 10 ms" in lines[1]
    assert lines[3].split() == ["diffnoise", *"40 ms 40 ms 40 ms 25.00 25.0 GFLOP/s 25.0%".split()]
    assert lines[4].split()[-2:] == ["10.00", "x"]
    assert "BUSY" not in "".join(lines)
    assert "BUSY: other processes used 0.8 cores" in table.case(synthetic("simplex_noise_3d", 0.04, others=0.8))
    bound_by_memory = table.case(synthetic("kl_map", 0.0008, flop=1e3))
    assert "5.00 GB/s" in bound_by_memory and "50.0%" in bound_by_memory


def test_the_rate_of_multiply_adds_counts_what_is_done():
    if not _native.status().loaded:
        pytest.skip("the native extension is not built")
    lanes = {"avx512": 16, "avx2": 8, "baseline": 4}[_native.status().isa]
    assert limits._multiply_adds()(1, 1000) == 1000 * 12 * lanes
    assert limits.arithmetic(CPU).amount == 2 * limits.ROUNDS * 12 * lanes


def test_memory_is_written_or_copied():
    assert [(p.what, p.amount) for p in (limits.memory(0, 400, CPU), limits.memory(300, 100, CPU))] == [
        ("write", 400),
        ("copy", 400),
    ]


def test_ratios_beside_their_goals():
    against = opensimplex.NOISE_3_ARRAY.name
    rows = [
        synthetic("simplex_noise_3d", 0.01, {against: 0.4, "diffnoise, new seeds in every call": 0.012}),
        synthetic("simplex_noise_3d", 0.005, {against: 0.6}, threads=2),
        synthetic("simplex_noise_3d", 0.02, {against: 0.3}, isa="avx2", lowered=True),
        synthetic("gaussian_noise", 0.01, status="wrong"),
        synthetic("kl_map", 0.02, device="cuda", threads=None, isa=None),
        synthetic(
            "anomaly_map_mean", 0.01, {"scipy uniform_filter": 0.09, "cv2.blur, map by map": 0.05, "another": 0.02}
        ),
        synthetic(
            "interval_counts", 0.01, {ranking.OURS_TOGETHER.name: 0.02, ranking.BEST_TOGETHER.name: 0.5}, threads=2
        ),
    ]
    found = {entry["what"]: entry for entry in ratios.ratios(rows)}
    expected = {
        f"simplex 3-D against {against}": (40, True),
        f"simplex 3-D on AVX2 against {against}": (15, False),
        "simplex_noise_3d: two threads against one": (2, True),
        "simplex 3-D: time with new seeds against that with the same": (1.2, False),
        "kl_map on the GPU: share of its limit": (0.5, False),
        "mean filter of errors against cv2.blur, map by map": (5, True),
        f"AUROC, AP and AUPRO, 2 threads, against {ranking.BEST_TOGETHER.name}": (25, False),
    }
    assert {what: (pytest.approx(entry["value"]), entry["met"]) for what, entry in found.items()} == expected
    text = table.ratios(list(found.values()))
    assert text.count("missed") == 4 and "40.00 x" in text and "at least 30 x" in text and "at most 1.05 x" in text
    assert table.ratios([]) == ""


def test_a_peer_that_is_missing_or_fails_is_left_out(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "opensimplex" else find(name))
    missing = opensimplex.NOISE_3_ARRAY.missing("cpu", compilers=True, lowered=False)
    assert missing.startswith("opensimplex") and missing.endswith("not installed")  # with or without numba between
    assert opensimplex.NOISE_3_ARRAY.missing("cuda", True, False) == "does not run on cuda"
    assert steps.DDIM[1].missing("cpu", compilers=False, lowered=False) == "compiling takes long"
    assert steps.DDIM[1].missing("cuda", compilers=True, lowered=False) is None
    assert mixture.NUMPY.missing("cpu", True, lowered=True) == "takes the best instruction set that there is"

    def fails(arguments):
        raise RuntimeError("no compiler\nmore")

    case = dataclasses.replace(
        small("small_gaussian_noise"), peers=(opensimplex.NOISE_3_ARRAY, Peer("broken", fails), steps.DDIM[1])
    )
    row = measure.measure(case, CPU, BRIEF, compilers=False)
    assert row["status"] == "timed" and [t["name"] for t in row["timings"] if "seconds" in t] == [OURS]
    assert {t["name"]: t["left_out"] for t in row["timings"][1:]} == {
        opensimplex.NOISE_3_ARRAY.name: missing,
        "broken": "failed: RuntimeError: no compiler",
        steps.DDIM[1].name: "compiling takes long",
    }
    assert f"left out: {missing}" in table.case(row)


# Peers.


@pytest.mark.parametrize(
    ("case", "peer"),
    [
        pytest.param(case, peer, id=f"{case.name}-{peer.name}")
        for case in CASES
        for peer in case.peers
        if not peer.compiles
    ],
)
def test_peers_do_work_of_that_shape(case, peer):
    absent = [name for name in peer.needs if name != "numba" and importlib.util.find_spec(name) is None]
    if absent or (peer.name.endswith("numba loop") and importlib.util.find_spec("numba") is None):
        pytest.skip("not installed")
    case = small(case.name)
    value = torch.as_tensor(peer.prepare(case.arguments(CPU))(), dtype=torch.float64)
    assert value.shape == ((3,) if peer in ranking.TOGETHER else case.shape(CPU)) and value.isfinite().all()
    assert value.std() > 0 or peer is mixture.WRITE


# The package leaves out lattice points that the full sum has: so much at most per octave, and as much more in six as their
# amplitudes are together.
LEFT_OUT = {2: 1e-6, 3: 1.3e-4, 4: 5e-4}


@pytest.mark.parametrize("name", ("simplex_noise_2d", "simplex_noise_3d", "simplex_noise_4d", "kts_noise"))
def test_opensimplex_makes_the_same_field(name):
    pytest.importorskip("opensimplex")
    case = small(name)
    arguments = case.arguments(CPU) | ({"channels": 2} if case.op is ops.simplex_noise else {"patch": 5})
    peer = next(peer for peer in case.peers if peer.name.startswith("opensimplex"))
    value = peer.prepare(arguments)()
    exact = case.op.reference(**arguments, dtype=torch.float64)
    together = sum(arguments["persistence"] ** k for k in range(arguments["octaves"]))
    assert (value - exact).abs().max() < LEFT_OUT[arguments.get("dims", 4)] * together
    assert value.std() > 0.1


@pytest.mark.parametrize("name", ("anomaly_map_mean", "anomaly_map_gaussian"))
def test_the_libraries_filter_the_same(name):
    case = NAMES[name]
    for shape in ((3, 1, 40, 57), (2, 1, 9, 16)):  # the second smaller than the Gaussian
        arguments = case.inputs(shape, CPU)
        exact = case.op.reference(**double(arguments))
        for peer in case.peers:
            if all(importlib.util.find_spec(module) for module in peer.needs):
                value = torch.as_tensor(peer.prepare(arguments)())
                torch.testing.assert_close(value.double(), exact, rtol=1e-5, atol=1e-5)


def test_the_libraries_rank_the_same():
    arguments = small("interval_counts").arguments(CPU)
    for peer in ranking.COUNTS:
        assert torch.equal(torch.as_tensor(peer.prepare(arguments)()), ops.interval_counts.reference(**arguments))
    pytest.importorskip("sklearn")
    maps, masks = ranking.maps_and_masks(100 * 224 * 224)
    assert len(maps) == 100 and 0.012 < sum(mask.sum() for mask in masks) / (100 * 224 * 224) < 0.015
    ours, *theirs = (peer.prepare(arguments)() for peer in ranking.TOGETHER)
    for peer in theirs:
        assert peer == pytest.approx(ours, abs=1e-12)


@pytest.mark.parametrize("dims", (2, 3, 4))
def test_opensimplex_makes_the_same_points(dims):
    pytest.importorskip("opensimplex")
    case = small(f"simplex_noise_at_{dims}d")
    arguments = case.arguments(CPU)
    value = opensimplex.point_by_point(arguments)()
    assert (value - case.op.reference(**arguments, dtype=torch.float64)).abs().max() < LEFT_OUT[dims]


def scalar_classic_simplex(x: float, y: float, z: float, seed: int) -> float:
    """Gustavson's 3-D simplex noise point by point, with the peer's hash."""

    def wrap(value: int) -> int:
        return (value + 2**31) % 2**32 - 2**31

    corner = [math.floor(c + (x + y + z) / 3) for c in (x, y, z)]
    offset = [c - i + sum(corner) / 6 for c, i in zip((x, y, z), corner, strict=True)]
    largest_first = sorted(range(3), key=lambda axis: (-offset[axis], axis))
    total = 0.0
    for count in range(4):
        step = [int(axis in largest_first[:count]) for axis in range(3)]
        d = [o - s + count / 6 for o, s in zip(offset, step, strict=True)]
        h = seed
        for i, s, prime in zip(corner, step, classic_simplex.PRIMES, strict=True):
            h ^= wrap((i + s) * prime)
        h = wrap(h * classic_simplex.MIX)
        h = (h ^ (h >> 15)) & 15
        u = d[0] if h < 8 else d[1]
        v = d[1] if h < 4 else d[0] if h in (12, 14) else d[2]
        gradient = (-u if h & 1 else u) + (-v if h & 2 else v)
        total += max(0.6 - sum(c * c for c in d), 0) ** 4 * gradient
    return 32 * total


def test_the_classic_simplex_peer_is_gustavsons():
    arguments = small("simplex_noise_3d").arguments(CPU)
    value = classic_simplex.EAGER.prepare(arguments)()
    seeds = channel_seeds(arguments["seeds"], 1).to(torch.int32).view(-1).tolist()
    for sample, (seed, t) in enumerate(zip(seeds, arguments["t"].tolist(), strict=True)):
        for y, x in ((0, 0), (3, 11), (8, 5)):
            expected = sum(0.9**k * scalar_classic_simplex(*(c * 2**k / 64 for c in (x, y, t)), seed) for k in range(6))
            assert float(value[sample, 0, y, x]) == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize("standardize", (False, True))
def test_the_mixture_peer_is_the_same_sum(standardize):
    arguments = small("gmm_noise").arguments(CPU) | {"standardize": standardize}
    k = torch.arange(arguments["components"])
    at = [arguments[name].view(-1, 1, 1) for name in ("seeds", "t")] + [torch.zeros(1, 1, 1, dtype=torch.int64), k]
    words = _philox.address(*at, torch.zeros_like(k), _philox.STREAM_MIXTURE)
    mu_x, mu_y, sigma_x, sigma_y = (_philox.uniform(word, torch.float64) for word in words)
    weight = _philox.uniform(_philox.address(*at, torch.ones_like(k), _philox.STREAM_MIXTURE)[0], torch.float64)
    low, high, height, width = (arguments[name] for name in ("sigma_low", "sigma_high", "height", "width"))
    sigma = [(low + (high - low) * s) * max(height, width) for s in (sigma_x, sigma_y)]
    formula = mixture.standardized if standardize else mixture.separable
    value = formula(weight, mu_x * width, mu_y * height, *sigma, torch.arange(width), torch.arange(height))
    torch.testing.assert_close(value, ops.gmm_noise.reference(**arguments, dtype=torch.float64))


def test_the_chain_of_the_kl_map_has_the_operations_of_improved_diffusion():
    """Counted there: the posterior's mean 3, twice; log variance 6, its exp 1, x_0 4, the divergence 12; and the mean."""
    from torch.utils._python_dispatch import TorchDispatchMode

    arguments = small("kl_map").arguments(CPU)
    passes = []

    class Passes(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            if isinstance(result, Tensor) and result.shape == arguments["x_t"].shape and result.is_contiguous():
                passes.append(function)
            return result

    call = divergence.EAGER.prepare(arguments)
    with Passes():
        call()
    assert len(passes) == 3 + 6 + 1 + 4 + 3 + 12


def double(arguments: dict[str, Any]) -> dict[str, Any]:
    return {n: a.double() if isinstance(a, Tensor) and a.is_floating_point() else a for n, a in arguments.items()}


@pytest.mark.parametrize(
    "name",
    ("reverse_step_ddpm", "reverse_step_ddim", "reverse_step_guided", "kl_map", "reverse_step_learned"),
)
def test_the_torch_peers_of_the_steps_have_the_same_values(name):
    arguments = double(small(name).arguments(CPU))
    case = NAMES[name]
    schedule, x_t = Schedule.linear(), arguments["x_t"]
    if name in ("reverse_step_ddim", "reverse_step_guided"):
        value = (steps.torch_ddim if name == "reverse_step_ddim" else steps.torch_guided)(arguments)()
        arguments["table"] = schedule.ddim_table(range(0, 1000, 20), recompute_epsilon=False, dtype=torch.float64)
    elif name == "kl_map":
        value = divergence.EAGER.prepare(arguments)()
        arguments["table"] = schedule.ddpm_table("learned_range", dtype=torch.float64)
    else:
        noise = torch.randn(x_t.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
        arguments |= {"noise": noise, "seeds": None}
        value = steps.torch_ddpm(arguments, "given")()
        variance = "fixed_small" if arguments["variance"] is None else "learned_range"
        arguments["table"] = schedule.ddpm_table(variance, dtype=torch.float64)
    torch.testing.assert_close(value, case.op.reference(**arguments), rtol=1e-9, atol=1e-9)


def test_the_step_of_diffusers_has_the_same_values():
    pytest.importorskip("diffusers.schedulers.scheduling_ddim")
    arguments = small("reverse_step_ddim").arguments(CPU)
    value = steps.diffusers_ddim(arguments)()
    # diffusers' tables are float32, where 1 - alpha_bar loses digits.
    torch.testing.assert_close(value, ops.reverse_step(**arguments), rtol=1e-4, atol=1e-4)


# Processes.


def test_the_plan_has_the_most_telling_first():
    cases = bench.chosen(["gmm_noise", "simplex_noise_3d"])
    assert [case.name for case in cases] == [
        "simplex_noise_3d", "gmm_noise", "gmm_noise_standardized", "small_gmm_noise",
    ]  # fmt: skip
    planned = jobs.plan(cases, ["cuda", "cpu"], [1, 2], ["best", "avx2"], timing.QUICK, quick=False)
    simplex, gmm = ("simplex_noise_3d",), ("gmm_noise", "gmm_noise_standardized", "small_gmm_noise")
    assert [(job.cases, job.device, job.threads, job.isa, job.compilers) for job in planned] == [
        ((), "cuda", None, "best", True), (simplex, "cuda", None, "best", True), (gmm, "cuda", None, "best", True),
        (simplex, "cpu", 1, "best", True), (gmm, "cpu", 1, "best", True),
        (simplex, "cpu", 2, "best", True), (gmm, "cpu", 2, "best", True),
        (simplex, "cpu", 1, "avx2", False), (gmm, "cpu", 1, "avx2", False),
    ]  # fmt: skip
    environment = planned[-1].environment()
    assert environment["DIFFNOISE_ISA"] == "avx2" and environment["OMP_NUM_THREADS"] == "1"
    assert not any(job.compilers for job in jobs.plan(cases, ["cpu"], [1], ["best"], timing.QUICK, quick=True))


@pytest.mark.parametrize(
    ("best", "asked", "possible"),
    [
        ("avx512", ["best", "avx2"], ["best", "avx2"]),
        ("avx2", ["best", "avx2", "baseline"], ["best", "baseline"]),
        ("avx2", ["avx2"], ["best"]),
        (None, ["best", "avx2"], ["best"]),
    ],
)
def test_levels_above_that_of_the_machine_are_not_measured(best, asked, possible, monkeypatch):
    monkeypatch.setattr(_native, "status", lambda: SimpleNamespace(isa=best))
    assert bench.levels(asked) == possible


def test_a_process_that_dies_gives_failed_rows():
    job = jobs.Job(("no_such_case", "kl_map"), "cpu", 1, "best", BRIEF, compilers=False)
    rows = list(jobs.run(job))
    assert [(row["case"], row["status"], row["threads"]) for row in rows] == [
        ("no_such_case", "failed", 1),
        ("kl_map", "failed", 1),
    ]
    assert all("exit code 1: ValueError: There is nothing to time called no_such_case" in row["reason"] for row in rows)
    assert "FAILED" in table.case(rows[0])


def test_a_process_is_held_to_its_threads_and_level():
    level = bench.levels(["avx2", "baseline"])[0]
    (row,) = jobs.run(jobs.Job(("small_gaussian_noise",), "cpu", 2, level, BRIEF, compilers=False))
    assert row["status"] == "timed" and row["threads"] == 2 and row["lowered"] == (level != "best")
    assert row["isa"] == (_native.status().isa if level == "best" else level)


def test_a_process_ends_with_the_one_that_started_it():
    endless = timing.Effort(seconds=1000.0, rounds=1, limit=1000.0)
    job = jobs.Job(("small_gaussian_noise",), "cpu", 1, "best", endless, compilers=False)
    process = subprocess.Popen(
        [sys.executable, "-m", "diffnoise.bench.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env=python_environment(),
    )
    try:
        process.communicate((json.dumps(dataclasses.asdict(job)) + "\n").encode(), timeout=300)  # closes its input
    finally:
        process.kill()
    assert process.returncode == 1


ROW_KEYS = {
    "case", "op", "what", "device", "threads", "isa", "lowered", "kernel", "shape", "samples", "bytes", "flop", "error", "tolerance",
    "status", "limit", "others", "telemetry", "timings",
}  # fmt: skip
TIMING_KEYS = {"name", "seconds", "samples_per_s", "GB_per_s", "GFLOP_per_s", "share_of_limit"}


def test_the_command_writes_json_and_nothing_else(tmp_path: Path):
    command = [sys.executable, "-m", "diffnoise", "bench", "gaussian_noise", "--quick", "--json", "--threads", "1"]
    done = subprocess.run(
        [*command, "--isa", "best", "--device", "cpu", "--output", str(tmp_path / "new/bench.json")],
        capture_output=True,
        text=True,
        env=python_environment(),
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result == json.loads((tmp_path / "new/bench.json").read_text())
    assert set(result) == {
        "schema", "date", "complete", "settings", "machine", "versions", "commit", "gpu_limits", "results", "ratios",
    }  # fmt: skip
    assert result["schema"] == 1 and result["complete"] is True
    assert {"processor", "cores", "memory_GiB", "isa", "gpu"} <= set(result["machine"])
    assert {"diffnoise", "noise", "python", "torch", "numpy", "opensimplex", "diffusers"} <= set(result["versions"])
    assert [row["case"] for row in result["results"]] == ["gaussian_noise", "small_gaussian_noise"]
    for row in result["results"]:
        assert set(row) == ROW_KEYS and row["status"] == "timed" and row["error"] <= row["tolerance"]
        timed = [t for t in row["timings"] if "left_out" not in t]
        assert timed[0]["name"] == OURS and all(set(t) == TIMING_KEYS for t in timed)
        for t in timed:
            s = t["seconds"]
            assert 0 < s["best"] <= s["p20"] <= s["median"] <= s["p80"] and s["calls"] >= 1
            assert t["samples_per_s"] == pytest.approx(row["samples"] / s["median"])
        assert ("torch.randn" in {t["name"] for t in timed}) and (row["limit"] is None) == row["case"].startswith(
            "small"
        )


def pretend(monkeypatch: pytest.MonkeyPatch, rows: list[Any]) -> None:
    """Instead of processes, these rows, one to a job; an exception is raised."""
    left = iter(rows)

    def run(job: jobs.Job) -> Iterator[dict[str, Any]]:
        row = next(left)
        if isinstance(row, BaseException):
            raise row
        yield row

    monkeypatch.setattr(jobs, "run", run)


WRONG = synthetic("kl_map", 1.0) | {"status": "wrong", "timings": [], "limit": None, "error": 0.5}
DIED = {"case": "gmm_noise", "status": "failed", "reason": "exit code 1", "device": "cpu", "threads": 1, "isa": "best"}
FINE = synthetic("kl_map", 1.0)


@pytest.mark.parametrize(
    ("rows", "code"), [([FINE, FINE], 0), ([FINE, WRONG], 3), ([DIED, FINE], 3), ([WRONG, DIED], 1)]
)
def test_exit_codes(rows, code, monkeypatch, capsys):
    pretend(monkeypatch, rows)
    arguments = ["bench", "kl_map", "gmm_noise", "--threads", "1", "--isa", "best", "--device", "cpu"]
    assert cli.main(arguments) == code
    out = capsys.readouterr().out
    assert ("WRONG: differs by 5.0e-01" in out) == (WRONG in rows) and ("FAILED: exit code 1" in out) == (DIED in rows)


def test_usage(capsys, monkeypatch):
    assert cli.main(["bench", "nothing", "kl_map"]) == 2
    assert "nothing to time called nothing;" in capsys.readouterr().err
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cli.main(["bench", "--device", "cuda"]) == 2
    assert "no GPU" in capsys.readouterr().err
    for option in (["--threads", "0"], ["--threads", "two"], ["--isa", "sse9"]):
        with pytest.raises(SystemExit) as stop:
            cli.main(["bench", *option])
        assert stop.value.code == 2
    assert cli.main(["bench", "--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [case.name for case in CASES]


def test_a_run_that_is_cut_short_leaves_its_results(monkeypatch, tmp_path, capsys):
    pretend(monkeypatch, [FINE, KeyboardInterrupt()])
    path = tmp_path / "bench.json"
    arguments = ["bench", "kl_map", "gmm_noise", "--json", "--threads", "1", "--isa", "best", "--device", "cpu"]
    assert cli.main([*arguments, "--output", str(path)]) == 1
    left = json.loads(path.read_text())
    assert left["complete"] is False and left["results"] == [FINE]
    assert json.loads(capsys.readouterr().out) == left
    assert list(tmp_path.iterdir()) == [path]


def test_what_others_use(monkeypatch):
    """In 10 s on the clock all cores together were busy for 14 s, this process for 8 s."""
    states = iter([(100.0, 3.0, 50.0), (114.0, 11.0, 60.0)])
    monkeypatch.setattr(machine, "_busy", lambda: next(states))
    assert machine.others()() == pytest.approx(0.6)
    monkeypatch.undo()
    assert machine._busy() is None or all(value > 0 for value in machine._busy())


def test_the_commit_of_a_checkout(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    assert machine.commit() is None
    (tmp_path / "pyproject.toml").write_text("")

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=n", "-c", "user.email=e"]
        done = subprocess.run(["git", *identity, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    git("init", "-q")
    git("add", "pyproject.toml")
    git("commit", "-qm", "one")
    head = git("rev-parse", "HEAD")
    assert len(head) == 40 and machine.commit() == head
    (tmp_path / "pyproject.toml").write_text("changed")
    assert machine.commit() == f"{head}+changes"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu():
    device = torch.device("cuda")
    for name in NAMES:
        row = measure.measure(small(name), device, BRIEF, compilers=False)
        assert row["status"] == "timed" and (row["limit"] is None) == name.startswith("small")
    assert [limit["unit"] for limit in measure.gpu_limits(BRIEF)] == ["GB/s", "GFLOP/s", "GFLOP/s"]


def test_the_cases_run_under_pytest_benchmark():
    pytest.importorskip("pytest_benchmark")
    root = Path(__file__).parent.parent
    command = [sys.executable, "-m", "pytest", "benchmarks", "-q", "-p", "no:cacheprovider", "--benchmark-disable"]
    done = subprocess.run(
        [*command, "-k", "small_gaussian"], cwd=root, capture_output=True, text=True, env=python_environment()
    )
    assert done.returncode == 0 and "3 passed" in done.stdout, done.stdout + done.stderr
