"""Redis whose every answer is waited for no longer than the call in hand may take."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.client import Pipeline

from mesh import deadline


class BoundedRedis(Redis):
    """As `Redis`; TimeoutError when nothing is left of the call in hand, before anything is sent if that is so then."""

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """One command."""
        async with _bounded():
            return await super().execute_command(*args, **options)  # type: ignore[no-untyped-call] # in redis itself

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> BoundedPipeline:
        """Commands that are sent together."""
        return BoundedPipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)


class BoundedPipeline(Pipeline):
    """As `Pipeline`, bounded in the same way."""

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        """All commands."""
        async with _bounded():
            return await super().execute(raise_on_error)


@asynccontextmanager
async def _bounded() -> AsyncIterator[None]:
    """Bounds a block by the call in hand, and lets no cancellation be lost in it.

    redis-py swallows one that comes at the wrong moment: its caller would work on for nobody.
    """
    task = asyncio.current_task()
    assert task is not None
    async with deadline.timeout():
        before = task.cancelling()
        yield
        if task.cancelling() > before:
            raise asyncio.CancelledError
