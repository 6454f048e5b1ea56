"""Changes become events on a real Postgres and a real Valkey: none is lost, and each is published once, in order."""

from __future__ import annotations

import asyncio
import dataclasses
import uuid
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from opentelemetry import trace as otel
from redis.exceptions import RedisError

from mesh import Error
from mesh.scope import Scope
from meshwright.events.v1.event_pb2 import Event
from services import database, paging
from services.events.outbox import Outbox
from services.events.relay import FAILURES, Backlog, Relay
from services.events.stream import START, Entry, Stream
from services.notices import Notices
from services.order.changes import SOURCE
from services.order.model import Draft, Line, Money, State
from services.order.store import OrderStore
from services.settings import RedisSettings
from services.sync.changes import SOURCE as SYNC
from services.sync.model import Profile
from services.sync.store import RunStore
from services.totals import LAST, OLDEST, TIME, WAITING
from tests.fixtures.spans import Spans
from tests.fixtures.stores import OwnValkey

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from services.database import Database, DatabaseSettings
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


async def test_events_are_published_over_the_only_connection_of_a_pool(
    stored: Database, database_settings: DatabaseSettings, redis: Redis
) -> None:
    order = await ordered(stored)
    own = dataclasses.replace(database_settings, pool_size=1, connect_timeout_seconds=0.5)
    async with asyncio.timeout(WAIT_SECONDS), database.connect(own) as single:
        await relay_all(single, redis)
    assert [event.subject for event in await in_stream(redis)] == [str(order.id)]


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


@pytest.mark.parametrize(
    "newer",
    [
        "ALTER TABLE orders.outbox ALTER COLUMN body DROP NOT NULL; UPDATE orders.outbox SET body = NULL",
        "UPDATE orders.outbox SET type = 'parcel.sent'",
    ],
)
async def test_an_event_of_a_newer_release_is_left_to_that(stored: Database, redis: Redis, newer: str) -> None:
    """As in an update of one instance after the other, whose first brings the schema to its revision."""
    await ordered(stored)
    work = relay(stored, redis)
    assert await work.number()
    for statement in newer.split(";"):
        await stored.fetch(statement)
    with pytest.raises(Error, match="order-1 was written for a newer release") as caught:
        await work.publish()
    assert isinstance(caught.value, FAILURES), "the relay waits, and the process goes on"
    assert await in_stream(redis) == []


async def test_a_repeated_request_and_a_statement_that_is_rolled_back_make_no_event(stored: Database) -> None:
    asked = draft()
    await OrderStore(stored).insert(asked)
    await OrderStore(stored).insert(asked)
    with suppress(ZeroDivisionError):
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
    run = await runs.claim("worker", "scim") or run
    ann, bob = Profile(user_name="ann"), Profile(user_name="bob")
    await runs.store(run, "worker", run.chain, (ann, bob))
    gone = Profile(user_name="bob", active=False)
    renamed = Profile(user_name="ann", display_name="Ann")
    await runs.store(run, "worker", run.chain, (renamed, gone))
    await runs.store(run, "worker", run.chain, (renamed, gone))
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


def relaying(scope: Scope, stored: Database, redis: Redis) -> None:
    """A relay as a process runs it."""
    notices = Notices(stored, SOURCE.channel)
    scope.start(notices.run())
    scope.start(Relay(Outbox(stored, SOURCE), Stream(redis), notices, poll_seconds=0.2).run())


async def streamed(redis: Redis, count: int) -> list[Event]:
    """What is in the stream once it has so many events, or more."""
    entries: list[Entry] = []
    async with asyncio.timeout(WAIT_SECONDS):
        while len(entries) < count:
            with suppress(RedisError, OSError):
                entries += await Stream(redis).wait(entries[-1].place if entries else START, 500)
    return [entry.event for entry in entries]


async def test_two_relays_side_by_side_publish_each_event_once_and_in_order(stored: Database, redis: Redis) -> None:
    async with Scope() as scope:
        relaying(scope, stored, redis)
        relaying(scope, stored, redis)
        made = await asyncio.gather(*(ordered(stored) for _ in range(40)))
        await asyncio.gather(*(OrderStore(stored).move(order.id, State.CANCELLED) for order in made))
        found = await streamed(redis, 80)
    assert [event.number for event in found] == list(range(1, 81))
    for order in made:
        assert [e.version for e in found if e.subject == str(order.id)] == [1, 2]


