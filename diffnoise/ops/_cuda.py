"""Finds and loads the CUDA C++ kernels of the noise ops, where torch is built for CUDA."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch

_FOLDER = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class CudaStatus:
    """Whether the CUDA C++ kernels are in use, and why not."""

    loaded: bool
    path: Path | None
    reason: str | None


def find() -> Path | None:
    """The library with the CUDA C++ kernels; None when it is not built."""
    return next(iter(sorted(_FOLDER.glob("_C_cuda.*so"))), None)


def _load() -> CudaStatus:
    if os.environ.get("DIFFNOISE_NATIVE") == "0":
        return CudaStatus(False, None, "switched off by DIFFNOISE_NATIVE=0")
    path = find()
    if torch.version.cuda is None:
        return CudaStatus(False, path, "torch is built for the CPU only")
    if path is None:
        return CudaStatus(False, None, f"there is no _C_cuda.abi3.so in {_FOLDER}; it is built where nvcc is found")
    try:
        torch.ops.load_library(path)
    except (OSError, RuntimeError) as error:
        warnings.warn(
            f"diffnoise runs without its CUDA C++ kernels: {path} cannot be loaded ({error}). The PyTorch references serve on the GPU "
            "instead, with the same results but slower. Build the kernels anew with `pip install -e . --no-build-isolation` in a "
            "checkout, or set DIFFNOISE_NATIVE=0 to silence this warning.",
            RuntimeWarning,
            stacklevel=2,
        )
        return CudaStatus(False, path, f"{path} cannot be loaded ({error})")
    return CudaStatus(True, path, None)


_status = _load()


def status() -> CudaStatus:
    """What happened when the CUDA C++ kernels were looked for."""
    return _status
