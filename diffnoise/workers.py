"""Independent parts of work in threads that each run torch single-threaded."""

from __future__ import annotations

import itertools
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import lru_cache
from typing import TypeVar

import torch

Part = TypeVar("Part")
Result = TypeVar("Result")
Work = tuple[list[Callable[[], Part]], Callable[[Sequence[Part]], Result]]


def in_threads(items: Iterable[Work[Part, Result]]) -> Iterator[Result]:
    """combine([part() for part in parts]) for each (parts, combine), in order, in the worker threads, few items in flight."""
    threads = torch.get_num_threads()
    pool = _workers(threads)
    pending: deque[list[Future[Result | None]]] = deque()

    def first() -> Result:
        [result] = [value for future in pending[0] if (value := future.result()) is not None]
        pending.popleft()
        return result

    try:
        for item in items:
            pending.append(_submit(pool, *item))
            if len(pending) > 2 * threads:
                yield first()
        while pending:
            yield first()
    finally:
        unfinished = [future for futures in pending for future in futures if not future.cancel()]
        wait(unfinished)


def _submit(
    pool: ThreadPoolExecutor, parts: list[Callable[[], Part]], combine: Callable[[Sequence[Part]], Result]
) -> list[Future[Result | None]]:
    """A future for each part: that of the part that ends last holds the result, the others None."""
    values: dict[int, Part] = {}
    ended = itertools.count(1)  # its next() is atomic

    def run(index: int) -> Result | None:
        values[index] = parts[index]()
        return combine([values[i] for i in range(len(parts))]) if next(ended) == len(parts) else None

    return [pool.submit(run, index) for index in range(len(parts))]


@lru_cache(maxsize=1)
def _workers(threads: int) -> ThreadPoolExecutor:
    """Threads that each run torch single-threaded; kept, since new ones would first have to warm up at every image."""
    started = threading.Barrier(threads + 1)

    def start() -> None:
        torch.set_num_threads(1)
        torch.get_num_threads()  # a thread's first question fixes its number: ask before the caller's is restored
        started.wait()

    pool = ThreadPoolExecutor(threads, initializer=start)
    for _ in range(threads):
        pool.submit(int)
    started.wait()
    # set_num_threads acts on the calling thread, and on those that have not started yet: restore it for the caller.
    torch.set_num_threads(threads)
    return pool


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_workers.cache_clear)  # threads do not survive a fork
