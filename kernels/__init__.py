"""The Triton kernels: the ops' twins for the CUDA slot of PyTorch's dispatcher."""

from __future__ import annotations

import torch
from torch import Tensor

if __name__ != "diffnoise.kernels":
    raise ImportError(
        f"The folder kernels/ is the package diffnoise.kernels and cannot be imported as {__name__}: "
        "its ops would be registered a second time. Install diffnoise and import diffnoise.kernels."
    )

# Every product is rounded before it is added, as in the reference. Triton's own default changes between 3.9 and 3.10.
FP_FUSION = False


def supported(x_t: Tensor) -> bool:
    """Whether the kernels take this [B, C, H, W]: they compute in float32 and index the pixels of one plane with int32."""
    return x_t.dtype in (torch.float32, torch.float16, torch.bfloat16) and x_t.shape[2] * x_t.shape[3] < 2**30


def register() -> list[str]:
    """Register the launchers for the "CUDA" dispatch key and return the names of their ops; calling it again is harmless.

    Raises `ImportError` without Triton, which is why the kernels are imported here and not above.
    """
    from ..ops._op import _library, registry
    from .group_norm_silu import group_norm_silu
    from .kl_map import kl_map
    from .reverse_step import reverse_step

    launchers = {"group_norm_silu": group_norm_silu, "kl_map": kl_map, "reverse_step": reverse_step}
    for name, launcher in launchers.items():
        if not registry[name].has_kernel("CUDA"):
            _library.impl(name, launcher, "CUDA")
    return list(launchers)
