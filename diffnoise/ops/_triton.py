"""Registers the Triton kernels where there is something to run them: a torch built for CUDA, and Triton."""

from __future__ import annotations

import torch


def _register() -> str | None:
    if torch.version.cuda is None:
        return "torch is built for the CPU only"
    try:
        from .. import kernels

        kernels.register()
    except ImportError as error:
        return f"they cannot be imported ({error})"
    return None


reason = _register()
"""Why the Triton kernels are not registered; None when they are."""
