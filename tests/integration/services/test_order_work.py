"""Orders are worked off on a real Postgres: by whom, how often, and what becomes of those of a lost worker."""

from __future__ import annotations

import asyncio
import sys
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from opentelemetry import trace
from opentelemetry.trace import SpanKind

import mesh
from mesh import Code, Error
from mesh.recovery import Backoff
from mesh.scope import Scope
from meshwright.order.v1.order_pb2 import Order as OrderMessage
from meshwright.order.v1.order_service_pb2 import CancelOrderRequest, GetOrderRequest
from meshwright.sync.v1.sync_service_pb2_grpc import SyncServiceStub
from services.order import work
from services.order.customers import SyncCustomers
from services.order.model import Order, Outcome, State
from services.order.store import OrderStore, WorkStore
from services.order.wire import draft
from services.order.work import Attempts
from services.order.worker import Checkout, Fulfilment, Worker, WorkSettings
from tests.fixtures.orders import Anyone, create, states, until
from tests.fixtures.services import Syncing, orders, refusal
from tests.fixtures.spans import Spans

if TYPE_CHECKING:
    from meshwright.order.v1.order_service_pb2_grpc import OrderServiceAsyncStub
    from services.database import Database, DatabaseSettings

AT_ONCE = Attempts(limit=3, backoff=Backoff(first_seconds=0.0))
STUCK = Path(__file__).parents[2] / "fixtures" / "programs" / "stuck_worker.py"


class Recorded:
    """Completes orders, and remembers how often it was asked to."""

    def __init__(self) -> None:
        self.seen: Counter[uuid.UUID] = Counter()
        self.side_by_side = self.most = 0

    async def fulfil(self, orders: Sequence[Order]) -> Sequence[Outcome]:
        """All are completed."""
        self.side_by_side += 1
        self.most = max(self.most, self.side_by_side)
        self.seen.update(order.id for order in orders)
        await asyncio.sleep(0.01)
        self.side_by_side -= 1
        return [work.completed(order) for order in orders]


class Broken:
    """Nothing can be done."""

    def __init__(self) -> None:
        self.calls = 0

    async def fulfil(self, orders: Sequence[Order]) -> Sequence[Outcome]:
        """Always UNAVAILABLE."""
        self.calls += 1
        raise Error(Code.UNAVAILABLE, "no stock system")


def work_store(stored: Database, *, name: str = "w", lease_seconds: float = 30.0) -> WorkStore:
    return WorkStore(stored, name=name, lease=timedelta(seconds=lease_seconds))


@asynccontextmanager
async def working(
    stored: Database, fulfilment: Fulfilment, *, name: str = "w", batch_size: int = 100, attempts: Attempts = AT_ONCE
) -> AsyncIterator[None]:
    """A worker for as long as the block runs."""
    settings = WorkSettings(batch_size=batch_size, attempts=attempts, poll_seconds=0.02)
    async with Scope() as scope:
        scope.start(Worker(work_store(stored, name=name), fulfilment, settings, lambda: None).run())
        yield


async def take(stored: Database, number: int) -> None:
    """Orders that are due."""
    drafts = sorted((draft(create()) for _ in range(number)), key=lambda one: one.request_id)
    await OrderStore(stored).insert_all(drafts, lambda _: None)


async def test_workers_share_the_orders_and_work_on_each_once(stored: Database) -> None:
    await take(stored, 500)
    fulfilment = Recorded()
    first, second = (working(stored, fulfilment, name=name, batch_size=20) for name in "ab")
    async with first, second:
        await until(stored, lambda states: states == {"COMPLETED": 500})
    assert set(fulfilment.seen.values()) == {1}
    assert fulfilment.most <= 2 * WorkSettings.workers


async def test_work_links_to_the_traces_that_its_orders_were_made_in(stored: Database, spans: Spans) -> None:
    tracer, made = trace.get_tracer("test"), []
    for _ in range(2):
        with tracer.start_as_current_span("made") as span:
            await take(stored, 2)
            made.append(span.get_span_context().span_id)
    await take(stored, 1)
    async with working(stored, Recorded()):
        await until(stored, lambda states: states == {"COMPLETED": 5})
        worked = await spans.next(SpanKind.INTERNAL, 3)
    assert worked.name == "order work"
    assert {link.context.span_id for link in worked.links} == {*made}


