"""Orders of customers who are deactivated, from the user's row to the order's, on a real Postgres and a real Valkey."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from opentelemetry import trace as otel

from mesh import Code
from mesh.scope import Scope
from meshwright.order.v1.order_service_pb2 import BatchCreateOrdersRequest, GetOrderRequest
from services.events import relay
from services.events.consumer import BLOCK_SECONDS, Consumer, ConsumerSettings
from services.events.group import Group
from services.events.outbox import Outbox
from services.order import deactivations
from services.order.changes import SOURCE as ORDERS
from services.order.customers import SyncCustomers
from services.order.model import Order, State
from services.order.store import SWEEP, CustomerStore, OrderStore
from services.order.wire import draft
from services.settings import RedisSettings
from services.sync.changes import SOURCE as USERS
from tests.fixtures.orders import create, states, until
from tests.fixtures.services import Syncing, orders, refusal
from tests.fixtures.spans import Spans
from tests.fixtures.users import become, user

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from uuid import UUID

    from opentelemetry.sdk.trace import ReadableSpan
    from redis.asyncio import Redis

    from meshwright.events.v1.event_pb2 import Event
    from services.database import Database

WAIT_SECONDS = 40
REASON = "CUSTOMER_DEACTIVATED"
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
_MANY = """
INSERT INTO orders.orders (id, request_id, fingerprint, customer_id, lines, currency, total_units, total_nanos)
SELECT gen_random_uuid(), gen_random_uuid(), '', $1, '[]', 'EUR', 0, 0 FROM generate_series(1, $2::integer)
"""
_FORBID = "ALTER TABLE orders.orders ADD CONSTRAINT no CHECK (state <> 'CANCELLED' OR id <> '{}')"


class Nobody:
    """Must not be asked."""

    async def find(self, customer_ids: Collection[UUID]) -> Mapping[UUID, bool]:
        """Fails the test."""
        raise AssertionError("the events say all")


async def order(stored: Database, customer: UUID) -> Order:
    made, _ = await OrderStore(stored).insert(draft(create(customer=str(customer))))
    return made


async def now(stored: Database, made: Order) -> Order:
    found = await OrderStore(stored).get(made.id)
    assert found is not None
    return found


async def events(stored: Database) -> list[Event]:
    """All of users, as the relay numbers them."""
    outbox = Outbox(stored, USERS)
    await outbox.number(1000)
    return await outbox.after(0, 1000)


@pytest.fixture
async def redis(valkey_url: str) -> AsyncIterator[Redis]:
    """A client that answers bytes."""
    async with RedisSettings(url=valkey_url).client(binary=True, blocks_seconds=BLOCK_SECONDS) as client:
        yield client


@asynccontextmanager
async def consuming(stored: Database, redis: Redis) -> AsyncIterator[list[None]]:
    """The relay of users, and a consumer as the order service runs it; what it said of changes."""
    changes: list[None] = []
    effect = deactivations.effect(CustomerStore(stored), Nobody(), lambda: changes.append(None))
    async with Scope() as scope:
        relay.start(scope, stored, redis, USERS)
        group = Group(redis, deactivations.GROUP, "one")
        scope.start(Consumer(group, effect, ConsumerSettings(claim_seconds=0.2)).run())
        yield changes


async def test_what_is_pending_of_a_deactivated_customer_is_cancelled_and_nothing_else(
    stored: Database, redis: Redis, spans: Spans
) -> None:
    ann, bob = [await user(stored, name) for name in ("ann", "bob")]
    worked = await order(stored, ann)
    await OrderStore(stored).move(worked.id, State.PROCESSING)
    pending, other = [await order(stored, one) for one in (ann, bob)]
    async with consuming(stored, redis) as changes:
        await become(stored, ann, active=False, traceparent=TRACEPARENT)
        await until(stored, lambda found: found == {"CANCELLED": 1, "PROCESSING": 1, "PENDING": 1})
        async with asyncio.timeout(WAIT_SECONDS):
            while not changes or not linked(spans):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    cancelled = await now(stored, pending)
    assert (cancelled.cancel_reason, cancelled.version, cancelled.failure) == (REASON, 2, "")
    assert await now(stored, other) == other
    (told,) = [one for one in await _of_orders(stored) if one.type == "order.cancelled"]
    assert (told.subject, told.version, told.order.cancel_reason) == (str(pending.id), 2, REASON)
    (span,) = linked(spans)
    assert [link.context.trace_id for link in span.links] == [int(TRACEPARENT.split("-")[1], 16)]
    assert span.context is not None
    assert told.traceparent.split("-")[1] == f"{span.context.trace_id:032x}"


def linked(spans: Spans) -> list[ReadableSpan]:
    """Those of the consumer that say where events come from."""
    return [span for span in spans.ended(otel.SpanKind.CONSUMER) if span.links]


async def _of_orders(stored: Database) -> list[Event]:
    outbox = Outbox(stored, ORDERS)
    await outbox.number(1000)
    return await outbox.after(0, 1000)


async def test_an_event_has_its_effect_once_and_on_what_was_there_before_it(stored: Database) -> None:
    """The order of before comes back from a worker when the customer is active again; the event comes again too."""
    ann, store = await user(stored, "ann"), CustomerStore(stored)
    back, gone = [await order(stored, ann) for _ in range(2)]
    await OrderStore(stored).move(back.id, State.PROCESSING)
    await become(stored, ann, active=False)
    await become(stored, ann, active=True)
    after = await order(stored, ann)
    (event,) = [one for one in await events(stored) if one.type == deactivations.TYPE]
    found = await asyncio.gather(*(store.cancel_once("orders", [event, event], REASON) for _ in range(5)))
    assert sorted(found) == [0, 0, 0, 0, 1]
    await OrderStore(stored).move(back.id, State.PENDING)
    assert await store.cancel_once("orders", [event], REASON) == 0
    assert [(await now(stored, one)).state for one in (back, gone, after)] == ["PENDING", "CANCELLED", "PENDING"]
    assert await store.cancel_once("others", [event], REASON) == 1


async def test_an_event_that_cannot_be_done_is_given_up_alone_and_done_when_it_is_replayed(
    stored: Database, redis: Redis
) -> None:
    ann, bob = [await user(stored, name) for name in ("ann", "bob")]
    refused, other = [await order(stored, one) for one in (ann, bob)]
    await stored.fetch(_FORBID.format(refused.id))
    await become(stored, ann, bob, active=False)
    group = Group(redis, deactivations.GROUP)
    async with consuming(stored, redis):
        async with asyncio.timeout(WAIT_SECONDS):
            while not (letters := await group.letters()):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert "CheckViolationError" in letters[0].reason
        assert (await now(stored, other)).state is State.CANCELLED
        assert len(await stored.fetch("SELECT FROM orders.inbox")) == 1
        await stored.fetch("ALTER TABLE orders.orders DROP CONSTRAINT no")
        await group.replay(letters)
        await until(stored, lambda found: found == {"CANCELLED": 2})
    assert len(await stored.fetch("SELECT FROM orders.inbox")) == 2


async def test_any_number_of_orders_is_cancelled_at_once(stored: Database) -> None:
    ann, count = await user(stored, "ann"), SWEEP + 1
    await stored.fetch(_MANY, ann, count)
    await become(stored, ann, active=False)
    assert await CustomerStore(stored).cancel_once("orders", await events(stored), REASON) == count
    assert await states(stored) == {"CANCELLED": count}


async def test_where_events_were_lost_whoever_is_deactivated_is_found(stored: Database, syncing: Syncing) -> None:
    users = [await user(stored, name) for name in ("ann", "bob", "cid")]
    for one in (*users, uuid.uuid4()):
        await order(stored, one)
    await become(stored, *users[:2], active=False)
    customers = SyncCustomers(await syncing.service(None))
    assert await deactivations.cancel_all(CustomerStore(stored), customers) == 2
    assert await states(stored) == {"CANCELLED": 2, "PENDING": 2}


async def test_a_deactivated_customer_is_refused(stored: Database, syncing: Syncing) -> None:
    ann, bob = [await user(stored, name) for name in ("ann", "bob")]
    await become(stored, bob, active=False)
    async with orders(stored, SyncCustomers(await syncing.service(None))) as stub:
        made = await stub.CreateOrder(create(customer=str(ann)))
        error = await refusal(stub.CreateOrder(create(customer=str(bob))))
        batch = BatchCreateOrdersRequest(requests=[create(customer=str(one)) for one in (ann, bob)])
        of_batch = await refusal(stub.BatchCreateOrders(batch))
        summary = await stub.ImportOrders(iter(batch.requests))
        assert (await stub.GetOrder(GetOrderRequest(id=made.id))).cancel_reason == ""
    assert (error.code, error.reason) == (of_batch.code, of_batch.reason) == (Code.FAILED_PRECONDITION, REASON)
    assert [violation[0] for violation in of_batch.violations] == ["requests[1].customer_id"]
    assert [(one.index, one.reason) for one in summary.rejected] == [(1, REASON)]


async def test_an_event_from_before_the_reason_was_kept_can_be_read(stored: Database) -> None:
    await order(stored, uuid.uuid4())
    await stored.fetch("UPDATE orders.outbox SET body = body - 'cancel_reason'")
    assert [event.order.cancel_reason for event in await _of_orders(stored)] == [""]
