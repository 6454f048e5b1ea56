"""Asks every part how it does, side by side, each under the same deadline."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Generic, TypeVar

from mesh.recovery import now
from mesh.registry import MESH_TAG
from mesh.scope import first_error
from meshwright.sync.v1.sync_service_pb2 import ListSyncsRequest
from services import totals
from services.status.model import Component, Service, line

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from redis.asyncio import Redis

    from mesh.registry import Registry
    from mesh.scope import Scope
    from meshwright.sync.v1 import sync_pb2
    from meshwright.sync.v1.sync_service_pb2_grpc import SyncServiceAsyncStub
    from services.database import Database
    from services.status.store import TaskStore

T = TypeVar("T")

RECENT = timedelta(hours=24)
"""Tasks that failed longer ago are not counted."""

MAX_READS = 16
"""Most services whose instances are read from the registry at once."""


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
    """The parts of the system."""

    def __init__(
        self, registry: Registry, database: Database, redis: Redis, sync: SyncServiceAsyncStub, tasks: TaskStore
    ) -> None:
        self._registry = registry
        self._database = database
        self._redis = redis
        self._sync = sync
        self._tasks = tasks

    async def services(self) -> tuple[Service, ...]:
        """Every service on the mesh with its instances, sorted by name."""
        listed = await self._registry.services()
        names = sorted(name for name, tags in listed.items() if MESH_TAG in tags)
        limit = asyncio.Semaphore(MAX_READS)
        try:
            async with asyncio.TaskGroup() as group:
                reads = [group.create_task(self._service(name, limit)) for name in names]
        except BaseExceptionGroup as failed:
            raise first_error(failed) from None
        return tuple(read.result() for read in reads)

    async def postgres(self) -> None:
        """Answers when Postgres does."""
        await self._database.fetchrow("SELECT 1")

    async def redis(self) -> Mapping[str, Mapping[str, int] | None]:
        """The read models: totals of users and of orders."""
        return {name: await totals.read(self._redis, name) for name in ("users", "orders")}

    async def last_sync(self) -> sync_pb2.Sync | None:
        """The newest run."""
        found = await self._sync.ListSyncs(ListSyncsRequest(page_size=1))
        return found.syncs[0] if found.syncs else None

    async def failed_tasks(self) -> int:
        """How many runs of tasks failed lately."""
        return await self._tasks.failures(RECENT)

    async def _service(self, name: str, limit: asyncio.Semaphore) -> Service:
        async with limit:
            return Service(name=name, instances=await self._registry.instances(name))
