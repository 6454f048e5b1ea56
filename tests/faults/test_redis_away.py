"""Redis is away, and comes back empty: everything is answered meanwhile, and mends itself afterwards."""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import tempfile
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest

from mesh.scope import Scope
from meshwright.order.v1.order_service_pb2_grpc import OrderServiceStub
from meshwright.status.v1.status_pb2 import HEALTH_CRITICAL, HEALTH_PASSING, SystemStatus
from meshwright.status.v1.status_service_pb2 import GetSystemStatusRequest, WatchEventsRequest, WatchEventsResponse
from meshwright.status.v1.status_service_pb2_grpc import StatusServiceStub
from meshwright.sync.v1.sync_pb2 import Sync
from meshwright.sync.v1.sync_service_pb2 import (
    CountUsersRequest,
    GetUserRequest,
    ListUsersRequest,
    StartSyncRequest,
    WatchSyncRequest,
)
from meshwright.sync.v1.sync_service_pb2_grpc import SyncServiceStub
from services.settings import RedisSettings
from tests.e2e.conftest import stack_in
from tests.faults.conftest import until
from tests.fixtures.orders import create
from tests.fixtures.stores import OwnValkey

if TYPE_CHECKING:
    from meshwright.order.v1.order_service_pb2_grpc import OrderServiceAsyncStub
    from meshwright.status.v1.status_service_pb2_grpc import StatusServiceAsyncStub
    from meshwright.sync.v1.sync_service_pb2_grpc import SyncServiceAsyncStub

pytestmark = pytest.mark.timeout(240)

AWAY_SECONDS = {"killed": float(os.environ.get("FAULTS_REDIS_AWAY_SECONDS", "60")), "hung": 8.0}
"""How long, by how it leaves: once for longer than watchers of events are patient, and read models are kept."""
READERS = 10
DEADLINE_SECONDS = 2.0
"""Of each read, far below what a client of Redis that waits for it would take."""

PATIENCE_SECONDS = 60


@dataclass
class Shop:
    """Its services, through the gateway."""

    sync: SyncServiceAsyncStub
    order: OrderServiceAsyncStub
    status: StatusServiceAsyncStub
    count: int = 0
    """All users."""
    users: list[str] = field(default_factory=list)
    """Ids of some."""
    ordered: list[str] = field(default_factory=list)
    took: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    async def open(self) -> None:
        """Pull all users, and know some."""
        run = await self.sync.StartSync(StartSyncRequest(request_id=str(uuid.uuid4())), wait_for_ready=True)
        said = [change.sync.state async for change in self.sync.WatchSync(WatchSyncRequest(id=run.id))]
        assert said[-1] == Sync.STATE_SUCCEEDED
        self.count = (await self.sync.CountUsers(CountUsersRequest())).users
        self.users = [user.id for user in (await self.sync.ListUsers(ListUsersRequest(page_size=200))).users]

    async def take(self) -> None:
        """An order."""
        made = await self.order.CreateOrder(create(customer=self.users[0]), timeout=PATIENCE_SECONDS)
        self.ordered.append(made.id)

    async def read(self) -> None:
        """Ask for users, one after the other, until cancelled."""
        while True:
            for user_id in self.users:
                began = time.monotonic()
                try:
                    await self.sync.GetUser(GetUserRequest(id=user_id), timeout=DEADLINE_SECONDS)
                except grpc.aio.AioRpcError as error:
                    self.failures.append(f"{error.code().name}: {error.details()}")
                self.took.append(time.monotonic() - began)
                await asyncio.sleep(0.02)

    async def told(self) -> SystemStatus:
        """The status."""
        return await self.status.GetSystemStatus(GetSystemStatusRequest())


@dataclass
class Watcher:
    """Follows the events of orders, and goes on where it was whenever it is told to come back."""

    shop: Shop
    last: str = ""
    created: list[str] = field(default_factory=list)
    begun: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                async for said in self.shop.status.WatchEvents(WatchEventsRequest(last_event_id=self.last)):
                    self._take(said)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
            await asyncio.sleep(0.5)

    def _take(self, said: WatchEventsResponse) -> None:
        self.last = said.last_event_id
        self.begun.set()
        if said.event.type == "order.created":
            self.created.append(said.event.subject)


