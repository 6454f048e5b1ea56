"""How late the event loop is: whatever holds it keeps all else waiting, health checks and deadlines included."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from mesh.metrics import LOOP_LAG, LOOP_STALL

PERIOD_SECONDS = 0.25
"""How often it is measured."""


@contextmanager
def watched() -> Iterator[None]:
    """Measure the running loop while the context is open."""
    watch = _Watch(asyncio.get_running_loop())
    LOOP_STALL.set_function(watch.late)
    try:
        yield
    finally:
        watch.timer.cancel()
        LOOP_STALL.set_function(_never)


class _Watch:
    """A timer, and how late it came."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.timer = loop.call_later(PERIOD_SECONDS, self._tick)

    def late(self) -> float:
        """By how many seconds it is late now. May be asked by another thread."""
        return max(0.0, self._loop.time() - self.timer.when())

    def _tick(self) -> None:
        LOOP_LAG.observe(self.late())
        self.timer = self._loop.call_later(PERIOD_SECONDS, self._tick)


def _never() -> float:
    return 0.0
