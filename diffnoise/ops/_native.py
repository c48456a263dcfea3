"""Finds and loads the compiled kernels; without them every op runs its reference."""

from __future__ import annotations

import ctypes
import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class NativeStatus:
    """Whether the compiled kernels are in use, and why not."""

    loaded: bool
    path: Path | None
    reason: str | None
    isa: str | None  # the instruction set whose clone of the hot loops runs


def _load() -> NativeStatus:
    folder = Path(__file__).resolve().parent.parent
    if os.environ.get("DIFFNOISE_NATIVE") == "0":
        return NativeStatus(False, None, "switched off by DIFFNOISE_NATIVE=0", None)
    path = next(iter(sorted(folder.glob("_C.*so"))), None)
    if path is None:
        return NativeStatus(False, None, f"there is no _C.abi3.so in {folder}", None)
    try:
        torch.ops.load_library(path)
        isa = ctypes.CDLL(str(path)).diffnoise_isa
    except (OSError, RuntimeError, AttributeError) as error:
        return NativeStatus(False, path, f"{path} cannot be loaded ({error})", None)
    isa.restype = ctypes.c_char_p
    return NativeStatus(True, path, None, isa().decode())


_status = _load()
if not _status.loaded and os.environ.get("DIFFNOISE_NATIVE") != "0":
    warnings.warn(
        f"diffnoise runs without its compiled kernels: {_status.reason}. The PyTorch references serve instead, with the same "
        "results but slower, some of them many times. Build the kernels with `pip install -e . --no-build-isolation` in a "
        "checkout, or set DIFFNOISE_NATIVE=0 to silence this warning.",
        RuntimeWarning,
        stacklevel=2,
    )


def status() -> NativeStatus:
    """What happened when the compiled kernels were looked for."""
    return _status
