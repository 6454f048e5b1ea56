"""Callers who go away, at every moment of a call."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.trace import SpanContext

from mesh.config import Telemetry
from mesh.export import Provider
from services.database import Database
from services.settings import RedisSettings
from tests.fixtures.echo import dialled, failure, path, served, unary_unary
from tests.fixtures.services import NAP, database_settings, gone, stored, whole
from tests.fixtures.shop import until

__all__ = ["database_settings", "stored"]

NUMBER, BATCH = 1000, 250
KEYS = 50
CLIENT, SERVER = Span.SPAN_KIND_CLIENT, Span.SPAN_KIND_SERVER


class Shipped:
    """The provider that programs have, how many spans it began, and those that it exported, which had ended."""

    def __init__(self) -> None:
        self.begun = 0
        self.ended: list[Span] = []
        self.provider = Provider(Telemetry(service_name="cancels", max_queue_size=100_000))
        self.provider._samples = self._begin
        self.provider._queue._send = self._export

    def _begin(self, trace_id: int, parent: SpanContext) -> bool:
        self.begun += 1
        return True

    def _export(self, body: bytes) -> bool:
        for batch in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.ended += [span for scope in batch.scope_spans for span in scope.spans]
        return True


@pytest.fixture
def shipped() -> Iterator[Shipped]:
    """Set for the process, in which no other test may have set one."""
    made = Shipped()
    trace.set_tracer_provider(made.provider)
    assert trace.get_tracer_provider() is made.provider
    yield made
    made.provider.shutdown()


async def test_a_thousand_callers_who_go_leave_nothing(stored: Database, valkey_url: str, shipped: Shipped) -> None:
    """Each at a moment of its own: before its call is sent, in the queue for a connection, in Postgres, in Redis.

    Each asks Redis for keys of its own, so that an answer to another's question would show.
    """
    chance = random.Random(1)
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
        assert await asyncio.to_thread(shipped.provider.force_flush)
        calls = [span for span in shipped.ended if any(said.key == "rpc.method" for said in span.attributes)]
        clients, servers = (sum(span.kind == kind for span in calls) for kind in (CLIENT, SERVER))
        assert not redis.connection_pool._in_use_connections
        assert len(await redis.client_list()) <= before + redis.connection_pool.max_connections
    assert clients == NUMBER + 1
    assert servers <= clients
    assert not server._calls.load.in_flight
    assert len({span.span_id for span in shipped.ended}) == len(shipped.ended) == shipped.begun
    assert len(answers) > NUMBER
    assert [asked for asked, found in answers if asked != found] == []


def _back_to(tasks: int) -> Any:
    async def is_back() -> bool:
        return len(asyncio.all_tasks()) <= tasks

    return is_back
