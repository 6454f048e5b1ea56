"""Asks every part how it does, side by side, each under the same deadline."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Generic, TypeVar

from mesh.recovery import now
from meshwright.order.v1.order_service_pb2 import CountOrdersRequest
from meshwright.sync.v1.sync_service_pb2 import CountUsersRequest, ListSyncsRequest
from services import paging, totals
from services.events.group import standings
from services.status.model import Component, line
from services.timestamps import moment

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from redis.asyncio import Redis

    from mesh.scope import Scope
    from meshwright.order.v1.order_service_pb2_grpc import OrderServiceAsyncStub
    from meshwright.sync.v1 import sync_pb2
    from meshwright.sync.v1.sync_service_pb2_grpc import SyncServiceAsyncStub
    from services.database import Database
    from services.events.group import Standing
    from services.status.directory import Directory
    from services.status.model import Models
    from services.status.store import TaskStore
    from services.totals import Model

T = TypeVar("T")

RECENT = timedelta(hours=24)
"""Tasks that failed longer ago are not counted."""

MODELS = ("users", "orders", f"order{totals.EVENTS}", f"sync{totals.EVENTS}")
"""Names of the read models."""


@dataclass(frozen=True)
class Stubs:
    """The services that are asked."""

    sync: SyncServiceAsyncStub
    order: OrderServiceAsyncStub


@dataclass(frozen=True, kw_only=True)
class Answer(Generic[T]):
    """What a part answered, or why it did not."""

    value: T | None = None
    error: str = ""
    seconds: float = 0.0

    def component(self, name: str) -> Component:
        """The part as something that answered, or not."""
        return Component(name=name, latency_seconds=None if self.error else self.seconds, error=self.error)


async def ask(scope: Scope, part: Callable[[], Awaitable[T]], seconds: float) -> Answer[T]:
    """What a part answers within so many seconds. Any error of it is an answer too; cancellation goes on.

    A part that is late is cancelled and left to the scope, as cleaning up after it may take longer than a caller has.
    """
    begin = now()
    asked = scope.start(_answer(part, begin))
    try:
        await asyncio.wait((asked,), timeout=seconds)
        return asked.result() if asked.done() else Answer(error=f"no answer within {seconds:.1f} s", seconds=seconds)
    finally:
        asked.cancel()


async def _answer(part: Callable[[], Awaitable[T]], begin: float) -> Answer[T]:
    try:
        return Answer(value=await part(), seconds=now() - begin)
    except Exception as error:  # a part that is broken in whatever way is what this is to report
        return Answer(error=line(error), seconds=now() - begin)


class Parts:
    """The parts of the system. What each raises is its error."""

    def __init__(
        self, directory: Directory, database: Database, redis: Redis, services: Stubs, tasks: TaskStore
    ) -> None:
        self.directory = directory
        self._database = database
        self._redis = redis
        self._services = services
        self._tasks = tasks

    async def postgres(self) -> None:
        """Answers when Postgres does."""
        await self._database.ping()

    async def models(self) -> Models:
        """The read models in Redis, by name."""
        return {name: await totals.read(self._redis, name) for name in MODELS}

    async def consumers(self) -> list[Standing]:
        """How the consumers of events do."""
        return await standings(self._redis)

    async def users(self) -> Model:
        """The read model of users, counted now."""
        found = await self._services.sync.CountUsers(CountUsersRequest())
        return {"users": found.users}

    async def orders(self) -> Model:
        """The read model of orders, counted now."""
        found = await self._services.order.CountOrders(CountOrdersRequest())
        counts = {name.removeprefix("STATE_"): number for name, number in found.by_state.items()}
        if not found.HasField("oldest_pending_time"):
            return counts
        return counts | {totals.OLDEST: paging.micros(moment(found.oldest_pending_time))}

    async def last_sync(self) -> sync_pb2.Sync | None:
        """The newest run."""
        found = await self._services.sync.ListSyncs(ListSyncsRequest(page_size=1))
        return found.syncs[0] if found.syncs else None

    async def failed_tasks(self) -> int:
        """How many runs of tasks failed lately."""
        return await self._tasks.failures(RECENT)
