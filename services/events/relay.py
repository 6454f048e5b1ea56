"""Brings what has committed into the log, and the log into the stream: once each, in order, however many replicas do.

Nothing is lost on the way. A change is in the outbox when it commits; a process that dies before a step is done leaves
it to another. Changes that commit out of order get their numbers in the order in which they become visible.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import asyncpg
from opentelemetry import trace
from redis.exceptions import RedisError

from mesh import Error
from mesh.recovery import Backoff, Failures, time_of_day
from services import notices, paging
from services.events.changes import Changes
from services.events.outbox import PUBLISHING, Outbox
from services.events.stream import LENGTH, STREAM, Stream
from services.events.trace import about, links
from services.metrics import Queue
from services.notices import Notices
from services.totals import EVENTS, LAST, OLDEST, TIME, WAITING, Model, Totals

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from redis.asyncio import Redis

    from mesh.scope import Scope
    from meshwright.events.v1.event_pb2 import Event
    from services.database import Database
    from services.events.outbox import Source

BATCH = 500
"""Most events of one step."""

POLL_SECONDS = 5.0
"""How often to look for what no notice told of, such as what a replica left that died."""

BACKLOG_SECONDS = 5.0
"""How often what is not in the stream yet is counted."""

FORGET_EVERY = 10_000
"""How many events pass between two clean-ups."""

FAILURES = (Error, RedisError, OSError, TimeoutError, asyncpg.PostgresError)
"""What a step is tried again after."""

OUTBOX = Queue("outbox", "Changes that are not in the stream of events yet")

_AGAIN = Backoff(first_seconds=0.1, limit_seconds=5.0)
_log = logging.getLogger(__name__)
_tracer = trace.get_tracer(__name__)


def start(scope: Scope, database: Database, redis: Redis, source: Source) -> Changes:
    """Relay the events of a service while the scope lasts; what follows them in this process, not started."""
    outbox, stream, told = Outbox(database, source), Stream(redis), Notices(database, source.channel)
    name, count = f"{source.service}{EVENTS}", Backlog(outbox, stream).count
    backlog = Totals(redis, name, count, refresh_seconds=BACKLOG_SECONDS, told=OUTBOX.told)
    scope.start(told.run(), name=f"notices of {source.channel}")
    scope.start(Relay(outbox, stream, told).run(), name=f"relay of {source.service}")
    scope.start(backlog.run(), name=f"backlog of {source.service}")
    return Changes(outbox, told)


class Backlog:
    """The read model of a service's events that are not in the stream yet."""

    def __init__(self, outbox: Outbox, stream: Stream) -> None:
        self._outbox = outbox
        self._stream = stream
        self._published: int | None = None

    async def count(self) -> Model:
        """What waits now. While Redis is away nothing is published, so that what it had last is still true."""
        time = time_of_day()
        try:
            self._published = await self._stream.published(self._outbox.source.service)
        except (RedisError, OSError, TimeoutError):
            if self._published is None:
                raise
        found = await self._outbox.backlog(self._published)
        counts = {WAITING: found.waiting, LAST: found.last, TIME: paging.micros(time)}
        return counts if found.oldest is None else {**counts, OLDEST: paging.micros(found.oldest)}


class Relay:
    """One service's relay; each replica runs one. `keep` is how many published events stay to fill a lost Redis."""

    def __init__(
        self, outbox: Outbox, stream: Stream, notices: Notices, *,
        keep: int = LENGTH, poll_seconds: float = POLL_SECONDS,
    ) -> None:
        self._outbox = outbox
        self._stream = stream
        self._notices = notices
        self._keep = keep
        self._poll_seconds = poll_seconds
        self._forgotten = 0

    async def run(self) -> None:
        """Work until cancelled. What Redis does not take waits; numbers are given meanwhile."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._repeat(self.number, "new"), name="numbers of events")
            group.create_task(self._repeat(self.publish, "numbered"), name="stream of events")

    async def number(self) -> bool:
        """Number a batch of changes that have committed; whether there were any, and no other process is at it."""
        return await self._outbox.number(BATCH) > 0

    async def publish(self) -> bool:
        """Copy a batch that the stream lacks; whether there was anything to do, and no other process is at it."""
        async with self._outbox.alone(PUBLISHING) as outbox:
            if outbox is None:
                return False
            published = await self._stream.published(outbox.source.service)
            events = await outbox.after(published, BATCH)
            if events:
                await self._send(outbox, events, published)
            elif not published:
                await self._stream.announce(outbox.source.service)
            elif published > await outbox.last():
                await self._start_over(published)
                return True
            return bool(events)

    async def _send(self, outbox: Outbox, events: list[Event], published: int) -> None:
        with _tracer.start_as_current_span(
            f"publish {STREAM}", kind=trace.SpanKind.PRODUCER, links=links(event.traceparent for event in events),
            attributes=about("publish", "send", len(events)),
        ):  # fmt: skip
            sent = await self._stream.publish(events, after=published)
        if not sent:
            return
        last = events[-1].number
        if last - self._forgotten >= FORGET_EVERY:
            await outbox.forget(self._keep, last)
            self._forgotten = last

    async def _start_over(self, published: int) -> None:
        """Redis has events of another database, or this one was restored from a backup."""
        service = self._outbox.source.service
        _log.warning("Redis has %d events of %s, and Postgres fewer: all are sent anew", published, service)
        await self._stream.forget(service)

    async def _repeat(self, step: Callable[[], Awaitable[bool]], key: str) -> None:
        failures = Failures()
        with self._notices.following(key) as event:
            while True:
                try:
                    while await step():
                        failures.reset()
                    failures.reset()
                    await notices.wait(event, self._poll_seconds)
                except FAILURES as error:
                    _log.warning("events of %s wait: %s", self._outbox.source.service, error)
                    await failures.wait(_AGAIN)