async def test_every_move_of_an_order_is_an_event(stored: Database) -> None:
    await take(stored, 20)
    await work_store(stored, lease_seconds=0).claim(99)
    async with working(stored, Recorded()):
        await until(stored, lambda states: states == {"COMPLETED": 20})
    events: dict[uuid.UUID, list[str]] = {}
    for row in await stored.fetch("SELECT subject, type FROM orders.outbox ORDER BY seq"):
        events.setdefault(row["subject"], []).append(row["type"].removeprefix("order."))
    assert list(events.values()) == [["created", "processing", "pending", "processing", "completed"]] * 20


async def test_an_order_can_be_cancelled_before_work_begins(stored: Database) -> None:
    async with orders(stored, Anyone(), work_delay=timedelta(hours=1)) as stub, working(stored, Recorded()):
        made = await stub.CreateOrder(create())
        await take(stored, 1)
        await until(stored, lambda states: states["COMPLETED"] == 1)
        assert (await stub.CancelOrder(CancelOrderRequest(id=made.id))).state == OrderMessage.STATE_CANCELLED
    assert await states(stored) == {"COMPLETED": 1, "CANCELLED": 1}


async def test_an_order_that_was_worked_off_cannot_be_cancelled(stored: Database) -> None:
    async with orders(stored, Anyone()) as stub, working(stored, Recorded()):
        made = await stub.CreateOrder(create())
        await until(stored, lambda states: states["COMPLETED"] == 1)
        error = await refusal(stub.CancelOrder(CancelOrderRequest(id=made.id)))
        assert (error.code, error.reason) == (Code.FAILED_PRECONDITION, "ILLEGAL_TRANSITION")


async def test_an_order_fails_with_a_reason_after_its_last_attempt(stored: Database) -> None:
    fulfilment = Broken()
    async with orders(stored, Anyone()) as stub, working(stored, fulfilment):
        made = await stub.CreateOrder(create())
        await until(stored, lambda states: states["FAILED"] == 1)
        failed = await stub.GetOrder(GetOrderRequest(id=made.id))
    assert failed.failure == "given up after 3 attempts: UNAVAILABLE: no stock system"
    assert fulfilment.calls == 3


async def test_the_next_attempt_waits(stored: Database) -> None:
    await take(stored, 1)
    fulfilment = Broken()
    later = Attempts(limit=3, backoff=Backoff(first_seconds=3600.0, limit_seconds=3600.0, jitter=0.0))
    async with working(stored, fulfilment, attempts=later):
        await until(stored, lambda states: fulfilment.calls == 1 and states["PENDING"] == 1)
    (row,) = await stored.fetch("SELECT attempts, next_attempt_time - now() > '59 minutes' AS later FROM orders.orders")
    assert (row["attempts"], row["later"]) == (1, True)
    assert not await work_store(stored).claim(9)


class Customers:
    """One is active, one is not, nobody else is known."""

    def __init__(self, active: uuid.UUID, inactive: uuid.UUID) -> None:
        self.known = {active: True, inactive: False}

    async def find(self, customer_ids: Collection[uuid.UUID]) -> Mapping[uuid.UUID, bool]:
        """Of those two."""
        return {one: active for one, active in self.known.items() if one in customer_ids}


async def test_orders_of_customers_who_left_fail_and_those_of_others_complete(stored: Database) -> None:
    active, inactive, gone = (str(uuid.uuid4()) for _ in range(3))
    customers = Customers(uuid.UUID(active), uuid.UUID(inactive))
    async with orders(stored, Anyone()) as stub, working(stored, Checkout(customers)):
        made = [await stub.CreateOrder(create(customer=one)) for one in (active, inactive, gone)]
        await until(stored, lambda states: states == {"COMPLETED": 1, "FAILED": 2})
        failures = [(await stub.GetOrder(GetOrderRequest(id=order.id))).failure for order in made]
    assert failures == ["", f"customer {inactive} is deactivated", f"customer {gone} does not exist any more"]


async def test_while_the_sync_service_is_down_orders_wait(stored: Database, syncing: Syncing) -> None:
    await take(stored, 3)
    lasting = Attempts(limit=1000, backoff=AT_ONCE.backoff)
    async with (
        mesh.channel("sync", mesh.Settings(), target="dns:///127.0.0.1:1") as nobody,
        working(stored, Checkout(SyncCustomers(SyncServiceStub(nobody))), attempts=lasting),
    ):
        await until_attempted(stored, 2)
        assert not (await states(stored)).keys() - {"PENDING", "PROCESSING"}
    async with working(stored, Checkout(SyncCustomers(await syncing.service(None))), attempts=lasting):
        await until(stored, lambda states: states == {"FAILED": 3})


