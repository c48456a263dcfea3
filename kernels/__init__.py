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
    """Whether the kernels take this [B, C, H, W]: they compute in float32 and index the values of one sample with int32."""
    return x_t.dtype in (torch.float32, torch.float16, torch.bfloat16) and x_t.shape[1:].numel() < 2**30


def register() -> list[str]:
    """Register the launchers for the "CUDA" dispatch key and return the names of their ops; calling it again is harmless.

    Raises `ImportError` without Triton, which is why the kernels are imported here and not above.
    """
    from ..ops._op import _library, registry
    from .anomaly_map import anomaly_map
    from .group_norm_silu import group_norm_silu
    from .kl_map import kl_map, kl_map_out
    from .reverse_step import reverse_step, reverse_step_out

    launchers = {
        "anomaly_map": (anomaly_map, None),
        "group_norm_silu": (group_norm_silu, None),
        "kl_map": (kl_map, kl_map_out),
        "reverse_step": (reverse_step, reverse_step_out),
    }
    for name, (launcher, into_out) in launchers.items():
        if not registry[name].has_kernel("CUDA"):
            _library.impl(name, launcher, "CUDA")
            if into_out is not None:
                _library.impl(f"{name}.out", into_out, "CUDA")
    return list(launchers)
