"""The events of all services as one Redis Stream."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, TypeAlias

from mesh import Code, Error
from meshwright.events.v1.event_pb2 import Event
from services.events.model import Seen
from services.totals import EVENTS, LAST, TIME, key

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from redis.asyncio import Redis

STREAM = "meshwright:events"
"""Entries have one field: a serialized `meshwright.events.v1.Event`."""

NUMBERS = "meshwright:events:numbers"
"""Hash: number of the newest event of each service that the stream was given, written together with it."""

LENGTH = 100_000
"""About so many entries are kept."""

HEARD_SECONDS = 30.0
"""So long after its first entry every service that is there was heard of."""

PAGE = 500
"""Most entries that are read at once."""

Place: TypeAlias = tuple[int, int]
"""Where an entry is in the stream: Redis' id, milliseconds and a counter."""

START: Place = (0, 0)
_FIELD = b"event"
_PUBLISH = """
local service, number, length, after = unpack(ARGV, 1, 4)
if after ~= '' and tonumber(after) ~= tonumber(redis.call('HGET', KEYS[2], service) or 0) then
    return 0
end
for i = 5, #ARGV do
    redis.call('XADD', KEYS[1], 'MAXLEN', '~', length, '*', 'event', ARGV[i])
end
redis.call('HSET', KEYS[2], service, number)
return 1
"""


@dataclass(frozen=True)
class Entry:
    """An event and its place."""

    place: Place
    event: Event

    @classmethod
    def parse(cls, raw: tuple[bytes, dict[bytes, bytes]]) -> Self:
        """As Redis answers it."""
        place, fields = raw
        return cls(_place(place), Event.FromString(fields[_FIELD]))


class Stream:
    """Commands about it; the client must not decode what it reads. All methods raise what the Redis client does."""

    def __init__(self, redis: Redis, *, length: int = LENGTH) -> None:
        self._redis: Any = redis
        self._length = length
        self._publish = self._redis.register_script(_PUBLISH)

    async def published(self, service: str) -> int:
        """Number of the newest event that the stream was given; 0 when Redis knows of none."""
        return int(await self._redis.hget(NUMBERS, service) or 0)

    async def publish(self, events: Sequence[Event], *, after: int | None = None) -> bool:
        """Append events of one service, all or none; `after` is the number that must be its newest one until then.

        False when it is not: Redis came back empty since it was asked, or this was sent twice as its answer was lost.
        """
        told = (events[-1].service, events[-1].number, self._length, "" if after is None else after)
        bodies = [event.SerializeToString() for event in events]
        return bool(await self._publish(keys=(STREAM, NUMBERS), args=(*told, *bodies)))

    async def announce(self, service: str) -> None:
        """Have watchers know of a service that has no events yet, so that they say which of its events they lack.

        In a stream that is filled again, the events of one service may come before what was seen of another.
        """
        await self._redis.hsetnx(NUMBERS, service, 0)

    async def forget(self, service: str) -> None:
        """Have the events of a service sent anew."""
        await self._redis.hdel(NUMBERS, service)

    async def clear(self) -> None:
        """Forget all events; the relays send anew what their outboxes keep."""
        services = [service.decode() for service in await self._redis.hkeys(NUMBERS)]
        await self._redis.unlink(STREAM, NUMBERS, *(_backlog(service) for service in services))

    async def end(self) -> tuple[Place, Seen]:
        """The last place, and what lies before it."""
        pipeline = self._redis.pipeline(transaction=True)
        pipeline.xrevrange(STREAM, count=1)
        pipeline.hgetall(NUMBERS)
        last, numbers = await pipeline.execute()
        seen = Seen({service.decode(): int(number) for service, number in numbers.items()})
        return (_place(last[0][0]) if last else START), seen

    async def after(self, place: Place, count: int = PAGE) -> list[Entry]:
        """The entries that follow."""
        return _entries(await self._redis.xrange(STREAM, f"({_text(place)}", "+", count))

    async def wait(self, place: Place, milliseconds: int) -> list[Entry]:
        """The entries that follow, as soon as there are any; none after so long."""
        found = await self._redis.xread({STREAM: _text(place)}, count=PAGE, block=milliseconds)
        return _entries(found[0][1]) if found else []

    async def find(self, seen: Seen) -> Place:
        """A place behind which lies everything that was not seen.

        Goes back from the end, so it costs as much as was missed. Raises OUT_OF_RANGE when something that was not seen
        is no longer there, or when what was seen never was; UNAVAILABLE while the stream does not yet reach that far.
        """
        place, end = await self.end()
        if not seen.numbers:
            return START
        ahead = {service: number for service, number in seen.numbers.items() if number > end.numbers.get(service, 0)}
        if ahead:
            raise expired(seen) if await self._never_were(ahead) else _not_there(seen)
        return await self._back(place, seen, _behind(seen, end))

    async def _never_were(self, ahead: Mapping[str, int]) -> bool:
        """Whether there is a service without such an event: one that told so, or of which nothing is heard."""
        last = await self._last(ahead)
        if any(number > last[service] for service, number in ahead.items() if service in last):
            return True
        return not ahead.keys() <= last.keys() and not await self._is_new()

    async def _last(self, services: Iterable[str]) -> dict[str, int]:
        """The newest number that each service had, of those that said so since Redis began.

        What was said before that may be older than what was in a stream whose end Redis lost.
        """
        seconds, _ = await self._redis.time()
        began = seconds - (await self._redis.info("server"))["uptime_in_seconds"] + 1
        models = {service: await self._redis.get(_backlog(service)) for service in services}
        said = {service: json.loads(model) for service, model in models.items() if model}
        return {service: model[LAST] for service, model in said.items() if model[TIME] > began * 1_000_000}

    async def _is_new(self) -> bool:
        """Whether it began so short ago, for Redis came back empty, that not all services may have been heard."""
        first = await self._redis.xrange(STREAM, count=1)
        seconds, _ = await self._redis.time()
        return not first or seconds - _place(first[0][0])[0] / 1000 < HEARD_SECONDS

    async def _before(self, limit: str) -> list[Entry]:
        return _entries(await self._redis.xrevrange(STREAM, limit, "-", PAGE))

    async def _back(self, end: Place, seen: Seen, behind: set[str]) -> Place:
        """From the end to where the last of the services that are behind was left."""
        place, oldest, limit = end, dict.fromkeys(behind, 0), _text(end)
        while behind:
            page = await self._before(limit)
            for entry in page:
                service = entry.event.service
                oldest[service] = entry.event.number
                if service in behind and seen.has(entry.event):
                    behind.discard(service)
                    place = entry.place
                    if not behind:
                        return place
            if len(page) < PAGE:
                return _from_start(seen, behind, oldest)
            limit = f"({_text(page[-1].place)}"
        return place


