"""Postgres NOTIFY of one channel, spread within the process: wake-ups that may be missed, never relied upon."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import asyncpg

from mesh import Error
from mesh.recovery import Backoff, Failures
from services.database import translated, until_lost

if TYPE_CHECKING:
    from collections.abc import Iterator

    from services.database import Database

ALL = ""
"""Key that follows every notice."""

CHECK_SECONDS = 20.0
"""How often the listening connection is asked whether it lives."""

_RECONNECT = Backoff(first_seconds=0.2, limit_seconds=5.0)
_log = logging.getLogger(__name__)


class Notices:
    """Sets events when a notice with their key arrives, and all events when notices may have been missed."""

    def __init__(self, database: Database, channel: str, *, check_seconds: float = CHECK_SECONDS) -> None:
        self._database = database
        self._channel = channel
        self._check_seconds = check_seconds
        self._events: defaultdict[str, set[asyncio.Event]] = defaultdict(set)

    @contextmanager
    def following(self, key: str) -> Iterator[asyncio.Event]:
        """An event that each notice with this payload sets."""
        event = asyncio.Event()
        self._events[key].add(event)
        try:
            yield event
        finally:
            self._events[key].discard(event)
            if not self._events[key]:
                del self._events[key]

    async def run(self) -> None:
        """Listen until cancelled, over a new connection whenever the last one broke."""
        failures = Failures()
        while True:
            try:
                await self._listen(failures)
            except (Error, OSError, asyncpg.PostgresError) as error:
                _log.warning("listening for %s: %s", self._channel, error)
            await failures.wait(_RECONNECT)

    async def _listen(self, failures: Failures) -> None:
        connection = await self._database.listener()
        try:
            with translated():
                await connection.add_listener(self._channel, self._spread)
                failures.reset()
                self._wake_all()
                await until_lost(connection, self._check_seconds)
        finally:
            connection.terminate()

    def _spread(self, connection: Any, pid: int, channel: str, payload: object) -> None:
        for key in (str(payload), ALL):
            for event in self._events.get(key, ()):
                event.set()

    def _wake_all(self) -> None:
        for events in self._events.values():
            for event in events:
                event.set()


async def wait(event: asyncio.Event, seconds: float) -> None:
    """Until the event is set, but not longer; clears it."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    event.clear()
