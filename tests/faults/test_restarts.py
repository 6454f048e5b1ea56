"""A Postgres that restarts, or is killed, under all kinds of work: no batch is stored in part, and work goes on."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import grpc
import pytest

from mesh import Code, from_rpc
from mesh.scope import Scope
from meshwright.order.v1.order_service_pb2 import BatchCreateOrdersRequest
from services import database
from services.database import DatabaseSettings
from services.migrations import migrate
from services.notices import Notices
from services.order import store as order_store
from services.order.store import WorkStore
from services.order.worker import Checkout, WorkSettings
from services.order.worker import Worker as OrderWorker
from services.sync import store as sync_store
from services.sync.model import TRANSITIONS, Counts, Profile, Run, State
from services.sync.provider_settings import ProviderSettings
from services.sync.scim import Page
from services.sync.store import RunStore
from services.sync.worker import Worker
from tests.fixtures.orders import Anyone, create
from tests.fixtures.services import orders
from tests.fixtures.shop import until
from tests.fixtures.stores import OwnPostgres

if TYPE_CHECKING:
    from meshwright.order.v1.order_service_pb2_grpc import OrderServiceAsyncStub
    from services.database import Database

pytestmark = pytest.mark.timeout(120)

SIZE, SENDERS, RESTARTS = 100, 6, 3
BOUND_SECONDS = 20
"""After a restart, each kind of work has come further by then: generous, as the machine may have much else to do."""

USERS = 600
COMPLETED = "SELECT count(*) AS number FROM orders.orders WHERE state = 'COMPLETED'"
OF_CUSTOMERS = "SELECT customer_id, count(*) AS number FROM orders.orders GROUP BY customer_id"


def batch() -> BatchCreateOrdersRequest:
    """Orders of a customer who orders nothing else."""
    customer = str(uuid.uuid4())
    return BatchCreateOrdersRequest(requests=[create(customer=customer) for _ in range(SIZE)])


class Senders:
    """Send batches without a pause, each once; what fails must be said to be no fault of theirs."""

    def __init__(self, stub: OrderServiceAsyncStub) -> None:
        self._stub = stub
        self.stored: set[str] = set()
        self.failed: dict[str, BatchCreateOrdersRequest] = {}
        self.codes: set[Code] = set()

    async def send(self) -> None:
        """One batch after the other."""
        while True:
            await self.send_one(batch())

    async def send_one(self, request: BatchCreateOrdersRequest) -> None:
        """One batch."""
        customer = request.requests[0].customer_id
        try:
            await self._stub.BatchCreateOrders(request, timeout=3)
        except grpc.aio.AioRpcError as error:
            self.failed[customer] = request
            self.codes.add(from_rpc(error).code)
        else:
            self.failed.pop(customer, None)
            self.stored.add(customer)

    async def more(self, batches: int) -> None:
        """Until so many more are stored."""
        wanted = len(self.stored) + batches
        while len(self.stored) < wanted:  # noqa: ASYNC110 (what counts is what was answered)
            await asyncio.sleep(0.01)


async def test_a_restart_in_the_middle_of_batches_leaves_none_in_part(own_postgres: OwnPostgres) -> None:
    settings = DatabaseSettings(url=own_postgres.url, application_name="test")
    async with asyncio.timeout(100), database.connect(settings) as stored:
        await migrate(stored, settings, order_store.SCHEMA, order_store.MIGRATIONS)
        async with orders(stored, Anyone()) as stub:
            senders = Senders(stub)
            tasks = [asyncio.create_task(senders.send()) for _ in range(SENDERS)]
            for _ in range(RESTARTS):
                await senders.more(SENDERS)
                await own_postgres.stop()
                await own_postgres.start()
            await senders.more(SENDERS)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            found = {str(row["customer_id"]): row["number"] for row in await stored.fetch(OF_CUSTOMERS)}
            assert set(found.values()) == {SIZE}
            assert senders.stored <= found.keys()
            assert senders.codes <= {Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED}
            for request in list(senders.failed.values()):
                await senders.send_one(request)
            assert not senders.failed


class Crowd:
    """A provider of many users on small pages, who takes his time for each."""

    async def fetch(self, index: int, count: int) -> Page:
        """A page."""
        await asyncio.sleep(0.02)
        numbers = range(index, min(index + count, USERS + 1))
        return Page(index=index, total=USERS, entries=tuple(Profile(user_name=f"user{number}") for number in numbers))

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Crowd]:
        """As a worker opens it."""
        yield self


@dataclass
class Work:
    """All that goes on, and how far it has come."""

    stored: Database
    senders: Senders
    run: Run

    async def orders(self) -> int:
        """How many batches were taken."""
        return len(self.senders.stored)

    async def completed(self) -> int:
        """How many orders were worked off."""
        return int((await self.stored.fetch(COMPLETED))[0]["number"])

    async def users(self) -> int:
        """How far the run was read."""
        found = await RunStore(self.stored).get(self.run.id)
        assert found is not None
        return found.chain.next_index

    async def go_on(self) -> None:
        """Until each has come further than it is now."""
        async with Scope() as scope:
            for count in (self.orders, self.completed, self.users):
                scope.start(further(count))


async def further(count: Callable[[], Awaitable[int]]) -> None:
    """Until a count has grown; what ended cannot."""
    now = await count()

    async def has_grown() -> bool:
        return await count() > min(now, USERS)

    await until(has_grown, seconds=BOUND_SECONDS)


@asynccontextmanager
async def working(settings: DatabaseSettings) -> AsyncIterator[Work]:
    """Batches that are sent, orders that are worked off, and a run of the sync."""
    async with database.connect(settings) as stored, orders(stored, Anyone()) as stub, Scope() as scope:
        runs, notices, senders = RunStore(stored), Notices(stored, sync_store.CHANNEL), Senders(stub)
        run, _ = await runs.start(uuid.uuid4(), "scim")
        limits = ProviderSettings(page_size=5, concurrency=2)
        store = WorkStore(stored, name="w", lease=timedelta(seconds=5))
        for work in (
            notices.run(),
            Worker(runs, notices, limits, Crowd().connect, name="w", changed=lambda: None).run(),
            OrderWorker(store, Checkout(Anyone()), WorkSettings(lease_seconds=5), lambda: None).run(),
            *(senders.send() for _ in range(SENDERS)),
        ):
            scope.start(work)
        yield Work(stored, senders, run)


@pytest.mark.parametrize("end", [OwnPostgres.stop, OwnPostgres.kill])
async def test_all_work_goes_on_soon_after_a_restart(
    own_postgres: OwnPostgres, end: Callable[[OwnPostgres], Awaitable[None]]
) -> None:
    settings = DatabaseSettings(url=own_postgres.url, application_name="test")
    async with asyncio.timeout(100):
        async with database.connect(settings) as stored:
            for schema in (order_store, sync_store):
                await migrate(stored, settings, schema.SCHEMA, schema.MIGRATIONS)
        async with working(settings) as work:
            await work.go_on()
            assert await work.users() < USERS
            await end(own_postgres)
            await own_postgres.start()
            await work.go_on()
            run = await RunStore(work.stored).get(work.run.id)
            while run is not None and not TRANSITIONS.is_final(run.state):
                run = await RunStore(work.stored).get(work.run.id)
            assert run is not None
            assert (run.state, run.counts) == (State.SUCCEEDED, Counts(created=USERS))
            answered = set(work.senders.stored)
            found = {str(row["customer_id"]): row["number"] for row in await work.stored.fetch(OF_CUSTOMERS)}
            assert set(found.values()) == {SIZE}
            assert answered <= found.keys()
            assert work.senders.codes <= {Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED}
