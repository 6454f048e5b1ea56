"""Tasks on a real Postgres: who runs them, when, side by side or not at all, and what is written about it."""

from __future__ import annotations

import asyncio
import os
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from mesh.recovery import sleep, time_of_day
from mesh.scope import Scope
from services.leader import lead
from services.order.store import WorkStore
from services.status.jobs import clean_up, pull, pulls, sweep
from services.status.schedule import Cron, Times
from services.status.scheduler import INTERRUPTED, LOST, Scheduler
from services.status.store import TaskStore
from services.status.tasks import State, Task, TaskFailed, TaskFilter, TaskResult, TaskSettings
from services.sync.model import Profile
from services.sync.provider import ProviderFailed
from services.sync.scim import Page
from tests.contract.steps import eventually
from tests.fixtures.orders import Anyone, create, states
from tests.fixtures.services import Syncing, orders

if TYPE_CHECKING:
    from services.database import Database

WAIT_SECONDS = 60
STEP = timedelta(milliseconds=50)
HOURLY = Cron.parse("7 * * * *")
SETTINGS = TaskSettings()
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
LOCK_HOLDER = """
SELECT pid FROM pg_locks JOIN pg_database ON pg_database.oid = database
WHERE locktype = 'advisory' AND granted AND datname = current_database()
"""


class Often:
    """A time each 50 ms."""

    def next(self, after: datetime) -> datetime:
        """The first time after a moment."""
        return after - (after - LONG_AGO) % STEP + STEP

    def newest(self, until: datetime) -> datetime:
        """The last time up to a moment."""
        return until - (until - LONG_AGO) % STEP


@dataclass
class Work:
    """Work that tells when it begins, and ends when it is told to."""

    begun: asyncio.Event = field(default_factory=asyncio.Event)
    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    runs: list[UUID] = field(default_factory=list)
    ended: int = 0

    async def __call__(self, run_id: UUID) -> str:
        self.runs.append(run_id)
        self.begun.set()
        try:
            await self.go_on.wait()
        finally:
            self.ended += 1
        return "done"


def task(work: Callable[[UUID], Awaitable[str]], times: Times | None = None, name: str = "work") -> Task:
    return Task.of(name, times or Often(), work)


async def missed(store: TaskStore, name: str = "work") -> None:
    """Have a time of a task dealt with long ago, so that all since then were missed."""
    run_id = uuid.uuid4()
    await store.begin(run_id, name, LONG_AGO)
    await store.end(run_id, State.SUCCEEDED)


async def until(store: TaskStore, wanted: TaskFilter, number: int = 1) -> list[TaskResult]:
    """Runs, as soon as there are so many."""
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            found = await store.page(wanted, after=None, limit=100)
            if len(found) >= number:
                return found
            await sleep(0.02)


@asynccontextmanager
async def running(scheduler: Scheduler) -> AsyncIterator[None]:
    async with asyncio.timeout(WAIT_SECONDS), Scope() as scope:
        scope.start(scheduler.run())
        yield


@pytest.fixture
def store(stored: Database) -> TaskStore:
    return TaskStore(stored, "status-1")


async def test_a_run_is_written_when_it_begins_and_when_it_ends(store: TaskStore) -> None:
    work = Work()
    before = time_of_day() - STEP
    async with running(Scheduler(store, [task(work)], SETTINGS)):
        await work.begun.wait()
        (begun,) = await until(store, TaskFilter(state=State.RUNNING))
        work.go_on.set()
        ended = (await until(store, TaskFilter(state=State.SUCCEEDED)))[-1]
    assert (begun.id, begun.task, begun.instance, begun.end_time) == (work.runs[0], "work", "status-1", None)
    assert before <= begun.schedule_time <= begun.start_time
    assert (ended.id, ended.summary, ended.error) == (begun.id, "done", "")
    assert ended.end_time is not None


async def test_a_task_that_still_runs_is_skipped(store: TaskStore) -> None:
    work = Work()
    async with running(Scheduler(store, [task(work)], SETTINGS)):
        skipped = (await until(store, TaskFilter(state=State.SKIPPED)))[-1]
        assert len(work.runs) == 1
        work.go_on.set()
        await until(store, TaskFilter(state=State.SUCCEEDED))
    assert "still" in skipped.error
    assert skipped.end_time is not None


