"""Follows the log of one service in Postgres, for all watchers in this process: one reader, whatever their number."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict, deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import asyncpg

from mesh import Error
from mesh.recovery import Backoff, Failures
from services import notices

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from meshwright.events.v1.event_pb2 import Event
    from services.events.outbox import Outbox
    from services.notices import Notices

POLL_SECONDS = 5.0
"""How often to look for what no notice told of."""

BATCH = 500
MOST_WAITING = 64
"""A watcher that is behind by more events loses them, and is told."""

_AGAIN = Backoff(first_seconds=0.1, limit_seconds=5.0)
_log = logging.getLogger(__name__)


class Inbox:
    """The events about one subject that its watcher has not taken yet."""

    def __init__(self) -> None:
        self._events: deque[Event] = deque()
        self._complete = True
        self._filled = asyncio.Event()

    def put(self, event: Event) -> None:
        """One more; when there are too many, all are dropped."""
        if len(self._events) >= MOST_WAITING:
            self._events.clear()
            self._complete = False
        self._events.append(event)
        self._filled.set()

    async def take(self) -> list[Event] | None:
        """All that came, at least one; None when some were dropped: look at the subject itself then."""
        await self._filled.wait()
        self._filled.clear()
        found, complete = list(self._events), self._complete
        self._events.clear()
        self._complete = True
        return found if complete else None


class Changes:
    """Reads only while somebody watches."""

    def __init__(self, outbox: Outbox, notices: Notices, *, poll_seconds: float = POLL_SECONDS) -> None:
        self._outbox = outbox
        self._notices = notices
        self._poll_seconds = poll_seconds
        self._inboxes: defaultdict[str, set[Inbox]] = defaultdict(set)
        self._watched = asyncio.Event()
        self._number: int | None = None

    @asynccontextmanager
    async def about(self, subject: str) -> AsyncIterator[Inbox]:
        """An inbox that gets every event about a subject whose change is not visible yet when the block begins."""
        inbox = Inbox()
        self._inboxes[subject].add(inbox)
        try:
            await self._begin()
            yield inbox
        finally:
            self._inboxes[subject].discard(inbox)
            if not self._inboxes[subject]:
                del self._inboxes[subject]
            self._end_unless_watched()

    async def _begin(self) -> None:
        """Read from now on, unless that has begun."""
        if self._number is None:
            last = await self._outbox.last()
            if self._number is None:
                self._number = last
        self._watched.set()

    def _end_unless_watched(self) -> None:
        if not self._inboxes:
            self._number = None
            self._watched.clear()

    async def run(self) -> None:
        """Read until cancelled. While Postgres is away, watchers wait."""
        failures = Failures()
        with self._notices.following("numbered") as event:
            while True:
                await self._watched.wait()
                try:
                    while await self._read():
                        failures.reset()
                    await notices.wait(event, self._poll_seconds)
                except (Error, asyncpg.PostgresError) as error:
                    _log.warning("watchers of %s wait: %s", self._outbox.source.schema, error)
                    await failures.wait(_AGAIN)

    async def _read(self) -> bool:
        """Hand on what the log has more, if anything."""
        if self._number is None:
            return False
        events = await self._outbox.after(self._number, BATCH)
        for event in events:
            for inbox in self._inboxes.get(event.subject, ()):
                inbox.put(event)
            self._number = event.number
        self._end_unless_watched()
        return bool(events)