async def test_what_a_dead_process_published_without_knowing_is_not_published_again(
    stored: Database, redis: Redis
) -> None:
    await ordered(stored)
    events = await log(stored)
    await Stream(redis).publish(events)
    await relay_all(stored, redis)
    assert await in_stream(redis) == events


async def test_a_redis_that_was_emptied_since_it_was_asked_is_sent_no_later_events_than_it_lacks(redis: Redis) -> None:
    stream, events = Stream(redis), [Event(service="order", number=number) for number in (1, 2)]
    assert not await stream.publish(events[1:], after=1)
    assert await stream.publish(events[:1], after=0)
    assert not await stream.publish(events[:1], after=0), "a second time"
    assert await stream.publish(events[1:], after=1)
    assert await in_stream(redis) == events


async def test_events_wait_for_a_redis_that_is_away(stored: Database, own_valkey: OwnValkey) -> None:
    async with RedisSettings(url=own_valkey.url).client(binary=True, blocks_seconds=1) as redis, Scope() as scope:
        relaying(scope, stored, redis)
        await ordered(stored)
        await streamed(redis, 1)
        await own_valkey.kill()
        await ordered(stored)
        await own_valkey.start()
        assert [event.number for event in await streamed(redis, 2)] == [1, 2]


async def test_a_redis_that_is_back_empty_is_filled_again(stored: Database, own_valkey: OwnValkey) -> None:
    async with RedisSettings(url=own_valkey.url).client(binary=True, blocks_seconds=1) as redis, Scope() as scope:
        relaying(scope, stored, redis)
        for _ in range(3):
            await ordered(stored)
        before = await streamed(redis, 3)
        await own_valkey.kill()
        own_valkey.forget()
        await own_valkey.start()
        assert await streamed(redis, 3) == before


async def test_a_redis_of_another_history_does_not_hold_events_back(stored: Database, redis: Redis) -> None:
    await ordered(stored)
    (event,) = await log(stored)
    other = Event(id="order-900", service="order", number=900)
    await Stream(redis).publish([other])
    await relay_all(stored, redis)
    assert await in_stream(redis) == [other, event]


async def test_only_the_newest_events_are_kept_and_never_one_that_is_not_published(stored: Database) -> None:
    for _ in range(5):
        await ordered(stored)
    outbox = Outbox(stored, SOURCE)
    await log(stored)
    await outbox.forget(2, 0)
    assert len(await outbox.after(0, 10)) == 5
    await outbox.forget(2, 5)
    assert [event.number for event in await outbox.after(0, 10)] == [4, 5]


async def test_what_is_not_in_the_stream_yet_is_counted(stored: Database, redis: Redis) -> None:
    outbox = Outbox(stored, SOURCE)
    backlog = Backlog(outbox, Stream(redis))
    assert (await backlog.count()).keys() == {WAITING, LAST, TIME}
    await ordered(stored)
    await relay_all(stored, redis)
    first, *_ = [await ordered(stored) for _ in range(3)]
    await outbox.number(2)
    found = await backlog.count()
    assert (found[WAITING], found[LAST], found[OLDEST]) == (3, 3, paging.micros(first.create_time))
    await relay_all(stored, redis)
    assert (await backlog.count())[WAITING] == 0


async def test_what_waits_is_counted_while_redis_is_away(stored: Database, own_valkey: OwnValkey) -> None:
    async with RedisSettings(url=own_valkey.url).client(binary=True) as redis:
        backlog = Backlog(Outbox(stored, SOURCE), Stream(redis))
        await ordered(stored)
        await relay_all(stored, redis)
        assert (await backlog.count())[WAITING] == 0
        await own_valkey.kill()
        await ordered(stored)
        assert (await backlog.count())[WAITING] == 1


async def test_a_service_without_events_makes_itself_known(stored: Database, redis: Redis) -> None:
    await relay_all(stored, redis)
    _, seen = await Stream(redis).end()
    assert seen.numbers == {"order": 0}


async def test_more_than_a_batch_is_published(stored: Database, redis: Redis) -> None:
    await stored.fetch(
        "INSERT INTO sync.users (provider, match_key, external_id, user_name, display_name, email, phone, active) "
        "SELECT 'p', 'u:' || n, '', n, '', '', '', true FROM generate_series(1, 1200) AS n"
    )
    work = Relay(Outbox(stored, SYNC), Stream(redis), Notices(stored, SYNC.channel))
    while await work.number():
        pass
    while await work.publish():
        pass
    assert [event.number for event in await in_stream(redis)] == list(range(1, 1201))
