"""A service serves from its start, and works as soon as its Postgres is there with the schema that it needs.

Until then it lives and is not ready: callers are sent elsewhere, and nobody restarts it for what is not its fault.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from mesh import Code, Error, Server, Serving
from mesh.recovery import Backoff, Failures, now
from mesh.scope import Scope
from services import readiness
from services.migrations import migrate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine
    from pathlib import Path
    from types import TracebackType

    from services.database import Database
    from services.settings import ServiceSettings

    T = TypeVar("T")

REMIND_SECONDS = 10.0
"""Between two lines of a process that waits for Postgres."""

_AGAIN = Backoff(first_seconds=0.1, limit_seconds=2.0)
_PASSING = frozenset({Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED})
_log = logging.getLogger(__name__)


class Later(Scope):
    """A scope whose tasks wait until they may begin."""

    def __init__(self) -> None:
        super().__init__()
        self._begun = asyncio.Event()
        self._works: list[Coroutine[Any, Any, Any]] = []

    def start(self, work: Coroutine[Any, Any, T], *, name: str | None = None) -> asyncio.Task[T]:
        """Run a coroutine beside the block, from `begin` on."""
        self._works.append(work)
        return super().start(self._wait(work), name=name)

    def begin(self) -> None:
        """Let the tasks run."""
        self._begun.set()

    async def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        await self._begun.wait()
        return await work

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await super().__aexit__(kind, error, trace)
        finally:
            for work in self._works:
                work.close()


@asynccontextmanager
async def prepared(
    server: Server, database: Database, settings: ServiceSettings, schema: str, migrations: Path, *, leaves: bool = True
) -> AsyncIterator[Later]:
    """A scope for work that needs Postgres, which begins when that is there and `schema` at its newest revision.

    A service that `leaves` the rotation without Postgres is not ready before, nor whenever Postgres stays away.
    Raises what `migrate` does for a schema that it cannot bring there.
    """

    async def prepare() -> None:
        await _migrated(database, settings, schema, migrations)
        later.begin()
        if leaves:
            server.health.set("", Serving.SERVING)
            await readiness.follow(server, database, settings.patience_seconds)

    if leaves:
        server.health.set("", Serving.NOT_SERVING)
    async with Scope() as at_once, Later() as later:
        at_once.start(prepare(), name="readiness")
        yield later


async def _migrated(database: Database, settings: ServiceSettings, schema: str, migrations: Path) -> None:
    """Migrate, however long Postgres is away."""
    failures, due = Failures(), now()
    while True:
        try:
            await database.ping()
            await migrate(database, settings.database, schema, migrations)
            return
        except Error as error:
            if error.code not in _PASSING:
                raise
            if now() >= due:
                due = now() + REMIND_SECONDS
                _log.warning("waiting for DATABASE_URL: %s", error.__cause__ or error)
        await failures.wait(_AGAIN)
