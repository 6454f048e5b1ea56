"""Runs of the sync service on a Postgres that is slow, breaks off, or has others at the same rows."""

from __future__ import annotations

import asyncio
import dataclasses
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from mesh.recovery import Backoff
from mesh.scope import Scope
from services import database
from services.notices import Notices
from services.sync.chain import OVERLAP
from services.sync.model import ATTEMPTS, TRANSITIONS, Profile, Run, State
from services.sync.provider_settings import ProviderSettings
from services.sync.pull import BATCH
from services.sync.scim import Page
from services.sync.store import CHANNEL, RunStore
from services.sync.worker import Worker
from tests.fixtures.shop import until

if TYPE_CHECKING:
    from services.database import Database, DatabaseSettings

WAIT_SECONDS = 60
SLOW_SECONDS = 0.3
PAGE = BATCH // 2 + OVERLAP
STUCK = "SELECT pid FROM pg_stat_activity WHERE application_name = 'worker' AND wait_event_type = 'Lock'"
STUCK_FOR_LONG = f"{STUCK} AND now() - query_start > make_interval(secs => {2 * SLOW_SECONDS})"
LONG_LEASE = "UPDATE sync.runs SET lease_expires = now() + interval '1 hour'"
OUT_OF_TIME = """
CREATE FUNCTION public.nap() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(5); RETURN NEW; END';
CREATE TRIGGER nap BEFORE INSERT ON sync.users FOR EACH ROW EXECUTE FUNCTION public.nap();
"""

USER = """
INSERT INTO sync.users (provider, match_key, external_id, user_name, display_name, email, phone, active)
VALUES ('scim', $1, '', $2, '', '', '', true)
"""
FIRST = "SELECT FROM sync.users ORDER BY match_key LIMIT 1 FOR UPDATE"
OTHERS = "SELECT FROM sync.users ORDER BY match_key OFFSET 1 FOR UPDATE NOWAIT"


async def nothing() -> None:
    """As what is done before a page."""


class Ada:
    """A provider with one user; something may be done before it is asked for the second time."""

    def __init__(self, then: Callable[[], Coroutine[None, None, None]] = nothing) -> None:
        self._before = [nothing, then]

    async def fetch(self, index: int, count: int) -> Page:
        """The only page."""
        await (self._before.pop(0) if self._before else nothing)()
        return Page(index=index, total=1, entries=(Profile(user_name="ada"),))

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Ada]:
        """As the worker opens a provider."""
        yield self


@asynccontextmanager
async def working(settings: DatabaseSettings, ada: Ada, *, timeout: float = SLOW_SECONDS) -> AsyncIterator[None]:
    """A worker with a timeout for its statements, over connections of its own."""
    own = dataclasses.replace(settings, application_name="worker", statement_timeout_seconds=timeout)
    async with database.connect(own) as connected, Scope() as scope:
        notices = Notices(connected, CHANNEL)
        scope.start(notices.run())
        worker = Worker(
            RunStore(connected), notices, ProviderSettings(page_size=PAGE), ada.connect, name="w", changed=lambda: None,
            again=Backoff(first_seconds=0.01, limit_seconds=0.01),
        )  # fmt: skip
        scope.start(worker.run())
        yield


async def started(stored: Database) -> Run:
    """A new run."""
    run, _ = await RunStore(stored).start(uuid.uuid4(), "scim")
    return run


async def ended(stored: Database, run: Run) -> Run:
    """A run that has ended."""
    runs = RunStore(stored)

    async def is_over() -> bool:
        found = await runs.get(run.id)
        return found is not None and TRANSITIONS.is_final(found.state)

    await until(is_over, seconds=WAIT_SECONDS)
    found = await runs.get(run.id)
    assert found is not None
    return found


async def test_a_run_that_comes_no_further_fails_with_the_reason_and_lets_others_go(
    stored: Database, database_settings: DatabaseSettings
) -> None:
    async with stored.connection() as connection:
        await connection.execute(OUT_OF_TIME)
    run = await started(stored)
    async with working(database_settings, Ada()):
        failed = await ended(stored, run)
        assert failed.state is State.FAILED
        assert failed.error.startswith(f"given up after {ATTEMPTS} attempts that came no further: DEADLINE_EXCEEDED")
        await stored.fetch("DROP TRIGGER nap ON sync.users")
        assert (await ended(stored, await started(stored))).state is State.SUCCEEDED


