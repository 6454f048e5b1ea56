"""Processes of the order and the sync service are killed at random under load: no event is lost, nothing done twice.

What `test_events` does to parts of them a hundred times, here to the processes that a stack runs: relays, workers and
consumers die together with the calls that their process has in hand.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import tempfile
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest

from mesh import Code, from_rpc
from mesh.scope import Scope
from mesh.up import client
from mesh.up.service import state_of
from meshwright.order.v1.order_service_pb2_grpc import OrderServiceStub
from meshwright.sync.v1.sync_pb2 import User
from meshwright.sync.v1.sync_service_pb2 import GetUserRequest
from meshwright.sync.v1.sync_service_pb2_grpc import SyncServiceStub
from services.events.group import standings
from services.events.stream import START, Stream
from services.order.store import OrderStore
from services.settings import RedisSettings
from services.sync import wire
from services.sync.reads import CacheSettings, copies
from services.sync.store import UserStore
from tests.e2e.conftest import Stack, stack_in
from tests.faults.conftest import until
from tests.faults.history import CLEAN, Change, judge
from tests.faults.test_events import UNFINISHED, cancelled, draft
from tests.fixtures.orders import create
from tests.fixtures.services import database_settings, stored
from tests.fixtures.users import become, user

if TYPE_CHECKING:
    from uuid import UUID

    from redis.asyncio import Redis

    from meshwright.order.v1.order_service_pb2 import CreateOrderRequest
    from meshwright.order.v1.order_service_pb2_grpc import OrderServiceAsyncStub
    from meshwright.sync.v1.sync_service_pb2_grpc import SyncServiceAsyncStub
    from services.database import Database

__all__ = ["database_settings", "stored"]

pytestmark = pytest.mark.timeout(240)

KILLS = 12
EVERY_SECONDS = 0.5
"""On the average, and no sooner than another process is ready."""

BUYERS = 4
WAIT_SECONDS = 90
VICTIMS = ("order-1", "order-2", "sync-1", "sync-2")
PASSING = {Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.RESOURCE_EXHAUSTED}
PATIENCE = {
    "ORDER_LEASE_SECONDS": "1", "ORDER_POLL_SECONDS": "0.1", "ORDER_ATTEMPTS": "1000",
    "EVENTS_CLAIM_SECONDS": "0.5", "EVENTS_DELIVERIES": "1000",
}  # fmt: skip
"""What a killed process had in hand is soon another's, and is never given up."""

CHANGES = """
SELECT id, generate_series(1, version) AS version FROM orders.orders
UNION ALL SELECT id, generate_series(1, version) FROM sync.users
UNION ALL SELECT id, generate_series(1, version) FROM sync.runs
"""
REQUESTS = "SELECT request_id, 1 AS version FROM orders.orders"


@dataclass
class Shop:
    """A stack that is being hurt, and those who use it meanwhile and record what they were told."""

    stack: Stack
    order: OrderServiceAsyncStub
    sync: SyncServiceAsyncStub
    stored: Database
    chance: random.Random
    customers: list[UUID] = field(default_factory=list)
    left: list[UUID] = field(default_factory=list)
    """Customers who were deactivated."""
    asked: list[Change] = field(default_factory=list)
    """Orders that were asked for until that was answered, by the ids of their requests, each as one."""
    doomed: list[Change] = field(default_factory=list)
    """Orders of customers who are deactivated before anybody works on these, as they are when cancelled."""
    ending: bool = False

    async def buy(self) -> None:
        """Order, the same until it is answered, and look at customers; until it is to end."""
        while not self.ending:
            customer = str(self.chance.choice(self.customers))
            request = create(customer=customer)
            while not await self._order(request):  # noqa: ASYNC110 (it is a matter of other processes)
                await asyncio.sleep(0.1)
            self.asked.append((request.request_id, 1))
            with suppress(grpc.aio.AioRpcError):
                await self.sync.GetUser(GetUserRequest(id=customer), timeout=5)
            await asyncio.sleep(0.02)

    async def _order(self, request: CreateOrderRequest) -> bool:
        try:
            await self.order.CreateOrder(request, timeout=5)
        except grpc.aio.AioRpcError as error:
            if from_rpc(error).code in PASSING:
                return False
            raise
        return True

    async def leave(self) -> None:
        """Customers order for later and are deactivated, one after the other; until it is to end."""
        while not self.ending:
            customer = await user(self.stored, str(uuid.uuid4()))
            self.left.append(customer)
            order = draft(customer)
            made, _ = await OrderStore(self.stored, work_delay=timedelta(hours=1)).insert(order)
            self.asked.append((str(order.request_id), 1))
            self.doomed.append((str(made.id), 2))
            with suppress(grpc.aio.AioRpcError):
                await self.sync.GetUser(GetUserRequest(id=str(customer)), timeout=5)
            await become(self.stored, customer, active=False)
            await asyncio.sleep(0.05)

    async def kill(self) -> str:
        """Kill a process at random, of those that are ready, as soon as there is one; its name."""
        while True:
            found = await client.processes(self.stack.paths)
            ready = [one for one in found if one.name in VICTIMS and state_of(one) == "ready"]
            if ready:
                victim = self.chance.choice(ready)
                os.kill(victim.pid, signal.SIGKILL)
                return victim.name
            await asyncio.sleep(0.05)


