"""What this installation runs: versions, which kernel serves which op, and a self-test of every kernel."""

from __future__ import annotations

import importlib.util
import json as jsonlib
import platform
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from . import __version__, anomaly, ops
from .ops import _cuda, _native, _philox, _triton
from .schedule import Schedule

# Random123's known answers for philox4x32-10: counter, key, result.
PHILOX_ANSWERS = (
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    ((0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0), (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
)  # fmt: skip
# PyPI opensimplex 0.4.5, seed 3 at (1.25, -0.75, 3.1, -2.2), with as many coordinates as there are dimensions.
OPENSIMPLEX_POINT = (1.25, -0.75, 3.1, -2.2)
OPENSIMPLEX_ANSWERS = {2: 0.12265122109401173, 3: 0.13841300743284782, 4: 0.2243534181466879}
# The original leaves out a few far lattice points; float32 against the float64 reference is held to the tighter bound.
OPENSIMPLEX_TOLERANCE, TOLERANCE = 1e-4, 1.3e-6


def _known_answers(device: str) -> Iterator[tuple[str, float, float]]:
    wrong = 0
    for counter, key, expected in PHILOX_ANSWERS:
        words = _philox.philox(tuple(torch.tensor(c) for c in counter), tuple(torch.tensor(k) for k in key))
        wrong += sum(int(word) != e for word, e in zip(words, expected, strict=True))
    yield "Philox4x32-10 known answers", float(wrong), 0.0
    seeds = torch.tensor([3], device=device)
    for dims, expected in OPENSIMPLEX_ANSWERS.items():
        points = torch.tensor([[OPENSIMPLEX_POINT[:dims]]], dtype=torch.float64, device=device)
        yield (
            f"OpenSimplex {dims}-D golden value",
            abs(float(ops.simplex_noise_at(points, seeds)) - expected),
            OPENSIMPLEX_TOLERANCE,
        )


def _samples() -> dict[str, tuple[Any, ...]]:
    """One small call of every op."""
    generator = torch.Generator().manual_seed(0)
    seeds, t = torch.tensor([3, -42]), torch.tensor([10, 201])
    grid = (seeds, t, torch.tensor([[0, 0], [7, -3]]), 2, 5, 19)
    images = [torch.randn(2, 2, 17, 37, generator=generator) for _ in range(4)]
    images[3].clamp_(-1, 1)
    x_0, x_t, output, variance = images
    table = Schedule.linear().ddpm_table(variance="learned_range")
    return {
        "gaussian_noise": grid,
        "simplex_noise": (*grid, 4, 6, 0.9, 64.0),
        "simplex_noise_at": (torch.randn(2, 50, 3, generator=generator) * 9, seeds, 4, 0.8),
        "gmm_noise": (*grid, 20, 30),
        "tsg_noise": (*grid, 1000, 6, 0.9, 64.0),
        "kts_noise": (*grid, 20, 30, 4, 0.8, 64.0, 4.0, 4),
        "reverse_step": (x_t, output, t, table, variance, None, seeds, None, 1.0),
        "anomaly_map": (x_t, anomaly.gaussian_taps(2.0), x_0, torch.tensor([[0.1, 2.0]]), True),
        "group_norm_silu": (x_0, 1, x_0[0, :, 0, 0], x_t[0, :, 0, 0], *(image[..., 0, 1] for image in images[:3])),
        "kl_map": (x_0, x_t, output, t, table, variance, 1.0),
        "interval_counts": (x_0.flatten(), x_0[0, 0, 0].unique()),
    }


def _error(name: str, arguments: tuple[Any, ...], device: str) -> float:
    """The op in float32 against its reference in float64, relative to the reference's largest value."""

    def double(value: Any) -> Any:
        return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value

    op = ops.registry[name]
    moved = [a.to(device) if isinstance(a, Tensor) else a for a in arguments]
    takes_dtype = "dtype" in op.__annotations__
    exact = op.reference(*map(double, arguments), **({"dtype": torch.float64} if takes_dtype else {}))
    return float((op(*moved).cpu().double() - exact).abs().max() / exact.abs().max())


def self_test(device: str = "cpu") -> list[dict[str, Any]]:
    """Known answers and every op against its reference on `device`; rows of check, error, tolerance and ok."""
    results = list(_known_answers(device))
    results += [
        (f"{name} against its reference", _error(name, arguments, device), TOLERANCE)
        for name, arguments in _samples().items()
    ]
    return [
        {"check": check, "error": error, "tolerance": tolerance, "ok": error <= tolerance}
        for check, error, tolerance in results
    ]


def _cuda_kernel(name: str) -> str:
    if not ops.registry[name].has_kernel("CUDA"):
        return "reference"
    return "Triton" if importlib.util.find_spec(f"diffnoise.kernels.{name}") else "CUDA C++"


def report() -> dict[str, Any]:
    """All that `diffnoise doctor` shows, ready for JSON."""
    native, cuda = _native.status(), _cuda.status()
    devices = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
    checks = [{"device": device, **row} for device in devices for row in self_test(device)]
    return {
        "versions": {"diffnoise": __version__, "python": platform.python_version(), "torch": torch.__version__},
        "cpu": {
            "machine": platform.machine(),
            "torch_isa": torch.backends.cpu.get_cpu_capability(),
            "threads": torch.get_num_threads(),
        },
        "cuda": {
            "available": torch.cuda.is_available(),
            "torch_built_for": torch.version.cuda,
            "loaded": cuda.loaded,
            "path": str(cuda.path) if cuda.path else None,
            "reason": cuda.reason,
        },
        "triton": {"registered": _triton.reason is None, "reason": _triton.reason},
        "native": {
            "loaded": native.loaded,
            "path": str(native.path) if native.path else None,
            "reason": native.reason,
            "isa": native.isa,
        },
        "ops": {
            name: {"CPU": "C++" if op.has_kernel("CPU") else "reference", "CUDA": _cuda_kernel(name)}
            for name, op in sorted(ops.registry.items())
        },
        "self_test": {"ok": all(row["ok"] for row in checks), "checks": checks},
    }


def _table(found: dict[str, Any]) -> str:
    versions, native, cpu, cuda = found["versions"], found["native"], found["cpu"], found["cuda"]
    triton = found["triton"]["reason"]
    kernels = f"{native['path']}, running {native['isa']}" if native["loaded"] else f"not loaded: {native['reason']}"
    lines = [
        f"diffnoise {versions['diffnoise']}, torch {versions['torch']}, Python {versions['python']}",
        f"CPU       {cpu['machine']}, {cpu['torch_isa']}, {cpu['threads']} threads",
        f"CUDA      {'available' if cuda['available'] else 'not available'} (torch built for {cuda['torch_built_for'] or 'CPU only'})",
        f"C++       {kernels}",
        f"CUDA C++  {cuda['path'] if cuda['loaded'] else 'not loaded: ' + cuda['reason']}",
        f"Triton    {f'not registered: {triton}' if triton else 'registered'}",
        "",
        f"{'op':<20}{'CPU':<12}CUDA",
    ]
    lines += [f"{name:<20}{kernel['CPU']:<12}{kernel['CUDA']}" for name, kernel in found["ops"].items()]
    lines += ["", f"{'self-test':<50}{'error':<10}{'at most':<10}"]
    for row in found["self_test"]["checks"]:
        check = f"{row['device']}: {row['check']}"
        lines.append(f"{check:<50}{row['error']:<10.1e}{row['tolerance']:<10.1e}{'ok' if row['ok'] else 'FAILED'}")
    return "\n".join(lines)


def main(json: bool = False) -> int:
    """Print the report; 0 when the self-test passes, 1 when not."""
    found = report()
    sys.stdout.write((jsonlib.dumps(found, indent=2) if json else _table(found)) + "\n")
    return 0 if found["self_test"]["ok"] else 1
