"""Callers who go away, at every moment of a call."""

from __future__ import annotations

import asyncio
import random
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.trace import SpanKind

from services.database import Database
from services.settings import RedisSettings
from tests.fixtures.echo import dialled, failure, path, served, unary_unary
from tests.fixtures.services import NAP, database_settings, gone, stored, whole
from tests.fixtures.shop import until
from tests.fixtures.spans import Spans

__all__ = ["database_settings", "stored"]

NUMBER, BATCH = 1000, 250
KEYS = 50


class Open(SpanProcessor):
    """Counts the spans that have begun and not ended."""

    def __init__(self) -> None:
        self.count = 0

    def on_start(self, span: object, parent_context: object = None) -> None:
        self.count += 1

    def on_end(self, span: ReadableSpan) -> None:
        self.count -= 1


async def test_a_thousand_callers_who_go_leave_nothing(stored: Database, valkey_url: str, spans: Spans) -> None:
    """Each at a moment of its own: before its call is sent, in the queue for a connection, in Postgres, in Redis.

    Each asks Redis for keys of its own, so that an answer to another's question would show.
    """
    chance, open_spans = random.Random(1), Open()
    provider = trace.get_tracer_provider()
    assert isinstance(provider, TracerProvider)
    provider.add_span_processor(open_spans)
    async with asyncio.timeout(60), RedisSettings(url=valkey_url).client() as redis:
        before = len(await redis.client_list())
        await redis.mset({f"key-{number}": number for number in range(KEYS)})
        answers: list[tuple[list[str], list[Any]]] = []

        async def ask() -> None:
            first, second = (str(chance.randrange(KEYS)) for _ in range(2))
            found = [await redis.get(f"key-{first}"), *await redis.mget(f"key-{second}", f"key-{first}")]
            answers.append(([first, second, first], found))

        async def work(request: bytes, context: Any) -> bytes:
            await stored.fetch("SELECT pg_sleep(0.005)")
            await ask()
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
            for _ in range(NUMBER):
                await ask()
        calls = [span for span in spans.get_finished_spans() if "rpc.method" in (span.attributes or {})]
        clients, servers = (sum(span.kind is kind for span in calls) for kind in (SpanKind.CLIENT, SpanKind.SERVER))
        assert not redis.connection_pool._in_use_connections
        assert len(await redis.client_list()) <= before + redis.connection_pool.max_connections
    assert clients == NUMBER + 1
    assert servers <= clients
    assert not server._calls.load.in_flight
    assert not open_spans.count
    assert len(answers) > NUMBER
    assert [asked for asked, found in answers if asked != found] == []


def _back_to(tasks: int) -> Any:
    async def is_back() -> bool:
        return len(asyncio.all_tasks()) <= tasks

    return is_back
