"""The whole stack as `mesh up` starts it, with users who order."""

from __future__ import annotations

import asyncio
import tempfile
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from google.type.money_pb2 import Money

from meshwright.order.v1.order_pb2 import OrderLine
from meshwright.order.v1.order_service_pb2 import CreateOrderRequest
from meshwright.order.v1.order_service_pb2_grpc import OrderServiceStub
from meshwright.sync.v1.sync_service_pb2 import ListUsersRequest, StartSyncRequest, WatchSyncRequest
from meshwright.sync.v1.sync_service_pb2_grpc import SyncServiceStub
from tests.e2e.conftest import Stack, stack_in


@dataclass
class Shop:
    """The stack, and users who order."""

    stack: Stack
    channel: grpc.aio.Channel
    users: list[str] = field(default_factory=list)
    ordered: int = 0

    def request(self) -> CreateOrderRequest:
        """An order of the next user."""
        self.ordered += 1
        price = Money(currency_code="EUR", units=12, nanos=500_000_000)
        return CreateOrderRequest(
            request_id=str(uuid.uuid4()), customer_id=self.users[self.ordered % len(self.users)],
            lines=[OrderLine(sku="A-1", quantity=2, unit_price=price)],
        )  # fmt: skip

    async def order(self, deadline_seconds: float) -> None:
        """One order."""
        await OrderServiceStub(self.channel).CreateOrder(self.request(), timeout=deadline_seconds)

    async def fill(self) -> None:
        """Have users."""
        sync = SyncServiceStub(self.channel)
        run = await sync.StartSync(StartSyncRequest(request_id=str(uuid.uuid4())))
        async for _ in sync.WatchSync(WatchSyncRequest(id=run.id)):
            pass
        users = (await sync.ListUsers(ListUsersRequest(page_size=500))).users
        self.users = [user.id for user in users if user.active]


@asynccontextmanager
async def shop() -> AsyncIterator[Shop]:
    """A stack on free ports for as long as the block runs; its orders are not worked off meanwhile."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/tmp", ignore_cleanup_errors=True) as name:
        stack = stack_in(Path(name) / "state", None)
        stack.environ.update(ORDER_WORKERS="0")
        try:
            await asyncio.to_thread(stack.up)
            async with grpc.aio.insecure_channel(f"127.0.0.1:{stack.gateway_port}") as channel:
                made = Shop(stack, channel)
                await made.fill()
                yield made
        finally:
            await asyncio.to_thread(stack.mesh, "down", check=False)
