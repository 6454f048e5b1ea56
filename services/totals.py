"""Totals as a read model in Redis: who owns the rows counts them after changes, anyone may read the counts."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeAlias

import asyncpg
from redis.exceptions import RedisError

from mesh import Error
from mesh.recovery import now, sleep
from services import notices

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from redis.asyncio import Redis

Model: TypeAlias = Mapping[str, int]
"""One model: how many there are of what each name says, and times under `OLDEST` and `TIME`."""

REFRESH_SECONDS = 30.0
"""How often totals are counted even if nothing is known to have changed."""

PAUSE_SECONDS = 0.5
"""Shortest time between two counts."""

PAUSES = 20
"""A pause is so many times as long as the count before it: counting takes no more than a twentieth of the time."""

OLDEST = "oldest"
"""Among counts: since when the oldest of what waits does so, as `paging.micros`; absent when nothing waits."""

EVENTS = "-events"
"""Ends the name of a model about events that are not in the stream yet; before it stands the service of these."""

WAITING = "waiting"
"""Among counts of such a model: how many."""

LAST = "last"
"""Among counts of such a model: the number of the newest event, in the stream or not."""

TIME = "time"
"""Among counts of such a model: when they were made, as `paging.micros`."""

_log = logging.getLogger(__name__)


class Totals:
    """Keeps one set of counts in Redis up to date. While Redis is away the counts wait; nothing else does."""

    def __init__(
        self,
        redis: Redis,
        name: str,
        count: Callable[[], Awaitable[Model]],
        *,
        refresh_seconds: float = REFRESH_SECONDS,
        told: Callable[[Model | None], None] = lambda counts: None,
    ) -> None:
        """`told` is given what was counted, None when that could not be done; whether Redis takes it or not."""
        self._redis = redis
        self._name = name
        self._count = count
        self._refresh_seconds = refresh_seconds
        self._told = told
        self._event = asyncio.Event()

    def changed(self) -> None:
        """Have the totals counted again soon."""
        self._event.set()

    async def run(self) -> None:
        """Keep them up to date until cancelled."""
        while True:
            self._event.clear()
            began = now()
            await self._publish()
            await sleep(pause(now() - began))
            await notices.wait(self._event, self._refresh_seconds)

    async def _publish(self) -> None:
        counts = None
        try:
            counts = await self._count()
            await self._redis.set(key(self._name), json.dumps(dict(counts)))
        except (RedisError, OSError, TimeoutError, Error, asyncpg.PostgresError) as error:
            _log.warning("totals of %s wait: %s", self._name, error)
        self._told(counts)


def pause(took_seconds: float) -> float:
    """Seconds until the next count, after one that took so long."""
    return max(PAUSE_SECONDS, PAUSES * took_seconds)


def key(name: str) -> str:
    """Where a set of counts is kept."""
    return f"meshwright:totals:{name}"


async def clear(redis: Redis) -> int:
    """Forget all counts, so that each is made anew; how many there were. Raises what the Redis client does."""
    keys = [one async for one in redis.scan_iter(match=key("*"))]
    return int(await redis.delete(*keys)) if keys else 0


async def read(redis: Redis, name: str) -> Model | None:
    """The counts, None when nobody has counted yet. Raises what the Redis client does."""
    text = await redis.get(key(name))
    return None if text is None else json.loads(text)