@pytest.fixture
async def shop(stored: Database, database_url: str, valkey_url: str) -> AsyncIterator[Shop]:
    """A stack on a database and a Redis that the test can look into."""
    with tempfile.TemporaryDirectory(prefix="mesh-faults-") as name:
        stack = stack_in(Path(name) / "state", None)
        stack.environ.update(PATIENCE, DATABASE_URL=database_url, REDIS_URL=valkey_url)
        async with AsyncExitStack() as ending:
            ending.callback(stack.mesh, "down", check=False)
            await asyncio.to_thread(stack.up)
            channel = await ending.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{stack.gateway_port}"))
            chance = random.Random(seed := random.randrange(1 << 32))
            print(f"{seed=}")
            made = Shop(stack, OrderServiceStub(channel), SyncServiceStub(channel), stored, chance)
            made.customers += [await user(stored, str(uuid.uuid4())) for _ in range(20)]
            yield made


async def test_processes_of_the_services_are_killed_at_random(shop: Shop, valkey_url: str) -> None:
    killed = []
    async with Scope() as scope:
        work = [scope.start(shop.leave()), *(scope.start(shop.buy()) for _ in range(BUYERS))]
        for _ in range(KILLS):
            await asyncio.sleep(shop.chance.uniform(0, 2 * EVERY_SECONDS))
            killed.append(await shop.kill())
        shop.ending = True
        await asyncio.gather(*work)
    async with RedisSettings(url=valkey_url).client(binary=True) as redis:
        await check(shop, redis)
    print(f"{killed=}")
    assert {name.partition("-")[0] for name in killed} == {"order", "sync"}


async def check(shop: Shop, redis: Redis) -> None:
    """Once all is done, judge what came of it."""
    await settled(shop, redis)
    made, relayed = await rows(shop.stored, CHANGES), await in_stream(redis)
    print(f"asked={len(shop.asked)} doomed={len(shop.doomed)} changes={len(made)} events={len(relayed)}")
    assert judge(made, relayed, {}) == CLEAN, "the stream has each change once"
    assert judge(shop.doomed, await cancelled(shop.stored), {}) == CLEAN, "the consumer of orders did each event once"
    assert judge(shop.asked, await rows(shop.stored, REQUESTS), {}) == CLEAN, "each request is one order"
    assert [one.dead for one in await standings(redis)] == [0, 0]
    await check_copies(shop, redis)


async def settled(shop: Shop, redis: Redis) -> None:
    """Until every order is done, every change in the stream, and nothing in anybody's hands."""

    async def is_settled() -> bool:
        if await shop.stored.fetch(UNFINISHED) or len(await in_stream(redis)) < len(await rows(shop.stored, CHANGES)):
            return False
        return all(one.waiting == one.in_hand == 0 for one in await standings(redis))

    await until(is_settled, seconds=WAIT_SECONDS)


async def check_copies(shop: Shop, redis: Redis) -> None:
    """What GetUser answers from Redis is what Postgres has."""
    ids = [*shop.customers, *shop.left]
    found = await copies(redis, CacheSettings()).look([str(one) for one in ids])
    known = {str(one.id): wire.user(one) for one in await UserStore(shop.stored).get_all(ids)}
    assert found
    assert {one: User.FromString(body) for one, body in found.items()} == {one: known[one] for one in found}


async def in_stream(redis: Redis) -> list[Change]:
    """Subject and version of each event."""
    return [(one.event.subject, one.event.version) for one in await Stream(redis).after(START, 100_000)]


async def rows(stored: Database, statement: str) -> list[Change]:
    """Of a statement about ids and versions."""
    return [(str(row[0]), row[1]) for row in await stored.fetch(statement)]
