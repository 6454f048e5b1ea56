"""Copies in Redis of what Postgres has, each with its version, so that an older one never takes a newer one's place.

A reader that finds no copy leaves a mark, reads Postgres, and fills the mark. An event that comes meanwhile raises the
version of the mark, so what was read too early is not kept. An event alone makes no copy: events that are sent anew to
a Redis that was emptied cannot bring back what was long ago. No mark, no copy: whatever may have been missed while
there was none does not matter.

Each step is a script, as it must look and write in one: WATCH would do so in three round trips, over a connection that
serves nobody else meanwhile, and again whenever another write came between, which for a hot key is the rule.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from redis.asyncio import Redis

MARK_SECONDS = 30.0
"""A mark outlives every read of Postgres that was begun for it; one that does not is not filled."""

_LOOK = """
local found = {}
for i, key in ipairs(KEYS) do
    found[i] = redis.call('HGET', key, 'body')
    if not found[i] then
        redis.call('HSETNX', key, 'version', 0)
        redis.call('PEXPIRE', key, ARGV[1])
    end
end
return found
"""
_FILL = """
for i, key in ipairs(KEYS) do
    local known, version, body, keep = redis.call('HGET', key, 'version'), ARGV[3 * i - 2], ARGV[3 * i - 1], ARGV[3 * i]
    if known and tonumber(version) >= tonumber(known) then
        redis.call('HSET', key, 'version', version, 'body', body)
        redis.call('PEXPIRE', key, keep)
    end
end
"""
_CHANGE = """
for i, key in ipairs(KEYS) do
    local known, version, body, keep = redis.call('HGET', key, 'version'), ARGV[3 * i - 2], ARGV[3 * i - 1], ARGV[3 * i]
    if known and tonumber(version) > tonumber(known) then
        redis.call('HSET', key, 'version', version)
        if redis.call('HEXISTS', key, 'body') == 1 then
            redis.call('HSET', key, 'body', body)
            redis.call('PEXPIRE', key, keep)
        end
    end
end
"""


@dataclass(frozen=True)
class Copy:
    """Something as Postgres has it, or had it."""

    id: str
    version: int
    body: bytes
    """Empty, with version 0, when there is no such thing."""


class Versioned:
    """Copies of one kind; the client must not decode what it reads. All methods raise what the Redis client does."""

    def __init__(self, redis: Redis, kind: str, *, keep_seconds: float, missing_seconds: float) -> None:
        self._redis: Any = redis
        self._prefix = f"meshwright:{kind}:"
        self._keep = round(keep_seconds * 1000)
        self._missing = round(missing_seconds * 1000)
        self._look, self._fill, self._change = (self._redis.register_script(text) for text in (_LOOK, _FILL, _CHANGE))

    async def look(self, ids: Sequence[str]) -> Mapping[str, bytes]:
        """The bodies of those that are there; the others are marked, and may be filled."""
        bodies = await self._look(keys=self._keys(ids), args=[round(MARK_SECONDS * 1000)])
        return {one: body for one, body in zip(ids, bodies, strict=True) if body is not None}

    async def fill(self, copies: Sequence[Copy]) -> None:
        """Keep what was read from Postgres after `look`, where nothing newer is known."""
        await self._fill(keys=self._keys(copy.id for copy in copies), args=self._arguments(copies))

    async def change(self, copies: Sequence[Copy]) -> None:
        """Keep what events say, where something older is known."""
        await self._change(keys=self._keys(copy.id for copy in copies), args=self._arguments(copies))

    async def clear(self) -> None:
        """Forget all."""
        cursor = 0
        while True:
            cursor, keys = await self._redis.scan(cursor, match=f"{self._prefix}*", count=1000)
            if keys:
                await self._redis.unlink(*keys)
            if not cursor:
                return

    def _keys(self, ids: Iterable[str]) -> list[str]:
        return [self._prefix + one for one in ids]

    def _arguments(self, copies: Iterable[Copy]) -> list[int | bytes]:
        return [part for one in copies for part in (one.version, one.body, self._keep if one.body else self._missing)]