@pytest.fixture
async def shop(own_valkey: OwnValkey) -> AsyncIterator[Shop]:
    """A stack on a Redis of its own."""
    with tempfile.TemporaryDirectory(prefix="mesh-faults-") as name:
        stack = stack_in(Path(name) / "state", None)
        stack.environ["REDIS_URL"] = own_valkey.url
        async with AsyncExitStack() as ending:
            ending.callback(stack.mesh, "down", check=False)
            stack.up()
            target = f"127.0.0.1:{stack.gateway_port}"
            channel = await ending.enter_async_context(grpc.aio.insecure_channel(target))
            made = Shop(SyncServiceStub(channel), OrderServiceStub(channel), StatusServiceStub(channel))
            await made.open()
            yield made


def health(found: SystemStatus, name: str) -> int:
    return next(part.health for part in found.components if part.name == name)


async def leave(valkey: OwnValkey, how: str) -> None:
    """Have Redis be gone, or there and silent."""
    if how == "killed":
        await valkey.kill()
    else:
        valkey.signal(signal.SIGSTOP)


async def come_back_empty(valkey: OwnValkey) -> None:
    await valkey.kill()
    valkey.forget()
    await valkey.start()


async def served_without(shop: Shop, seconds: float) -> None:
    """Orders are taken, and the status says what is wrong and how much there is."""
    until_back = time.monotonic() + seconds
    while time.monotonic() < until_back:
        await shop.take()
        found = await shop.told()
        assert health(found, "redis") == HEALTH_CRITICAL
        assert health(found, "postgres") == HEALTH_PASSING
        assert (found.totals.users, found.totals.orders) == (shop.count, len(shop.ordered))
        await asyncio.sleep(0.5)


def unmended(found: SystemStatus, missing: int) -> list[object]:
    """What is not yet as it was."""
    waiting = {queue.name: queue.waiting for queue in found.queues if queue.name != "orders"}
    consumers = [(one.name, one.waiting, one.in_hand, one.dead_letters) for one in found.consumers]
    expected = [
        (health(found, "redis"), HEALTH_PASSING), (list(found.problems), []), (missing, 0),
        (waiting, {"order-events": 0, "sync-events": 0}), (consumers, [("orders", 0, 0, 0), ("users", 0, 0, 0)]),
    ]  # fmt: skip
    return [seen for seen, wanted in expected if seen != wanted]


async def mended(shop: Shop, watcher: Watcher, valkey: OwnValkey) -> None:
    """All read models, streams and groups are back, and the watcher has had each event once."""

    wrong: list[object] = ["not asked yet"]
    with suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE_SECONDS):
            while wrong := unmended(await shop.told(), len(shop.ordered) - len(watcher.created)):  # noqa: ASYNC110
                await asyncio.sleep(0.2)
    assert wrong == []
    found = await shop.told()
    assert (found.totals.users, found.totals.orders) == (shop.count, len(shop.ordered))
    assert sorted(watcher.created) == sorted(shop.ordered)

    async def is_copied() -> bool:
        async with RedisSettings(url=valkey.url).client() as redis:
            return all([await redis.hexists(f"meshwright:user:{user}", "body") for user in shop.users[:20]])

    await until(is_copied, seconds=PATIENCE_SECONDS)


@pytest.mark.parametrize("how", AWAY_SECONDS)
async def test_redis_is_away_and_comes_back_empty(shop: Shop, own_valkey: OwnValkey, how: str) -> None:
    watcher = Watcher(shop)
    async with Scope() as scope:
        scope.start(watcher.run())
        await watcher.begun.wait()
        await shop.take()
        for _ in range(READERS):
            scope.start(shop.read())
        await leave(own_valkey, how)
        shop.took.clear()
        await served_without(shop, AWAY_SECONDS[how])
        took = sorted(shop.took)
        await come_back_empty(own_valkey)
        await shop.take()
        await mended(shop, watcher, own_valkey)
    print(f"{how}: {len(took)} reads, median {statistics.median(took):.4f} s, "
          f"99 of 100 within {took[len(took) * 99 // 100]:.3f} s, slowest {took[-1]:.3f} s")  # fmt: skip
    assert shop.failures == []