async def until_attempted(stored: Database, times: int) -> None:
    """Wait until every order was tried so often."""
    async with asyncio.timeout(60):
        while await stored.fetch("SELECT FROM orders.orders WHERE attempts < $1", times):  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_the_orders_of_a_killed_worker_come_back(
    stored: Database, database_settings: DatabaseSettings
) -> None:
    await take(stored, 30)
    process = await asyncio.create_subprocess_exec(
        sys.executable, STUCK, database_settings.url, "1", stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    async with asyncio.timeout(60):
        assert await process.stdout.readline() == b"30\n"
    process.kill()
    await process.wait()
    fulfilment = Recorded()
    async with working(stored, fulfilment):
        await until(stored, lambda states: states == {"COMPLETED": 30})
    assert fulfilment.seen.total() == 30
    assert {row["attempts"] for row in await stored.fetch("SELECT attempts FROM orders.orders")} == {2}


async def test_an_order_that_takes_every_worker_with_it_fails_in_the_end(stored: Database) -> None:
    await take(stored, 1)
    for _ in range(AT_ONCE.limit):
        assert len(await work_store(stored, lease_seconds=0).claim(9)) == 1
    async with working(stored, Recorded()):
        await until(stored, lambda states: states == {"FAILED": 1})


async def test_outcomes_of_a_lost_lease_change_nothing(stored: Database) -> None:
    await take(stored, 1)
    late, other = work_store(stored, name="late", lease_seconds=0), work_store(stored, name="other")
    old = await late.claim(9)
    assert [order.state for order in await other.claim(9)] == [State.PROCESSING]
    assert await late.settle([work.completed(order) for order in old]) == []
    assert await states(stored) == {"PROCESSING": 1}


async def test_a_worker_that_stops_ends_what_is_in_hand(stored: Database) -> None:
    await take(stored, 10)
    begun, end = asyncio.Event(), asyncio.Event()

    class Waiting(Recorded):
        async def fulfil(self, orders: Sequence[Order]) -> Sequence[Outcome]:
            begun.set()
            await end.wait()
            return await super().fulfil(orders)

    worker = Worker(work_store(stored), Waiting(), WorkSettings(batch_size=10), lambda: None)
    task = asyncio.create_task(worker.run())
    await begun.wait()
    task.cancel()
    asyncio.get_running_loop().call_later(0.1, end.set)
    await asyncio.wait([task])
    assert task.cancelled()
    assert await states(stored) == {"COMPLETED": 10}


async def test_a_worker_without_time_gives_its_orders_back(stored: Database) -> None:
    await take(stored, 10)
    begun = asyncio.Event()

    class Endless(Recorded):
        async def fulfil(self, orders: Sequence[Order]) -> Sequence[Outcome]:
            begun.set()
            await asyncio.Event().wait()
            raise AssertionError

    worker = Worker(work_store(stored), Endless(), WorkSettings(grace_seconds=0), lambda: None)
    task = asyncio.create_task(worker.run())
    await begun.wait()
    task.cancel()
    await asyncio.wait([task])
    given_back = await work_store(stored, name="next").claim(99)
    assert [order.attempts for order in given_back] == [1] * 10


@pytest.fixture
async def stub(stored: Database) -> AsyncIterator[OrderServiceAsyncStub]:
    async with orders(stored, Anyone()) as stub:
        yield stub


async def test_cancelling_races_with_the_workers_and_one_of_them_wins(
    stub: OrderServiceAsyncStub, stored: Database
) -> None:
    made = [await stub.CreateOrder(create()) for _ in range(40)]
    fulfilment = Recorded()
    async with working(stored, fulfilment, batch_size=3):
        calls = (stub.CancelOrder(CancelOrderRequest(id=order.id)) for order in made)
        answers = await asyncio.gather(*calls, return_exceptions=True)
        await until(stored, lambda states: not states.keys() - {"COMPLETED", "CANCELLED"})
    cancelled = [answer.id for answer in answers if isinstance(answer, OrderMessage)]
    assert (await states(stored))["CANCELLED"] == len(cancelled)
    assert not {str(one) for one in fulfilment.seen} & set(cancelled)
