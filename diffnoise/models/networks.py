"""The networks that inference runs, kept as long as the model's weights stay."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .prepared import prepare


class Networks:
    """`networks(dtype)`: the model as `prepare` makes it ready for `timesteps` steps, made anew where its weights have changed since."""

    def __init__(self, model: Callable[..., Any], timesteps: int) -> None:
        self._model, self._timesteps, self._lock = model, timesteps, threading.Lock()
        self._state: list[tuple[int, int]] = []
        self._made: dict[torch.dtype, Callable[..., Any]] = {}

    def __call__(self, dtype: torch.dtype) -> Callable[..., Any]:
        model = self._model
        weights: list[Tensor] = [*model.parameters(), *model.buffers()] if isinstance(model, nn.Module) else []
        state = [(weight.data_ptr(), 0 if weight.is_inference() else weight._version) for weight in weights]
        with self._lock:
            if state != self._state:
                self._state, self._made = state, {}
            if dtype not in self._made:
                self._made[dtype] = prepare(model, dtype, self._timesteps)
            return self._made[dtype]

    def __reduce__(self) -> tuple[Any, ...]:
        return Networks, (self._model, self._timesteps)  # copies make their own
