"""What else does the same work: one file per kind of work, nothing imported before it is asked for."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Arguments = dict[str, Any]
"""The arguments of the op, by name."""


@dataclass(frozen=True)
class Peer:
    """Something to time beside an op: `prepare(arguments)` does all that a user does once and returns the call to be timed."""

    name: str
    prepare: Callable[[Arguments], Callable[[], Any]]
    needs: tuple[str, ...] = ()
    """Modules without which it is left out."""
    devices: tuple[str, ...] = ("cpu",)
    compiles: bool = False
    """Whether `torch.compile` takes its time first."""
    lowers: bool = True
    """Whether it can be held to a lower instruction set than the machine's best."""

    def missing(self, device: str, compilers: bool, lowered: bool) -> str | None:
        """Why it is left out; None when it is not."""
        if device not in self.devices:
            return f"does not run on {device}"
        absent = [name for name in self.needs if importlib.util.find_spec(name) is None]
        if absent:
            return f"{' and '.join(absent)} not installed"
        if lowered and not self.lowers:
            return "takes the best instruction set that there is"
        return "compiling takes long" if self.compiles and not compilers else None


ANYWHERE = ("cpu", "cuda")
