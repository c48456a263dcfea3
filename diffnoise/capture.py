"""CUDA graphs of a function of tensors."""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch
from torch import Tensor

Function = Callable[..., tuple[Tensor, ...]]


class Captured:
    """`function` as one CUDA graph: a call copies its arguments into place, replays, and returns copies of the results.

    function: tensors to tensors, without host synchronisation. example: arguments of the shapes, dtypes and device that every
    call will have; CPU arguments of a call are uploaded without waiting where they lie in pinned memory. A call never waits for the device.
    """

    WARM_UP = 2  # calls before the capture: kernels are compiled, libraries choose theirs and take their memory

    def __init__(self, function: Function, *example: Tensor) -> None:
        self._device, self._lock = example[0].device, threading.Lock()
        self._arguments = [argument.clone() for argument in example]
        with torch.cuda.device(self._device):
            self._capture(function)

    def _capture(self, function: Function) -> None:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(self.WARM_UP):
                function(*self._arguments)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._results = function(*self._arguments)

    def __call__(self, *arguments: Tensor) -> tuple[Tensor, ...]:
        with self._lock, torch.cuda.device(self._device):
            for place, argument in zip(self._arguments, arguments, strict=True):
                place.copy_(argument, non_blocking=True)
            self._graph.replay()
            return tuple(result.clone() for result in self._results)


def bucket(count: int, most: int) -> int:
    """The smallest power of two from `count` on, but `most` at most."""
    return min(1 << (count - 1).bit_length(), most)
