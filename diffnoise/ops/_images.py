"""What ops on images share: the dtype that they compute in, and the layout of their results."""

from __future__ import annotations

import torch
from torch import Tensor


def work_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def layout(x: Tensor) -> torch.memory_format:
    """channels_last where x is (and not contiguous as well), else contiguous."""
    last = not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format