async def test_pieces_of_a_task_run_side_by_side_and_only_the_one_that_still_runs_is_skipped(store: TaskStore) -> None:
    slow, quick = Work(), Work()
    quick.go_on.set()

    async def works() -> Mapping[str, Callable[[UUID], Awaitable[str]]]:
        return {"sync:a": slow, "sync:b": quick}

    async with running(Scheduler(store, [Task(name="sync", times=Often(), works=works)], SETTINGS)):
        await until(store, TaskFilter(task="sync:b", state=State.SUCCEEDED), 2)
        await until(store, TaskFilter(task="sync:a", state=State.SKIPPED))
        assert len(slow.runs) == 1
        assert {one.task for one in await until(store, TaskFilter(task="sync"))} == {"sync:a", "sync:b"}
        slow.go_on.set()


async def test_when_nobody_knows_what_there_is_to_do_the_task_has_failed(store: TaskStore) -> None:
    async def works() -> Mapping[str, Callable[[UUID], Awaitable[str]]]:
        raise OSError("no answer")

    async with running(Scheduler(store, [Task(name="sync", times=Often(), works=works)], SETTINGS)):
        (*_, first) = await until(store, TaskFilter(task="sync", state=State.FAILED))
    assert first.error == "no answer"


@pytest.mark.parametrize(("patience", "expected"), [(timedelta(hours=1), 1), (timedelta(0), 0)])
async def test_of_missed_times_the_newest_counts_once_unless_it_is_too_old(
    store: TaskStore, patience: timedelta, expected: int
) -> None:
    work, witness = Work(), Work()
    work.go_on.set()
    await missed(store)
    await missed(store, "witness")
    settings = TaskSettings(patience=patience)
    tasks = [task(work, HOURLY), task(witness, name="witness")]
    noon = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
    async with running(Scheduler(store, tasks, settings, clock=lambda: noon)):
        if expected:
            found = await until(store, TaskFilter(task="work", state=State.SUCCEEDED), 2)
            assert found[0].schedule_time == datetime(2026, 3, 1, 11, 7, tzinfo=UTC)
        else:
            await witness.begun.wait()
    assert len(work.runs) == expected


async def test_nothing_was_missed_before_the_first_start(store: TaskStore) -> None:
    old, witness = Work(), Work()
    async with running(Scheduler(store, [task(old, HOURLY, "old"), task(witness)], SETTINGS)):
        await witness.begun.wait()
    assert not old.runs


async def test_tasks_run_side_by_side_as_far_as_there_are_slots(store: TaskStore) -> None:
    works = [Work() for _ in range(3)]
    tasks = [task(work, name=f"task-{number}") for number, work in enumerate(works)]
    settings = TaskSettings(concurrency=2)
    async with running(Scheduler(store, tasks, settings)):
        await eventually(lambda: sum(work.begun.is_set() for work in works) == 2)
        await until(store, TaskFilter(state=State.SKIPPED), 3)
        begun = [work for work in works if work.begun.is_set()]
        assert len(begun) == 2
        begun[0].go_on.set()
        (last,) = [work for work in works if work not in begun]
        await last.begun.wait()


async def test_what_goes_wrong_is_written_and_the_next_time_comes(store: TaskStore) -> None:
    async def refused(run_id: UUID) -> str:
        raise TaskFailed("no such provider")

    async def broken(run_id: UUID) -> str:
        raise KeyError("two\nlines")

    async def hangs(run_id: UUID) -> str:
        return str(await asyncio.Future())

    settings = TaskSettings(limit=timedelta(milliseconds=10))
    tasks = [task(work, name=name) for name, work in (("refused", refused), ("broken", broken), ("hangs", hangs))]
    async with running(Scheduler(store, tasks, settings)):
        found = {each.name: await until(store, TaskFilter(task=each.name, state=State.FAILED), 2) for each in tasks}
    assert {name: results[0].error for name, results in found.items()} == {
        "refused": "no such provider", "broken": "'two\\nlines'", "hangs": "it took longer than 0.01 s",
    }  # fmt: skip
    assert await store.failures(timedelta(hours=24)) >= 6


async def test_each_time_is_run_once_even_by_two_who_both_lead(stored: Database) -> None:
    first, second = Work(), Work()
    for work in (first, second):
        work.go_on.set()
    stores = [TaskStore(stored, name) for name in ("a", "b")]
    async with (
        running(Scheduler(stores[0], [task(first)], SETTINGS)),
        running(Scheduler(stores[1], [task(second)], SETTINGS)),
    ):
        await until(stores[0], TaskFilter(state=State.SUCCEEDED), 3)
    times = {result.id: result.schedule_time for result in await stores[0].page(TaskFilter(), after=None, limit=10_000)}
    runs = first.runs + second.runs
    assert len({times[run_id] for run_id in runs}) == len(runs) >= 3


