"""How many values lie at each of some edges, and between them."""

from __future__ import annotations

import torch
from torch import Tensor

from . import _check
from ._op import op


def _check_arguments(values: Tensor, edges: Tensor) -> None:
    for name, tensor in (("values", values), ("edges", edges)):
        if tensor.ndim != 1 or tensor.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"{name} must be float32 or float64 of shape [N], but is {tensor.dtype} of shape {list(tensor.shape)}."
            )
    if edges.dtype != values.dtype:
        raise ValueError(f"edges has dtype {edges.dtype}, but {values.dtype} is needed.")
    _check.same_device("edges", edges, values)


def _fake(values: Tensor, edges: Tensor) -> Tensor:
    return values.new_empty(2 * len(edges) + 1, dtype=torch.int64)


@op(_check_arguments, _fake)
def interval_counts(values: Tensor, edges: Tensor) -> Tensor:
    """The number of values below the first edge, at it, between it and the second, at that, ..., above the last, int64 [2 M + 1].

    values: [N]; edges: [M], strictly ascending and without NaN. Both float32 or float64. -0 is 0; NaN and +infinity count as above all
    other values. The kernel raises `RuntimeError` for edges that do not ascend. Raises `ValueError` for other shapes or dtypes.
    """
    below_or_at = torch.searchsorted(edges, values, right=True)
    return torch.bincount(torch.searchsorted(edges, values) + below_or_at, minlength=2 * len(edges) + 1)
