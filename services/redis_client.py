"""Redis whose answers are waited for no longer than the call in hand may take, over a bounded number of connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from redis import exceptions
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline

from mesh import deadline
from services.pools import REDIS_WAITING
from services.spans import Asked

if TYPE_CHECKING:
    from redis.asyncio import ConnectionPool


class BoundedRedis(Redis):
    """As `Redis`; TimeoutError when nothing is left of the call in hand, before anything is sent if that is so then.

    Of more callers than the pool has connections, some wait for one, no longer than connecting may take.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        pool = self.connection_pool
        self._slots = _Slots(pool.max_connections, pool.connection_kwargs["socket_connect_timeout"])

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """One command."""
        with _asked(self.connection_pool, args[0]):
            async with _bounded(), self._slots.one():
                return await super().execute_command(*args, **options)  # type: ignore[no-untyped-call] # in redis itself

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> BoundedPipeline:
        """Commands that are sent together."""
        made = BoundedPipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)
        made.slots = self._slots
        return made


class BoundedPipeline(Pipeline):
    """As `Pipeline`, bounded in the same way."""

    slots: _Slots

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        """All commands."""
        if not self.command_stack:
            return []
        with _asked(self.connection_pool, *(args[0] for args, _ in self.command_stack)):
            async with _bounded(), self.slots.one():
                return await super().execute(raise_on_error)


class _Slots:
    """Who may have a connection of a pool now.

    redis-py's own pool that waits (`BlockingConnectionPool`) stands on `asyncio.Condition`, which before Python 3.13
    loses a wake-up when the one who is woken is cancelled just then (https://github.com/python/cpython/issues/112202):
    others would wait beside a free connection. A semaphore passes it on.
    """

    def __init__(self, number: int, seconds: float) -> None:
        self._free = asyncio.Semaphore(number)
        self._seconds = seconds

    @asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        """A slot for the length of the block. TimeoutError of redis when none is free in time."""
        try:
            async with asyncio.timeout(self._seconds):
                with REDIS_WAITING.track_inprogress():
                    await self._free.acquire()
        except TimeoutError as error:
            raise exceptions.TimeoutError("no connection to Redis became free in time") from error
        try:
            yield
        finally:
            self._free.release()


@asynccontextmanager
async def _bounded() -> AsyncIterator[None]:
    """Bounds a block by the call in hand, and lets no cancellation be lost in it.

    redis-py uses `asyncio.wait_for`, which before Python 3.12 swallows one that comes while its own work is just done
    (https://github.com/python/cpython/issues/86296): its caller would work on for nobody, a loop for ever.
    """
    task = asyncio.current_task()
    assert task is not None
    async with deadline.timeout():
        before = task.cancelling()
        yield
        if task.cancelling() > before:
            raise asyncio.CancelledError


def _asked(pool: ConnectionPool, *commands: object) -> Asked:
    """The span of a command, or of a pipeline: https://opentelemetry.io/docs/specs/semconv/database/redis/.

    Neither keys nor values are in it.
    """
    name = " ".join(dict.fromkeys(str(command).upper() for command in commands))
    name = name if len(commands) == 1 else f"PIPELINE {name}"

    def about() -> dict[str, Any]:
        given = pool.connection_kwargs
        made = {
            "db.system.name": "redis",
            "db.namespace": str(given.get("db", 0)),
            "db.operation.name": name,
            "server.address": given.get("path") or given.get("host", "localhost"),
        }
        if not given.get("path"):
            made["server.port"] = given.get("port", 6379)
        return made if len(commands) == 1 else {**made, "db.operation.batch.size": len(commands)}

    # A script that Redis does not know, as that has just started, is loaded by redis-py, and asked for again.
    return Asked(name, about, exceptions.NoScriptError)
