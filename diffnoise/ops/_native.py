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
    isa: str | None  # the instruction set whose copy of the hot loops runs


_ISA_LEVELS = ("baseline", "avx2", "avx512")


def _check_isa(isa: str) -> None:
    """Warns when DIFFNOISE_ISA asks for what cannot run."""
    asked = os.environ.get("DIFFNOISE_ISA")
    if not asked or asked == isa:
        return
    if asked in _ISA_LEVELS:
        problem = f"asks for {asked}, which this machine lacks"
    else:
        problem = f"is {asked!r}, but must be {', '.join(_ISA_LEVELS[:-1])} or {_ISA_LEVELS[-1]}"
    warnings.warn(f"DIFFNOISE_ISA {problem}; the compiled kernels run {isa}.", RuntimeWarning, stacklevel=3)


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
    level = isa().decode()
    _check_isa(level)
    return NativeStatus(True, path, None, level)


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
