"""Events on a real Postgres and a real Valkey: none is lost, each comes once and in order, whatever dies meanwhile."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from opentelemetry import trace as otel

from mesh.scope import Scope
from services.events import trace
from services.events.outbox import Outbox
from services.events.relay import Relay
from services.events.stream import START, STREAM, Stream
from services.notices import Notices
from services.order.changes import SOURCE
from services.order.model import Draft, Line, Money, State
from services.order.store import OrderStore
from services.settings import RedisSettings
from services.sync.changes import SOURCE as SYNC
from services.sync.model import Profile
from services.sync.scim import Page
from services.sync.store import RunStore
from tests.fixtures.spans import Spans

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from meshwright.events.v1.event_pb2 import Event
    from services.database import Database
    from services.order.model import Order

WAIT_SECONDS = 60


@pytest.fixture
async def redis(valkey_url: str) -> AsyncIterator[Redis]:
    """A client that answers bytes."""
    async with RedisSettings(url=valkey_url).client(binary=True, blocks_seconds=1) as client:
        yield client


def draft() -> Draft:
    price = Money(currency="EUR", units=1, nanos=0)
    return Draft(request_id=uuid.uuid4(), customer_id=uuid.uuid4(), lines=(Line(sku="A", quantity=1, price=price),))


async def ordered(stored: Database) -> Order:
    order, _ = await OrderStore(stored).insert(draft())
    return order


async def log(stored: Database, outbox: Outbox | None = None) -> list[Event]:
    """All events that have committed."""
    outbox = outbox or Outbox(stored, SOURCE)
    while await outbox.number(500):
        pass
    return await outbox.after(0, 10_000)


async def in_stream(redis: Redis) -> list[Event]:
    return [entry.event for entry in await Stream(redis).after(START, 10_000)]


def relay(stored: Database, redis: Redis) -> Relay:
    return Relay(Outbox(stored, SOURCE), Stream(redis), Notices(stored, SOURCE.channel))


async def relay_all(stored: Database, redis: Redis) -> None:
    work = relay(stored, redis)
    while await work.number():
        pass
    while await work.publish():
        pass


async def test_each_change_of_an_order_is_one_event(stored: Database) -> None:
    store, order = OrderStore(stored), await ordered(stored)
    cancelled = await store.move(order.id, State.CANCELLED)
    await store.move(order.id, State.CANCELLED)
    created, changed = await log(stored)
    assert (created.id, created.type, created.version) == ("order-1", "order.created", 1)
    assert (changed.id, changed.type, changed.version) == ("order-2", "order.cancelled", 2)
    assert cancelled is not None
    assert created.subject == changed.subject == created.order.id == str(order.id)
    assert changed.order == (await log(stored))[1].order
    assert changed.order.total.units == 1
    assert changed.order.update_time.ToDatetime(cancelled.update_time.tzinfo) == cancelled.update_time


async def test_a_repeated_request_and_a_statement_that_is_rolled_back_make_no_event(stored: Database) -> None:
    asked = draft()
    await OrderStore(stored).insert(asked)
    await OrderStore(stored).insert(asked)
    with pytest.raises(ZeroDivisionError):
        async with stored.transaction() as connection:
            await connection.execute("UPDATE orders.orders SET state = 'PROCESSING'")
            raise ZeroDivisionError
    assert [event.type for event in await log(stored)] == ["order.created"]


async def test_a_change_of_the_state_alone_is_an_event(stored: Database) -> None:
    await ordered(stored)
    await stored.fetch("UPDATE orders.orders SET failure = 'later', update_time = now()")
    assert len(await log(stored)) == 1


async def test_a_page_of_users_and_its_run_make_their_events(stored: Database) -> None:
    runs, outbox = RunStore(stored), Outbox(stored, SYNC)
    run, _ = await runs.start(uuid.uuid4(), "scim")
    run = await runs.claim("worker") or run
    ann, bob = Profile(user_name="ann"), Profile(user_name="bob")
    await runs.store(run, "worker", Page(index=1, total=2, profiles=(ann, bob)))
    gone = Profile(user_name="bob", active=False)
    renamed = Profile(user_name="ann", display_name="Ann")
    await runs.store(run, "worker", Page(index=1, total=2, profiles=(renamed, gone)))
    await runs.store(run, "worker", Page(index=1, total=2, profiles=(renamed, gone)))
    found = await log(stored, outbox)
    assert [(e.type, e.version) for e in found if e.HasField("sync")] == [("sync.created", 1), ("sync.running", 2)]
    users = sorted((e.user.user_name, e.version, e.type) for e in found if e.HasField("user"))
    assert users == [
        ("ann", 1, "user.created"), ("ann", 2, "user.updated"),
        ("bob", 1, "user.created"), ("bob", 2, "user.deactivated"),
    ]  # fmt: skip


async def test_an_event_carries_the_trace_of_its_change(stored: Database, redis: Redis, spans: Spans) -> None:
    with otel.get_tracer("test").start_as_current_span("request") as span:
        await ordered(stored)
    await ordered(stored)
    await relay_all(stored, redis)
    traced, untraced = await in_stream(redis)
    assert f"{span.get_span_context().trace_id:032x}-{span.get_span_context().span_id:016x}" in traced.traceparent
    assert untraced.traceparent == ""
    (publishing,) = spans.ended(otel.SpanKind.PRODUCER)
    assert [link.context.span_id for link in publishing.links] == [span.get_span_context().span_id]


async def test_changes_that_commit_out_of_order_are_all_published(stored: Database, redis: Redis) -> None:
    async with stored.transaction() as connection:
        await connection.execute("SET LOCAL application_name = 'slow'")
        slow = str((await OrderStore(_Only(connection)).insert(draft()))[0].id)  # type: ignore[arg-type]
        quick = str((await ordered(stored)).id)
        await relay_all(stored, redis)
        assert [event.subject for event in await in_stream(redis)] == [quick]
    await relay_all(stored, redis)
    assert [(event.subject, event.number) for event in await in_stream(redis)] == [(quick, 1), (slow, 2)]


class _Only:
    """One connection as a database."""

    def __init__(self, connection: object) -> None:
        self.fetchrow = connection.fetchrow  # type: ignore[attr-defined]
