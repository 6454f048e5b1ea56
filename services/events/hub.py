"""Follows the stream of all events for every watcher in this process: one reader of Redis, whatever their number.

The newest entries are kept in a ring, and each watcher knows how far it is: a slow one costs no memory. One that is
further behind than the ring reads pages of the stream itself, a few watchers at a time, until it has caught up.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

from mesh import Code, Error
from mesh.recovery import Backoff, Failures, now
from services.events.ring import Ring
from services.events.stream import PAGE, expired

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterator

    from meshwright.events.v1.event_pb2 import Event
    from services.events.model import Seen
    from services.events.stream import Entry, Place, Stream

CAPACITY = 4096
"""Entries in the ring."""

BLOCK_SECONDS = 5.0
"""Longest time that one read waits for entries; the client's own timeout is longer."""

PATIENCE_SECONDS = 30.0
"""How long watchers wait for a Redis that is away."""

MOST_BEHIND = 4
"""Watchers that read pages of the stream at the same time."""

_FAILURES = (RedisError, OSError, TimeoutError)
_AGAIN = Backoff(first_seconds=0.1, limit_seconds=2.0)
_log = logging.getLogger(__name__)


class Hub:
    """Reads only while somebody watches."""

    def __init__(
        self, stream: Stream, *, capacity: int = CAPACITY, patience_seconds: float = PATIENCE_SECONDS
    ) -> None:
        self._stream = stream
        self._patience_seconds = patience_seconds
        self._ring = Ring(capacity)
        self._watchers = 0
        self._watched = asyncio.Event()
        self._grown = asyncio.Event()
        self._away_since: float | None = None
        self._behind = asyncio.Semaphore(MOST_BEHIND)

    async def run(self) -> None:
        """Read until cancelled. A Redis that is away is asked again and again."""
        failures = Failures()
        while True:
            await self._watched.wait()
            try:
                await self._read(failures)
            except _FAILURES as error:
                _log.warning("watchers of events wait: %s", error)
                if self._watchers:
                    self._away_since = self._away_since or now()
                self._wake()
                await failures.wait(_AGAIN)

    async def follow(self, seen: Seen | None, quiet_seconds: float) -> AsyncGenerator[tuple[list[Event], Seen], None]:
        """Events that were not seen, in order, each once, and what was seen before them; from now on without `seen`.

        The first batch is empty and comes at once, and so does one after each time of quiet. Raises OUT_OF_RANGE when
        events are gone that were not seen, and UNAVAILABLE when Redis is: at once when it is at the start, later when
        it is for longer than watchers are patient.
        """
        with self._watching():
            place, seen = await self._start(seen)
            yield [], seen
            while True:
                before = seen
                async for entries in self._entries(place, quiet_seconds):
                    events, after, complete = _new(entries, seen)
                    if events or not entries:
                        yield events, seen
                    seen = after
                    if not complete:
                        break
                if seen == before:
                    raise expired(seen)
                place, seen = await self._start(seen)

    @contextmanager
    def _watching(self) -> Iterator[None]:
        self._watchers += 1
        self._watched.set()
        try:
            yield
        finally:
            self._watchers -= 1
            if not self._watchers:
                self._watched.clear()
                self._away_since = None

    async def _start(self, seen: Seen | None) -> tuple[Place, Seen]:
        async with self._behind:
            try:
                return await self._stream.end() if seen is None else (await self._stream.find(seen), seen)
            except _FAILURES as error:
                raise _away() from error

    async def _entries(self, place: Place, quiet_seconds: float) -> AsyncIterator[list[Entry]]:
        """What comes after a place, batch by batch; an empty one after each time of quiet."""
        while True:
            async for entries in self._from_ring(place, quiet_seconds):
                yield entries
                place = entries[-1].place if entries else place
            grown = self._grown
            if entries := await self._page(place):
                yield entries
                place = entries[-1].place
            elif await self._quiet(grown, quiet_seconds):
                yield []

    async def _page(self, place: Place) -> list[Entry]:
        """What comes after a place, from Redis; nothing while that is away, which the reader notices as well."""
        async with self._behind:
            try:
                return await self._stream.after(place)
            except _FAILURES:
                return []

    async def _from_ring(self, place: Place, quiet_seconds: float) -> AsyncIterator[list[Entry]]:
        """As long as the ring reaches back far enough."""
        index = self._ring.index(place)
        while index is not None:
            grown = self._grown
            entries = self._ring.since(index)
            if entries is None:
                return
            if entries:
                index += len(entries[:PAGE])
                yield entries[:PAGE]
            elif await self._quiet(grown, quiet_seconds):
                yield []

    async def _quiet(self, grown: asyncio.Event, seconds: float) -> bool:
        """Wait for more; whether there was none for so long. Raises UNAVAILABLE when that is no wonder."""
        if self._away_since is not None and now() - self._away_since > self._patience_seconds:
            raise _away()
        try:
            async with asyncio.timeout(seconds):
                await grown.wait()
        except TimeoutError:
            return True
        return False

    async def _read(self, failures: Failures) -> None:
        """Keep the ring up to date while anybody watches."""
        place, _ = await self._stream.end()
        self._ring.begin(place)
        while self._watchers:
            self._away_since = None
            failures.reset()
            self._wake()
            entries = await self._stream.wait(place, round(BLOCK_SECONDS * 1000))
            self._ring.add(entries)
            place = entries[-1].place if entries else place

    def _wake(self) -> None:
        grown, self._grown = self._grown, asyncio.Event()
        grown.set()


def _new(entries: list[Entry], seen: Seen) -> tuple[list[Event], Seen, bool]:
    """The events among the entries that were not seen, what was seen then, and whether none is missing before one."""
    found: list[Event] = []
    for event in (entry.event for entry in entries):
        if seen.misses(event):
            return found, seen, False
        if not seen.has(event):
            seen = seen.add(event)
            found.append(event)
    return found, seen, True


def _away() -> Error:
    return Error(
        Code.UNAVAILABLE, "the store of events cannot be reached; go on later with the last_event_id that you have",
        reason="EVENTS_UNAVAILABLE", retry_after_seconds=1.0,
    )  # fmt: skip
