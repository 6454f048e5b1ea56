"""Consumers of the stream that share its events among them: a consumer group of Redis, and what it could not do.

A group has three streams: that of all events, its own one of events to do again (`replay`), and its dead letters.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from redis.exceptions import ResponseError

from services.events.stream import STREAM

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from redis.asyncio import Redis

LETTERS = 10_000
"""About so many dead letters are kept."""

SHOWN = 20
"""Dead letters that are shown with how a group does."""

FORGOTTEN_SECONDS = 3600.0
"""A consumer that has nothing in hand and gave no sign of life for so long is struck off the group."""

_EVENT = b"event"
_TIDY = """
for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
    if consumer[4] == 0 and consumer[6] > tonumber(ARGV[2]) then
        redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], consumer[2])
    end
end
"""


@dataclass(frozen=True)
class Delivery:
    """An event in the hands of a consumer."""

    stream: str
    place: bytes
    raw: bytes
    """The event, serialized; whatever was written to the stream."""
    count: int
    """How often it was delivered, this time included."""


@dataclass(frozen=True)
class Letter:
    """An event that was given up."""

    place: bytes
    raw: bytes
    reason: str
    stream: str = ""
    """Where it came from; empty in one that an earlier release gave up, as `count` is 0."""
    count: int = 0
    """How often it was delivered."""

    @property
    def time(self) -> datetime:
        """When it was given up."""
        return _time(self.place)


@dataclass(frozen=True)
class Standing:
    """How a group does."""

    name: str
    waiting: int | None
    """Events that no consumer was given yet, those to do again included; None when Redis cannot tell."""
    in_hand: int
    """Events that a consumer was given and is not done with."""
    dead: int
    """Dead letters."""
    oldest: datetime | None = None
    """When the oldest of those that wait or are in hand came into the stream."""
    letters: tuple[Letter, ...] = ()
    """The newest `SHOWN` dead letters, the newest first."""


async def standings(redis: Redis) -> list[Standing]:
    """How each group does, by name; the client must not decode what it reads. Raises what the Redis client does."""
    found = [await _standing(redis, group) for group in await _groups(redis)]
    return sorted(found, key=lambda one: one.name)


async def names(redis: Redis) -> list[str]:
    """Those of all groups, sorted; likewise."""
    return sorted(group["name"].decode() for group in await _groups(redis))


async def _groups(redis: Redis) -> Sequence[dict[str, Any]]:
    return await redis.xinfo_groups(STREAM) if await redis.exists(STREAM) else ()


async def _standing(redis: Redis, group: dict[str, Any]) -> Standing:
    name = group["name"].decode()
    pipeline: Any = redis.pipeline(transaction=True)
    pipeline.xlen(_dead(name))
    pipeline.xlen(_again(name))
    pipeline.xpending(STREAM, name)
    pipeline.xrange(STREAM, b"(" + group["last-delivered-id"], count=1)
    pipeline.xrange(_again(name), count=1)
    pipeline.xrevrange(_dead(name), count=SHOWN)
    dead, again, in_hand, *firsts, letters = await pipeline.execute()
    places = [in_hand["min"], *(place for first in firsts for place, _ in first)]
    waiting = None if group["lag"] is None else group["lag"] + again
    oldest = min(map(_time, filter(None, places)), default=None)
    return Standing(name, waiting, in_hand["pending"], dead, oldest, tuple(_letter(*entry) for entry in letters))


class Group:
    """Commands about one group, as one of its consumers; the client must not decode what it reads.

    All methods raise what the Redis client does.
    """

    def __init__(
        self, redis: Redis, name: str, consumer: str = "", *,
        forgotten_seconds: float = FORGOTTEN_SECONDS, letters: int = LETTERS,
    ) -> None:  # fmt: skip
        """Of dead letters about `letters` are kept."""
        self._letters = letters
        self.name = name
        self._redis: Any = redis
        self._consumer = consumer
        self._forgotten = round(forgotten_seconds * 1000)
        self._again = _again(name)
        self._dead = _dead(name)
        self._lost = False

    async def begin(self) -> None:
        """Make the group where it is not there: it begins with the oldest event that the stream has."""
        for stream in (STREAM, self._again):
            try:
                await self._redis.xgroup_create(stream, self.name, id="0", mkstream=True)
            except ResponseError as error:
                if not str(error).startswith("BUSYGROUP"):
                    raise
            await self._redis.eval(_TIDY, 1, stream, self.name, self._forgotten)

    async def take(self, count: int, milliseconds: int) -> list[Delivery]:
        """Events that no consumer of the group was given yet, as soon as there are any; none after so long."""
        streams = {STREAM: ">", self._again: ">"}
        found = await self._redis.xreadgroup(self.name, self._consumer, streams, count=count, block=milliseconds)
        return [_delivery(stream, entry, 1) for stream, entries in found for entry in entries]

    async def claim(self, idle_seconds: float) -> Delivery | None:
        """One event that a consumer has had for so long without being done with it, this one included."""
        for stream in (STREAM, self._again):
            cursor: bytes = b"0-0"
            while True:
                cursor, entries, gone = await self._redis.xautoclaim(
                    stream, self.name, self._consumer, round(idle_seconds * 1000), cursor, count=1
                )
                self._lost = self._lost or bool(gone)
                if entries:
                    return _delivery(stream, entries[0], await self._count(stream, entries[0][0]))
                if cursor == b"0-0":
                    break
        return None

    async def hold(self, deliveries: Iterable[Delivery]) -> None:
        """Say that they are still in hand; does not count as a delivery."""
        for stream, places in _by_stream(deliveries):
            await self._redis.xclaim(stream, self.name, self._consumer, 0, places, justid=True)

    async def done(self, deliveries: Iterable[Delivery]) -> None:
        """They are not delivered again."""
        pipeline = self._redis.pipeline(transaction=True)
        for stream, places in _by_stream(deliveries):
            self._settle(pipeline, stream, places)
        await pipeline.execute()

    async def bury(self, delivery: Delivery, reason: str) -> int:
        """Put one to the dead letters; how many of the oldest were dropped for it, as there were too many."""
        pipeline = self._redis.pipeline(transaction=True)
        letter = {
            _EVENT: delivery.raw, b"reason": reason.encode(), b"stream": delivery.stream.encode(),
            b"deliveries": delivery.count,
        }  # fmt: skip
        pipeline.xadd(self._dead, letter)
        pipeline.xtrim(self._dead, maxlen=self._letters, approximate=True)
        self._settle(pipeline, delivery.stream, [delivery.place])
        _, dropped, *_ = await pipeline.execute()
        return int(dropped)

    async def missed(self) -> bool:
        """Whether events were dropped from the stream, as it was full, before the group was done with them.

        Told once for those that had been delivered, and until the next event is taken for those that had not.
        """
        pipeline = self._redis.pipeline(transaction=True)
        pipeline.xinfo_stream(STREAM)
        pipeline.xinfo_groups(STREAM)
        stream, groups = await pipeline.execute()
        read = next((group["entries-read"] for group in groups if group["name"] == self.name.encode()), None)
        lost, self._lost = self._lost, False
        return lost or (read is not None and read < stream["entries-added"] - stream["length"])

    async def letters(self) -> list[Letter]:
        """The dead letters, the oldest first."""
        found = await self._redis.xrange(self._dead)
        return [_letter(*entry) for entry in found]

    async def replay(self, letters: Sequence[Letter]) -> None:
        """Have dead letters done again, all or none, by whichever consumer of the group comes first."""
        pipeline = self._redis.pipeline(transaction=True)
        for letter in letters:
            pipeline.xadd(self._again, {_EVENT: letter.raw})
            pipeline.xdel(self._dead, letter.place)
        await pipeline.execute()

    async def drop(self, letters: Sequence[Letter]) -> None:
        """Forget dead letters for good."""
        await self._redis.xdel(self._dead, *(letter.place for letter in letters))

    async def _count(self, stream: str, place: bytes) -> int:
        found = await self._redis.xpending_range(stream, self.name, place, place, 1)
        return int(found[0]["times_delivered"]) if found else 1

    def _settle(self, pipeline: Any, stream: str, places: list[bytes]) -> None:
        pipeline.xack(stream, self.name, *places)
        if stream == self._again:
            pipeline.xdel(stream, *places)


def _dead(name: str) -> str:
    return f"{STREAM}:dead:{name}"


def _again(name: str) -> str:
    return f"{STREAM}:again:{name}"


def _time(place: bytes) -> datetime:
    """When an entry was made, as Redis' id of it says."""
    return datetime.fromtimestamp(int(place.partition(b"-")[0]) / 1000, UTC)


def _delivery(stream: bytes | str, entry: tuple[bytes, dict[bytes, bytes]], count: int) -> Delivery:
    place, fields = entry
    name = stream if isinstance(stream, str) else stream.decode()
    return Delivery(stream=name, place=place, raw=fields.get(_EVENT, b""), count=count)


def _letter(place: bytes, fields: dict[bytes, bytes]) -> Letter:
    stream, count = fields.get(b"stream", b"").decode(), int(fields.get(b"deliveries", 0))
    return Letter(place, fields.get(_EVENT, b""), fields[b"reason"].decode(), stream, count)


def _by_stream(deliveries: Iterable[Delivery]) -> Iterable[tuple[str, list[bytes]]]:
    found: dict[str, list[bytes]] = {}
    for delivery in deliveries:
        found.setdefault(delivery.stream, []).append(delivery.place)
    return found.items()
