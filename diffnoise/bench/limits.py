"""The limits of the machine, as calls that are timed beside the ops: moving memory and doing arithmetic."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ..ops import _native

ROUNDS = 100_000  # of multiply-adds: about a millisecond
MATRIX = {"cpu": 1024, "cuda": 8192}
GPU_COPY_BYTES = 1 << 32


@dataclass(frozen=True)
class Probe:
    """A call that moves `amount` bytes, or does `amount` floating-point operations."""

    what: str
    amount: float
    call: Callable[[], Any]


def memory(read: int, written: int, device: torch.device) -> Probe:
    """Moves as many bytes as a work does, between buffers that together are as large: a copy, or a write where it reads nothing."""
    if read == 0:
        buffer = torch.empty(written, dtype=torch.uint8, device=device)
        return Probe("write", written, lambda: buffer.fill_(1))
    # Random, because equal bytes can be faster to move.
    half = (read + written) // 2
    source = torch.randint(256, (half,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return Probe("copy", 2 * half, lambda: target.copy_(source))


def arithmetic(device: torch.device) -> Probe:
    """Multiply-adds of float32 in registers at the level that the C++ kernels run; a matrix product where there is no such kernel."""
    if device.type == "cuda" or not _native.status().loaded:
        return matrix(device, torch.float32)
    call, threads = _multiply_adds(), torch.get_num_threads()
    return Probe("multiply-add", 2 * threads * call(threads, ROUNDS), lambda: call(threads, ROUNDS))


@functools.cache
def _multiply_adds() -> Callable[[int, int], int]:
    call = ctypes.CDLL(str(_native.status().path)).diffnoise_multiply_adds
    call.argtypes, call.restype = (ctypes.c_int64, ctypes.c_int64), ctypes.c_int64
    return call


def matrix(device: torch.device, dtype: torch.dtype) -> Probe:
    """A square matrix product."""
    n = MATRIX[device.type]
    left, right = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(left)
    return Probe(f"{str(dtype).removeprefix('torch.')} matrix", 2 * n**3, lambda: torch.mm(left, right, out=out))


def of_the_gpu() -> list[Probe]:
    """The limits that a GPU is known by, at sizes at which it reaches them."""
    device = torch.device("cuda")
    half = GPU_COPY_BYTES // 2
    return [memory(half, half, device), matrix(device, torch.float32), matrix(device, torch.bfloat16)]
