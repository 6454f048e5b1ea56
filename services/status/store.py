"""Task results in Postgres."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from services.database import queries
from services.status.tasks import State, TaskResult

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from datetime import datetime, timedelta
    from uuid import UUID

    import asyncpg

    from services.database import Database
    from services.status.tasks import TaskFilter

SCHEMA = "status"
MIGRATIONS = Path(__file__).parent / "migrations"
_SQL = queries(Path(__file__).with_name("queries.sql"))


class TaskStore:
    """Statements about task results; `instance` is whose runs are written. All methods raise what `Database` does."""

    def __init__(self, database: Database, instance: str) -> None:
        self._database = database
        self._instance = instance

    async def begin(self, run_id: UUID, task: str, schedule_time: datetime) -> bool:
        """Write that a run begins; False when this task's run of this time is there already."""
        row = await self._database.fetchrow(_SQL["begin"], run_id, task, self._instance, schedule_time)
        return row is not None

    async def skip(self, run_id: UUID, task: str, schedule_time: datetime, error: str) -> None:
        """Write that a run is not begun, and why."""
        await self._database.fetch(_SQL["skip"], run_id, task, self._instance, schedule_time, error)

    async def end(self, run_id: UUID, state: State, *, summary: str = "", error: str = "") -> None:
        """Write how a run ended, unless it has ended before."""
        await self._database.fetch(_SQL["end"], run_id, state, summary, error)

    async def sweep(self, alive: Collection[UUID], error: str) -> list[tuple[str, str]]:
        """Write that all runs have failed but those that are alive; the (task, instance) of each."""
        rows = await self._database.fetch(_SQL["sweep"], list(alive), error)
        return [(row["task"], row["instance"]) for row in rows]

    async def newest(self) -> Mapping[str, datetime]:
        """The last time of each task that was dealt with."""
        return {row["task"]: row["schedule_time"] for row in await self._database.fetch(_SQL["newest"])}

    async def page(self, wanted: TaskFilter, *, after: tuple[datetime, UUID] | None, limit: int) -> list[TaskResult]:
        """Newest first, after the key of the last one seen."""
        moment, last = after or (None, None)
        rows = await self._database.fetch(
            _SQL["page"], wanted.task, wanted.state, wanted.start_from, wanted.start_to, moment, last, limit
        )
        return [_read(row) for row in rows]

    async def failures(self, within: timedelta) -> int:
        """How many runs failed of those that began so recently."""
        row = await self._database.fetchrow(_SQL["failures"], within)
        return row["number"] if row else 0

    async def clean_up(self, retention: timedelta, limit: int) -> int:
        """Delete at most so many results that ended longer ago, but none that is its task's newest; how many."""
        return len(await self._database.fetch(_SQL["clean_up"], retention, limit))


def _read(row: asyncpg.Record) -> TaskResult:
    return TaskResult(**{**row, "state": State(row["state"])})