def _behind(seen: Seen, end: Seen) -> set[str]:
    """The services whose last seen event tells where to begin.

    Of services that were not seen at all, everything counts that came after what was seen of the others.
    """
    if end.numbers.keys() - seen.numbers.keys():
        return set(seen.numbers)
    return {service for service, number in seen.numbers.items() if number < end.numbers.get(service, 0)}


def _from_start(seen: Seen, behind: Iterable[str], oldest: dict[str, int]) -> Place:
    for service in behind:
        if oldest.get(service, 0) != seen.numbers[service] + 1:
            raise expired(seen)
    return START


def expired(seen: Seen) -> Error:
    """The answer to a watcher that comes too late."""
    return Error(
        Code.OUT_OF_RANGE,
        f"events after {seen} are no longer kept, or never were; read what you follow anew, and watch without an id",
        reason="EVENTS_EXPIRED",
        metadata={"last_event_id": str(seen)},
    )


def _backlog(service: str) -> str:
    """Where the read model is of a service's events that are not in the stream yet."""
    return key(f"{service}{EVENTS}")


def _not_there(seen: Seen) -> Error:
    return Error(
        Code.UNAVAILABLE,
        f"events up to {seen} are not there yet; try again",
        reason="EVENTS_BEHIND",
        metadata={"last_event_id": str(seen)},
        retry_after_seconds=1.0,
    )


def _entries(raw: Iterable[Any]) -> list[Entry]:
    return [Entry.parse(one) for one in raw]


def _place(raw: bytes) -> Place:
    moment, _, count = raw.partition(b"-")
    return int(moment), int(count)


def _text(place: Place) -> str:
    return f"{place[0]}-{place[1]}"