async def test_a_run_that_is_interrupted_has_failed(store: TaskStore) -> None:
    work = Work()
    async with running(Scheduler(store, [task(work)], SETTINGS)):
        await work.begun.wait()
    (found,) = await until(store, TaskFilter(state=State.FAILED))
    assert (found.error, work.ended) == (INTERRUPTED, 1)


async def test_a_leader_that_loses_its_connection_stops_and_another_leads(stored: Database) -> None:
    leading: asyncio.Queue[str] = asyncio.Queue()
    ended = []

    def leader(name: str) -> Any:
        async def work() -> None:
            leading.put_nowait(name)
            try:
                await asyncio.Future()
            finally:
                ended.append(name)

        return lead(stored, "test", work)

    async with asyncio.timeout(WAIT_SECONDS), Scope() as scope:
        for name in ("a", "b"):
            scope.start(leader(name))
        first = await leading.get()
        (row,) = await stored.fetch(LOCK_HOLDER)
        await stored.fetch("SELECT pg_terminate_backend($1)", row["pid"])
        await leading.get()
        await eventually(lambda: ended == [first])


async def test_the_run_of_a_killed_leader_has_failed_and_another_goes_on(
    stored: Database, database_url: str, store: TaskStore
) -> None:
    environ = os.environ | {"DATABASE_URL": database_url, "LEAD": "killed"}
    program = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.fixtures.programs.long_task", env=environ, stdout=asyncio.subprocess.PIPE
    )
    work = Work()
    scheduler = Scheduler(store, [task(work)], SETTINGS)
    assert program.stdout is not None
    async with asyncio.timeout(WAIT_SECONDS), Scope() as scope:
        run_id = UUID((await program.stdout.readline()).decode().strip())
        scope.start(lead(stored, "killed", scheduler.run))
        program.kill()
        await program.wait()
        await work.begun.wait()
        (found,) = await until(store, TaskFilter(task="long", state=State.FAILED))
    assert (found.id, found.instance, found.error) == (run_id, "killed", LOST)


async def test_clean_up_deletes_what_is_old_but_the_newest_of_each_task(
    stored: Database, store: TaskStore
) -> None:
    for name in ("a", "b"):
        for hour in range(3):
            run_id = uuid.uuid4()
            await store.begin(run_id, name, LONG_AGO + timedelta(hours=hour))
            await store.end(run_id, State.SUCCEEDED)
    assert await clean_up(store, timedelta(days=1), uuid.uuid4()) == "0 task results deleted"
    await stored.fetch("UPDATE status.task_results SET end_time = end_time - interval '2 days'")
    assert await clean_up(store, timedelta(days=1), uuid.uuid4()) == "4 task results deleted"
    assert await store.newest() == dict.fromkeys(("a", "b"), LONG_AGO + timedelta(hours=2))


class Provider:
    """A provider with one user, or one that is broken."""

    def __init__(self, fault: str = "") -> None:
        self._fault = fault

    async def fetch(self, index: int, count: int) -> Page:
        """The only page."""
        if self._fault:
            raise ProviderFailed(self._fault, passing=False)
        return Page(index=index, total=1, entries=(Profile(user_name="ada"),))

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Provider]:
        """As the worker opens a provider."""
        yield self


async def test_sync_follows_a_run_to_its_end_and_counts(syncing: Syncing) -> None:
    stub = await syncing.service(Provider().connect)
    run_id = uuid.uuid4()
    found = "scim: 1 users, of which 1 created, 0 updated, 0 unchanged, 0 failed; 0 deactivated"
    assert [await pull(stub, "", run_id), await pull(stub, "scim", run_id)] == [found, found]


async def test_each_provider_that_is_configured_has_its_own_sync(syncing: Syncing) -> None:
    works = await pulls(await syncing.service(Provider().connect))
    assert list(works) == ["sync:scim"]
    assert "1 created" in await works["sync:scim"](uuid.uuid4())


async def test_orders_whose_workers_are_gone_are_swept(stored: Database) -> None:
    async with orders(stored, Anyone()) as stub:
        for _ in range(3):
            await stub.CreateOrder(create())
        claimed = await WorkStore(stored, name="gone", lease=timedelta(0)).claim(2)
        assert await sweep(stub, uuid.uuid4()) == "2 orders are pending again, as their workers are gone"
        assert await sweep(stub, uuid.uuid4()) == "0 orders are pending again, as their workers are gone"
    assert len(claimed) == 2
    assert await states(stored) == {"PENDING": 3}


async def test_sync_fails_as_its_run_does(syncing: Syncing) -> None:
    stub = await syncing.service(Provider("it says no").connect)
    with pytest.raises(TaskFailed, match=r"is FAILED after scim: 0 users.*it says no"):
        await pull(stub, "scim", uuid.uuid4())
