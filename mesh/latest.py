"""A value that many tasks follow: the newest wins, so a slow follower has no queue."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Generic, TypeVar

from mesh.scope import Scope

T = TypeVar("T")


class Latest(Generic[T]):
    """Holds the newest value and wakes whoever follows it.

    For one event loop; not for threads.
    """

    def __init__(self, value: T) -> None:
        self._value = value
        self._next: asyncio.Event = asyncio.Event()

    @property
    def value(self) -> T:
        """The newest value."""
        return self._value

    def set(self, value: T) -> bool:
        """Replace the value and wake the followers, unless it is equal; tells which."""
        if value == self._value:
            return False
        self.put(value)
        return True

    def put(self, value: T) -> None:
        """Replace the value and wake the followers, though it may be equal."""
        self._value = value
        woken, self._next = self._next, asyncio.Event()
        woken.set()

    async def changes(self, *, every_seconds: float | None = None) -> AsyncIterator[T]:
        """The value now, then each newest one after it; those in between may be left out.

        With `every_seconds` the value comes again when it did not change for so long.
        """
        while True:
            event = self._next
            yield self._value
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(every_seconds):
                    await event.wait()


async def with_newest(latest: Latest[T], work: Callable[[T], Coroutine[Any, Any, None]]) -> None:
    """Do a piece of work with the newest value, and begin it again whenever that changes. Until cancelled."""
    changes = latest.changes()
    value = await anext(changes)
    while True:
        async with Scope() as scope:
            scope.start(work(value))
            value = await anext(changes)
