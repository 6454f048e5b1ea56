"""Callers who go away, at every moment of a call."""

from __future__ import annotations

import asyncio
import random
from typing import Any

from opentelemetry.trace import SpanKind

from services.database import Database
from services.settings import RedisSettings
from tests.fixtures.echo import dialled, failure, path, served, unary_unary
from tests.fixtures.services import NAP, database_settings, gone, stored, whole
from tests.fixtures.shop import until
from tests.fixtures.spans import Spans

__all__ = ["database_settings", "stored"]

NUMBER, BATCH = 1000, 250


async def test_a_thousand_callers_who_go_leave_nothing(stored: Database, valkey_url: str, spans: Spans) -> None:
    """Each at a moment of its own: before its call is sent, in the queue for a connection, in Postgres, in Redis."""
    chance = random.Random(1)
    async with asyncio.timeout(60), RedisSettings(url=valkey_url).client() as redis:

        async def work(request: bytes, context: Any) -> bytes:
            await stored.fetch("SELECT pg_sleep(0.005)")
            await redis.get("key")
            await stored.fetch(NAP)
            return b""

        async with served({"It": unary_unary(work)}) as server, dialled(server) as channel:
            await failure(channel.unary_unary(path("It"))(b"", timeout=0.1))
            tasks = len(asyncio.all_tasks())

            async def give_up() -> None:
                call = channel.unary_unary(path("It"))(b"", timeout=60)
                await asyncio.sleep(chance.expovariate(1 / 0.02))
                call.cancel()

            for _ in range(NUMBER // BATCH):
                async with asyncio.TaskGroup() as group:
                    for _ in range(BATCH):
                        group.create_task(give_up())
            await gone(stored)
            await whole(stored)
            await until(_back_to(tasks))
        clients, servers = (len(spans.ended(kind)) for kind in (SpanKind.CLIENT, SpanKind.SERVER))
    assert clients == NUMBER + 1
    assert servers <= clients
    assert not server._calls.load.in_flight


def _back_to(tasks: int) -> Any:
    async def is_back() -> bool:
        return len(asyncio.all_tasks()) <= tasks

    return is_back
