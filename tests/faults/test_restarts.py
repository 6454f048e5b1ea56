"""A Postgres that restarts under batches of orders: each is there whole or not at all, and work goes on."""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING

import grpc
import pytest

from mesh import Code, from_rpc
from meshwright.order.v1.order_service_pb2 import BatchCreateOrdersRequest
from services import database
from services.database import DatabaseSettings
from services.migrations import migrate
from services.order import store as order_store
from tests.fixtures.orders import Anyone, create
from tests.fixtures.services import orders
from tests.fixtures.stores import OwnPostgres

if TYPE_CHECKING:
    from meshwright.order.v1.order_service_pb2_grpc import OrderServiceAsyncStub

pytestmark = pytest.mark.timeout(120)

SIZE, SENDERS, RESTARTS = 100, 6, 3
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