async def test_what_is_about_all_users_may_take_longer_than_a_statement(
    stored: Database, database_settings: DatabaseSettings
) -> None:
    begun, over = asyncio.Event(), asyncio.Event()

    async def held_up() -> None:
        begun.set()
        await over.wait()

    run = await started(stored)
    async with working(database_settings, Ada(held_up)):
        await begun.wait()
        async with stored.transaction() as connection:
            await connection.execute("LOCK TABLE sync.seen IN ACCESS EXCLUSIVE MODE")
            over.set()
            await until(lambda: found(stored, STUCK_FOR_LONG))
        last = await ended(stored, run)
        assert (last.state, last.attempts) == (State.SUCCEEDED, 0), "nothing had to be tried again"


async def test_a_run_whose_connection_breaks_goes_on_at_once_with_the_same_worker(
    stored: Database, database_settings: DatabaseSettings
) -> None:
    run = await started(stored)
    async with stored.connection() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("LOCK TABLE sync.users IN SHARE MODE")
        async with working(database_settings, Ada(), timeout=30):
            await until(lambda: found(stored, STUCK))
            await stored.fetch(LONG_LEASE)
            assert await found(stored, STUCK.replace("pid", "pg_terminate_backend(pid)"))
            await transaction.rollback()
            assert (await ended(stored, run)).state is State.SUCCEEDED


async def test_pages_that_came_together_are_stored_in_batches(
    stored: Database, database_settings: DatabaseSettings
) -> None:
    """Large pages, all but the first of which are there at once."""
    people = [Profile(user_name=f"user{number:05}") for number in range(6 * PAGE - 5 * OVERLAP)]
    left, all_there = [1] * 4, asyncio.Event()

    class Many(Ada):
        async def fetch(self, index: int, count: int) -> Page:
            if 1 < index < PAGE:
                await all_there.wait()
            elif left and index > PAGE:
                left.pop()
            if not left:
                all_there.set()
            return Page(index=index, total=len(people), entries=tuple(people[index - 1 : index - 1 + count]))

    run = await started(stored)
    async with working(database_settings, Many(), timeout=30):
        assert (await ended(stored, run)).counts.created == len(people)
    batches = await stored.fetch("SELECT count(*) AS size FROM sync.users GROUP BY create_time ORDER BY create_time")
    assert [row["size"] for row in batches] == [PAGE, *[2 * (PAGE - OVERLAP)] * 2, PAGE - OVERLAP]


NUMBERS = range(20)
Batch = Callable[[RunStore, Run], Coroutine[None, None, None]]


async def store(runs: RunStore, run: Run, profiles: Iterable[Profile]) -> None:
    """As if a provider had no others."""
    page = Page(index=1, total=len(NUMBERS), entries=tuple(profiles))
    await runs.store(run, "w", *run.chain.join(page))


async def changed(runs: RunStore, run: Run) -> None:
    await store(runs, run, (Profile(user_name=f"new{n:02}", external_id=f"{n:02}") for n in reversed(NUMBERS)))


async def adopted(runs: RunStore, run: Run) -> None:
    await store(runs, run, (Profile(user_name=f"old{n:02}", external_id=f"{99 - n}") for n in reversed(NUMBERS)))


async def deactivated(runs: RunStore, run: Run) -> None:
    assert await runs.deactivate(run, "w") == len(NUMBERS)


@pytest.mark.parametrize(("key", "batch"), [("e:{:02}", changed), ("u:old{:02}", adopted), ("u:old{:02}", deactivated)])
async def test_batches_lock_users_in_the_order_of_their_keys(
    stored: Database, database_settings: DatabaseSettings, key: str, batch: Batch
) -> None:
    """So that none that waits for another one holds what that wants."""
    for number in reversed(NUMBERS):
        await stored.fetch(USER, key.format(number), f"old{number:02}")
    await started(stored)
    own = dataclasses.replace(database_settings, application_name="worker", statement_timeout_seconds=30)
    async with database.connect(own) as connected, Scope() as scope:
        runs = RunStore(connected)
        run = await runs.claim("w", "scim")
        assert run is not None
        async with stored.transaction() as other:
            await other.execute(FIRST)
            written = scope.start(batch(runs, run))
            await until(lambda: found(stored, STUCK))
            assert len(await other.fetch(OTHERS)) == len(NUMBERS) - 1
        await written


async def found(stored: Database, query: str) -> bool:
    """Whether a query finds anything."""
    return bool(await stored.fetch(query))
