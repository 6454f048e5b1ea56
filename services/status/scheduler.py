"""Runs tasks at their times, side by side, and writes what became of each run."""

from __future__ import annotations

import asyncio
import logging
import uuid
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import asyncpg
from opentelemetry import trace

from mesh import Code, Error
from mesh.recovery import Backoff, Failures, now, sleep, time_of_day
from mesh.scope import Scope
from services.metrics import Tally, error_type
from services.status.model import line
from services.status.schedule import due
from services.status.tasks import State, Task, TaskFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime
    from uuid import UUID

    from services.status.store import TaskStore
    from services.status.tasks import TaskSettings, Work

LOOK_SECONDS = 15.0
"""How often dead runs are swept, and the clock is read even if nothing is due soon, as it may have been set."""

ASK_SECONDS = 30.0
"""Longest time that finding out what there is to do may take."""

LAST_WORDS_SECONDS = 3.0
"""Longest time that writing down an interrupted run may keep a process from ending; a sweep does it otherwise."""

LOST = "its instance died, or lost the lead, before the end was written"
INTERRUPTED = "its instance stopped, or lost the lead, before the end"

TASKS = Tally(
    "task_results",
    "runs of tasks",
    seconds=(0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0, 1800.0, 3600.0),
    statuses=("succeeded", "failed", "skipped"),
    errors=("interrupted", "TimeoutError", Code.UNAVAILABLE.name, Code.DEADLINE_EXCEEDED.name),
    labels=("task_name",),
)

_AGAIN = Backoff(first_seconds=0.2, limit_seconds=5.0)
_log = logging.getLogger(__name__)
_tracer = trace.get_tracer(__name__)


class Scheduler:
    """Runs tasks while this process leads; see `services.leader`.

    Work whose run is not over when its next time comes is not begun again: that time is written as SKIPPED. Of the
    times that passed while nobody led, the newest is made up for unless it is older than the patience of the settings.
    """

    def __init__(
        self,
        store: TaskStore,
        tasks: Sequence[Task],
        settings: TaskSettings,
        *,
        clock: Callable[[], datetime] = time_of_day,
    ) -> None:
        self._store = store
        self._tasks = tasks
        self._settings = settings
        self._clock = clock
        self._slots = asyncio.Semaphore(settings.concurrency)
        self._alive: set[UUID] = set()
        for task in tasks:
            TASKS.begin(task.name)

    async def run(self) -> None:
        """Run tasks until cancelled; runs in hand are then given up, and FAILED. Raises what the store does."""
        began = self._clock()
        self._alive.clear()
        await self._sweep()
        newest = await self._store.newest()
        async with asyncio.TaskGroup() as group:
            for task in self._tasks:
                group.create_task(self._follow(task, task.last(newest) or began), name=f"times of {task.name}")
            group.create_task(self._keep_sweeping(), name="sweep of dead runs")
            group.create_task(self._show(), name="metrics of tasks")

    async def _show(self) -> None:
        """Have the metrics of all pieces of work that can be found out now begin at 0, well before the first ends."""
        for task in self._tasks:
            for name in await _works(task):
                TASKS.begin(name)

    async def _follow(self, task: Task, since: datetime) -> None:
        """Begin runs at each time of a task, or skip them, for all times after `since`."""
        async with Scope() as scope:
            runs: dict[str, asyncio.Task[None]] = {}
            while True:
                today = self._clock()
                time = due(task.times, since=since, now=today, patience=self._settings.patience)
                if time is None:
                    await sleep(min(LOOK_SECONDS, (task.times.next(today) - today).total_seconds()))
                    continue
                since = time
                for name, work in (await _works(task)).items():
                    if name in runs and not runs[name].done():
                        await self._skip(name, time)
                    else:
                        runs[name] = scope.start(self._run(name, work, time), name=f"task {name}")

    async def _skip(self, name: str, time: datetime) -> None:
        TASKS.ended("skipped", None, "", name)
        _log.warning("task %s: skipped, as the run before is still at it", name)
        await self._store.skip(uuid.uuid4(), name, time, "the run before is still at it")

    async def _run(self, name: str, work: Work, time: datetime) -> None:
        run_id = uuid.uuid4()
        async with self._slots:
            self._alive.add(run_id)
            try:
                with _tracer.start_as_current_span(f"task {name}", attributes={"task.id": str(run_id)}):
                    if await self._store.begin(run_id, name, time):
                        await self._work(name, work, run_id)
            finally:
                self._alive.discard(run_id)

    async def _work(self, name: str, work: Work, run_id: UUID) -> None:
        began = now()
        try:
            summary = await self._attempt(work, run_id)
        except asyncio.CancelledError:
            TASKS.ended("failed", now() - began, "interrupted", name)
            with suppress(Error, TimeoutError, asyncpg.PostgresError):
                async with asyncio.timeout(LAST_WORDS_SECONDS):
                    await self._store.end(run_id, State.FAILED, error=INTERRUPTED)
            raise
        except TaskFailed as failed:
            TASKS.ended("failed", now() - began, error_type(failed.__cause__ or failed), name)
            _log.warning("task %s: %s", name, failed)
            await self._end(run_id, State.FAILED, error=str(failed))
        else:
            TASKS.ended("succeeded", now() - began, "", name)
            _log.info("task %s: %s", name, summary)
            await self._end(run_id, State.SUCCEEDED, summary=summary)

    async def _attempt(self, work: Work, run_id: UUID) -> str:
        """What a run did. Raises `TaskFailed` whatever went wrong."""
        limit = self._settings.limit.total_seconds()
        try:
            async with asyncio.timeout(limit) as timer:
                return await work(run_id)
        except Exception as error:  # whatever is wrong with a task is its result, and no other task's business
            raise TaskFailed(f"it took longer than {limit:g} s" if timer.expired() else line(error)) from error

    async def _end(self, run_id: UUID, state: State, *, summary: str = "", error: str = "") -> None:
        """Write how a run ended, however long Postgres is away meanwhile."""
        failures = Failures()
        while True:
            try:
                return await self._store.end(run_id, state, summary=summary, error=error)
            except (Error, asyncpg.PostgresError) as failed:
                _log.warning("the end of a run cannot be written yet: %s", failed)
            await failures.wait(_AGAIN)

    async def _keep_sweeping(self) -> None:
        while True:
            await sleep(LOOK_SECONDS)
            await self._sweep()

    async def _sweep(self) -> None:
        """Write that runs have failed of which this process, the only one that runs any, knows nothing."""
        for task, instance in await self._store.sweep(self._alive, LOST):
            _log.warning("task %s: a run of %s was found dead", task, instance)


async def _works(task: Task) -> Mapping[str, Work]:
    """What there is to do; when that cannot be found out, work that fails because of it."""
    try:
        async with asyncio.timeout(ASK_SECONDS):
            return await task.works()
    except Exception as error:  # whatever is wrong with a task is its result, and no other task's business
        return {task.name: partial(_fail, line(error))}


async def _fail(reason: str, run_id: UUID) -> str:
    raise TaskFailed(reason)
