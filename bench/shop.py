"""The whole stack as `mesh up` starts it, with users, and calls of CreateOrder at it, at a steady rate or so many at once."""

from __future__ import annotations

import asyncio
import tempfile
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from google.type.money_pb2 import Money

from mesh.recovery import now
from meshwright.order.v1.order_pb2 import OrderLine
from meshwright.order.v1.order_service_pb2 import CreateOrderRequest
from meshwright.order.v1.order_service_pb2_grpc import OrderServiceStub
from meshwright.sync.v1.sync_service_pb2 import ListUsersRequest, StartSyncRequest, WatchSyncRequest
from meshwright.sync.v1.sync_service_pb2_grpc import SyncServiceStub
from tests.e2e.conftest import Stack, stack_in

TICK_SECONDS = 0.005


@dataclass
class Took:
    """What became of calls, and how long those took that went well."""

    seconds: float = 0.0
    begun: int = 0
    latencies: list[float] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)

    @property
    def rate(self) -> float:
        """Calls in a second that went well."""
        return len(self.latencies) / self.seconds


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
        self.users = [user.id for user in (await sync.ListUsers(ListUsersRequest(page_size=500))).users]


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


Call = Callable[[], Awaitable[None]]


async def at_once(call: Call, count: int, seconds: float) -> Took:
    """So many callers, each of whom calls again as soon as it is answered."""
    took, began = Took(), now()

    async def keep_calling() -> None:
        while now() < began + seconds:
            await _one(call, took)

    await asyncio.gather(*(keep_calling() for _ in range(count)))
    took.seconds = now() - began
    return took


async def at_rate(call: Call, rate: float, seconds: float) -> Took:
    """Calls that come whatever becomes of those before; the time is that until the last one has ended."""
    took, began = Took(), now()
    async with asyncio.TaskGroup() as group:
        while (elapsed := now() - began) < seconds:
            for _ in range(round(rate * elapsed) - took.begun):
                group.create_task(_one(call, took))
            await asyncio.sleep(TICK_SECONDS)
    took.seconds = now() - began
    return took


async def _one(call: Call, took: Took) -> None:
    took.begun += 1
    began = now()
    try:
        await call()
    except grpc.aio.AioRpcError as error:
        took.failures[error.code().name] += 1
    else:
        took.latencies.append(now() - began)
