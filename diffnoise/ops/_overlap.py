"""Whether the tensor that a result is written to shares memory with what is still to be read."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def refuse_overlap(out: Tensor, inputs: Iterable[Tensor]) -> None:
    """Raise `ValueError` where elements of `out` share memory with each other or with an input that is not laid out exactly as `out`.

    While torch.compile traces there is no memory to look at; it gives every result memory of its own.
    """
    if torch.compiler.is_compiling() or out.numel() == 0:
        return
    if any(size > 1 and stride == 0 for size, stride in zip(out.shape, out.stride(), strict=True)):
        raise ValueError(
            "out holds several elements in one place of memory, as an expanded tensor does; give a buffer of its own."
        )
    for tensor in inputs:
        if _overlap(out, tensor) and not _same(out, tensor):
            raise ValueError(
                "out shares memory with an input without being that input; give the input itself as out, or a buffer of its own."
            )


def _same(a: Tensor, b: Tensor) -> bool:
    return a.data_ptr() == b.data_ptr() and a.dtype == b.dtype and a.shape == b.shape and a.stride() == b.stride()


def _overlap(a: Tensor, b: Tensor) -> bool:
    """Whether the ranges of memory overlap; for batches with one distance between samples, the ranges of the samples."""
    if b.numel() == 0 or a.untyped_storage().data_ptr() != b.untyped_storage().data_ptr():
        return False
    distance = b.data_ptr() - a.data_ptr()
    period = a.stride(0) * a.element_size()
    if a.shape[0] > 1 and b.ndim > 0 and b.shape[0] > 1 and period == b.stride(0) * b.element_size():
        # Halves of one tensor's channels lie between each other.
        length_a, length_b = _bytes(a[0]), _bytes(b[0])
        apart = length_a <= distance % period <= period - length_b
        if max(length_a, length_b) <= period and apart:
            return False
    return -_bytes(b) < distance < _bytes(a)


def _bytes(tensor: Tensor) -> int:
    """From the first element to the end of the last."""
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return (last + 1) * tensor.element_size()
