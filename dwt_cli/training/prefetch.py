"""Prefetching: a thread makes the next micro-batch while the one before it is used."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class Prefetch:
    """``make(step, part)``, one part ahead of a caller that takes all parts of all steps in turn.

    make: a pure function, so that it does not matter who calls it and when. An error in it is
    raised by the call that needs the part. parts: those of this process, the same in every step.
    """

    def __init__(self, make: Callable[[int, int], Any], parts: range) -> None:
        self._make, self._parts = make, parts
        self._thread = ThreadPoolExecutor(1, "batches")
        self._coming: tuple[tuple[int, int], Future[Any]] | None = None

    def __call__(self, step: int, part: int) -> Any:
        if self._coming is None or self._coming[0] != (step, part):
            self._begin(step, part)  # the first one, or after a jump
        assert self._coming is not None
        made = self._coming[1].result()
        self._begin(*((step, part + 1) if part + 1 in self._parts else (step + 1, self._parts[0])))
        return made

    def _begin(self, step: int, part: int) -> None:
        self._coming = ((step, part), self._thread.submit(self._make, step, part))
