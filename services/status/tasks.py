"""What a task is, and what becomes of its runs. Pure."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Self, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from datetime import datetime
    from uuid import UUID

    from services.status.schedule import Cron, Times

    Work: TypeAlias = Callable[[UUID], Awaitable[str]]
    """Does it once; given the id of the run, answers what it did, for people. Whatever it raises is its failure."""

    Works: TypeAlias = Callable[[], Awaitable[Mapping[str, Work]]]
    """Pieces of work that do not mind each other, by name: that of the task alone or with more, as in `sync:scim`."""


class State(enum.StrEnum):
    """How far a run has come; the meaning of each is in task_result.proto."""

    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    SKIPPED = "SKIPPED"


class TaskFailed(Exception):
    """A task did not do what it is for; the text says why, for people."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """Something that is done at its times."""

    name: str
    times: Times
    works: Works
    """Asked at each time. Whatever it raises is the failure of the task."""

    @classmethod
    def of(cls, name: str, times: Times, work: Work) -> Self:
        """A task that is one piece of work."""

        async def works() -> Mapping[str, Work]:
            return {name: work}

        return cls(name=name, times=times, works=works)

    def last(self, newest: Mapping[str, datetime]) -> datetime | None:
        """The last time that was dealt with, from those of all pieces of work."""
        found = (time for name, time in newest.items() if name.partition(":")[0] == self.name)
        return max(found, default=None)


@dataclass(frozen=True, kw_only=True)
class TaskSettings:
    """What holds for all tasks."""

    sync: Cron | None = None
    """SYNC_CRON: when to pull users; None for never."""
    sweep: Cron | None = None
    """SWEEP_CRON: when to sweep orders that are stuck; None for never."""
    clean_up: Cron | None = None
    """CLEAN_UP_CRON: when to delete old task results; None for never."""
    patience: timedelta = timedelta(hours=1)
    """TASK_PATIENCE_SECONDS: a time that passed while nobody led still counts for so long."""
    limit: timedelta = timedelta(hours=1)
    """TASK_TIMEOUT_SECONDS: a run that takes longer has failed."""
    concurrency: int = 4
    """TASK_CONCURRENCY: most runs at once."""
    retention: timedelta = timedelta(days=30)
    """TASK_RETENTION_DAYS: task results that ended longer ago are deleted, but for the newest of each task."""


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """A run as it is stored."""

    id: UUID
    task: str
    state: State
    instance: str
    schedule_time: datetime
    start_time: datetime
    end_time: datetime | None
    summary: str
    error: str


@dataclass(frozen=True, kw_only=True)
class TaskFilter:
    """Which runs a list has; None for all."""

    task: str | None = None
    state: State | None = None
    start_from: datetime | None = None
    """Runs that began then or later."""
    start_to: datetime | None = None
    """Runs that began before."""
