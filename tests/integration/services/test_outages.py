"""What runs beside the calls of a service outlives a Postgres that restarts, breaks off or takes no writes."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

import asyncpg
import pytest

from mesh import Error
from mesh.scope import Scope
from services import database, totals
from services.database import Database, DatabaseSettings
from services.migrations import migrate
from services.notices import Notices
from services.order import store as order_store
from services.order.model import Order, Outcome
from services.order.store import OrderStore, WorkStore
from services.order.wire import draft
from services.order.work import completed
from services.order.worker import Worker as OrderWorker
from services.order.worker import WorkSettings
from services.settings import RedisSettings
from services.sync import store
from services.sync.model import TRANSITIONS, Profile, State
from services.sync.provider_settings import ProviderSettings
from services.sync.scim import Page
from services.sync.store import CHANNEL, RunStore, UserStore
from services.sync.worker import Worker
from services.totals import Totals
from tests.contract.steps import eventually
from tests.fixtures.orders import create, states
from tests.fixtures.stores import OwnPostgres, closed, copy

if TYPE_CHECKING:
    from pathlib import Path
    from uuid import UUID

WAIT_SECONDS = 60


class Ada:
    """A provider with one user."""

    async def fetch(self, index: int, count: int) -> Page:
        """The only page."""
        return Page(index=index, total=1, entries=(Profile(user_name="ada"),))

    @classmethod
    @asynccontextmanager
    async def connect(cls) -> AsyncIterator[Ada]:
        """As the worker opens a provider."""
        yield cls()


def worker(runs: RunStore, notices: Notices) -> Worker:
    return Worker(runs, notices, ProviderSettings(page_size=9), Ada.connect, name="w", changed=lambda: None)


async def started(runs: RunStore) -> UUID:
    """A new run, as soon as the database takes one: connections of before may break first."""
    while True:
        try:
            run, _ = await runs.start(uuid.uuid4(), "scim")
        except Error:
            await asyncio.sleep(0)
        else:
            return run.id


async def ended(runs: RunStore, notices: Notices, run_id: UUID) -> State:
    """The final state of a run."""
    with notices.following(str(run_id)) as event:
        while (run := await runs.get(run_id)) is None or not TRANSITIONS.is_final(run.state):
            await event.wait()
            event.clear()
    return run.state


class Held:
    """Completes orders when it is let."""

    def __init__(self) -> None:
        self.begun, self.let = asyncio.Event(), asyncio.Event()

    async def fulfil(self, orders: Sequence[Order]) -> Sequence[Outcome]:
        """All of them."""
        self.begun.set()
        await self.let.wait()
        return [completed(order) for order in orders]


async def test_orders_in_hand_are_worked_off_after_a_restart(own_postgres: OwnPostgres) -> None:
    settings = DatabaseSettings(url=own_postgres.url, application_name="test")
    async with asyncio.timeout(WAIT_SECONDS), database.connect(settings) as stored, Scope() as scope:
        await migrate(stored, settings, order_store.SCHEMA, order_store.MIGRATIONS)
        drafts = sorted((draft(create()) for _ in range(20)), key=lambda one: one.request_id)
        await OrderStore(stored).insert_all(drafts, lambda _: None)
        held, work = Held(), WorkStore(stored, name="w", lease=timedelta(seconds=1))
        scope.start(OrderWorker(work, held, WorkSettings(poll_seconds=0.02), lambda: None).run())
        await held.begun.wait()
        await own_postgres.stop()
        held.let.set()
        await own_postgres.start()
        found: Counter[str] = Counter()
        while found != {"COMPLETED": 20}:
            with suppress(Error):
                found = await states(stored)
            await asyncio.sleep(0.02)


async def test_all_goes_on_after_a_restart(own_postgres: OwnPostgres, valkey_url: str) -> None:
    settings = DatabaseSettings(url=own_postgres.url, application_name="test")
    async with (
        asyncio.timeout(WAIT_SECONDS),
        database.connect(settings) as stored,
        RedisSettings(url=valkey_url).client() as redis,
        Scope() as scope,
    ):
        await migrate(stored, settings, store.SCHEMA, store.MIGRATIONS)
        runs, notices = RunStore(stored), Notices(stored, CHANNEL, check_seconds=0.001)
        counts = Totals(redis, "users", UserStore(stored).totals)
        for work in (notices.run(), worker(runs, notices).run(), counts.run()):
            scope.start(work)
        with notices.following("any") as listening:
            await listening.wait()
            listening.clear()
            await own_postgres.stop()
            counts.changed()
            await own_postgres.start()
            await listening.wait()
        assert await ended(runs, notices, await started(runs)) is State.SUCCEEDED
        while await totals.read(redis, "users") != {"users": 1}:
            counts.changed()


@pytest.mark.parametrize("words", [b"LISTEN", b"SELECT 1"])
async def test_listening_outlives_a_connection_that_breaks_under_it(
    stored: Database, database_url: str, stores_folder: Path, tmp_path: Path, words: bytes
) -> None:
    """As when Postgres ends while it has something to answer."""
    socket, broken = stores_folder / ".s.PGSQL.5432", asyncio.Event()
    real = database_url.partition("?host=")[0]
    relays: set[asyncio.Task[None]] = set()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        relays.add(task)
        from_server, to_server = await asyncio.open_unix_connection(socket)
        try:
            async with Scope() as scope:
                scope.start(copy(from_server, writer))
                while said := await reader.read(65536):
                    if words in said and not broken.is_set():
                        broken.set()
                        break
                    to_server.write(said)
        finally:
            await closed(to_server, writer)

    server = await asyncio.start_unix_server(relay, tmp_path / ".s.PGSQL.5432")
    settings = DatabaseSettings(url=f"{real}?host={tmp_path}", application_name="test")
    async with asyncio.timeout(WAIT_SECONDS), server, Scope() as scope:
        notices = Notices(Database(None, settings), CHANNEL, check_seconds=0.001)  # type: ignore[arg-type]
        scope.start(notices.run())
        with notices.following("key") as event:
            await broken.wait()
            event.clear()
            await event.wait()
            event.clear()
            await stored.fetch("SELECT pg_notify($1, 'key')", CHANNEL)
            await event.wait()
    for task in relays:
        task.cancel()
    await asyncio.gather(*relays, return_exceptions=True)


async def test_runs_wait_while_the_database_takes_no_writes(
    stored: Database, database_settings: DatabaseSettings, caplog: pytest.LogCaptureFixture
) -> None:
    runs, notices = RunStore(stored), Notices(stored, CHANNEL)
    run, _ = await runs.start(uuid.uuid4(), "scim")
    (row,) = await stored.fetch("SELECT current_database() AS name")
    read_only = partial("ALTER DATABASE {} SET default_transaction_read_only = {}".format, row["name"])
    await stored.fetch(read_only("on"))
    async with (
        asyncio.timeout(WAIT_SECONDS),
        database.connect(database_settings) as standby,
        Scope() as scope,
    ):
        scope.start(notices.run())
        scope.start(worker(RunStore(standby), notices).run())
        await eventually(lambda: "runs wait: cannot execute UPDATE in a read-only transaction" in caplog.text)
        await stored.fetch(read_only("off"))
        await standby._pool.expire_connections()
        assert await ended(runs, notices, run.id) is State.SUCCEEDED


async def test_totals_wait_while_they_cannot_be_counted(
    database_settings: DatabaseSettings, valkey_url: str
) -> None:
    failed = asyncio.Event()
    async with (
        asyncio.timeout(WAIT_SECONDS),
        database.connect(database_settings) as connected,
        RedisSettings(url=valkey_url).client() as redis,
        Scope() as scope,
    ):

        async def count() -> Mapping[str, int]:
            try:
                return await UserStore(connected).totals()
            except asyncpg.UndefinedTableError:
                failed.set()
                raise

        counts = Totals(redis, "users", count)
        scope.start(counts.run())
        await failed.wait()
        await migrate(connected, database_settings, store.SCHEMA, store.MIGRATIONS)
        counts.changed()
        while await totals.read(redis, "users") != {"users": 0}:
            pass
