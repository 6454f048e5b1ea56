"""What callers see of a Postgres that is slow, full, gone or back."""

from __future__ import annotations

import asyncio
import dataclasses
import uuid

import asyncpg
import pytest

from mesh import Code, Error, deadline
from meshwright.sync.v1.sync_service_pb2 import GetUserRequest, StartSyncRequest, WatchSyncRequest
from services import database
from services.database import Database, DatabaseSettings, queries
from services.order import store
from tests.fixtures.services import Syncing, refusal, request_id
from tests.fixtures.stores import OwnPostgres

SLEEPING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
TERMINATE = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'test'"


async def test_a_slow_statement_is_ended(database_settings: DatabaseSettings) -> None:
    impatient = dataclasses.replace(database_settings, statement_timeout_seconds=0.05)
    async with database.connect(impatient) as connected:
        with pytest.raises(Error) as caught:
            await connected.fetch("SELECT pg_sleep(20)")
    assert (caught.value.code, caught.value.reason) == (Code.DEADLINE_EXCEEDED, "DATABASE_SLOW")


async def test_a_statement_has_no_more_time_than_the_call_in_hand(stored: Database) -> None:
    with deadline.limit(0.05), pytest.raises(Error) as caught:
        await stored.fetch("SELECT pg_sleep(20)")
    assert caught.value.code is Code.DEADLINE_EXCEEDED


async def test_a_pool_that_stays_full_is_unavailable(database_settings: DatabaseSettings) -> None:
    small = dataclasses.replace(database_settings, pool_size=1, connect_timeout_seconds=0.5)
    async with database.connect(small) as connected, connected.connection():
        with pytest.raises(Error) as caught:
            await connected.fetch("SELECT 1")
    assert (caught.value.code, caught.value.retry_after_seconds) == (Code.UNAVAILABLE, 1)


async def test_an_error_of_a_statement_itself_goes_on_as_it_is(stored: Database) -> None:
    with pytest.raises(asyncpg.UndefinedTableError):
        await stored.fetch("SELECT * FROM nowhere")


@pytest.mark.parametrize(("values", "kind"), [((2**40,), asyncpg.DataError), ((1, 2), asyncpg.InterfaceError)])
async def test_values_that_cannot_be_sent_are_the_callers_fault_not_the_databases(
    stored: Database, values: tuple[int, ...], kind: type[Exception]
) -> None:
    with pytest.raises(kind):
        await stored.fetch("SELECT $1::int", *values)


async def test_a_pool_that_is_closed_is_unavailable(database_settings: DatabaseSettings) -> None:
    async with database.connect(database_settings) as connected:
        pass
    with pytest.raises(Error) as caught:
        await connected.fetch("SELECT 1")
    assert caught.value.code is Code.UNAVAILABLE


async def test_after_losing_every_connection_calls_and_watches_go_on(
    syncing: Syncing, database_url: str, stored: Database
) -> None:
    stub = await syncing.service(None)
    run = await stub.StartSync(StartSyncRequest(request_id=request_id()))
    watch = stub.WatchSync(WatchSyncRequest(id=run.id))
    async with asyncio.timeout(20):
        await watch.read()
    await _terminate(database_url)
    missing = GetUserRequest(id=str(uuid.uuid4()))
    codes = [(await refusal(stub.GetUser(missing))).code for _ in range(20)]
    assert set(codes) <= {Code.UNAVAILABLE, Code.NOT_FOUND}
    assert codes[-1] is Code.NOT_FOUND
    watch.cancel()


async def test_reads_and_what_was_not_sent_wait_for_a_postgres_that_restarts(own_postgres: OwnPostgres) -> None:
    settings = DatabaseSettings(url=own_postgres.url, application_name="test")
    async with asyncio.timeout(30), database.connect(settings) as connected:
        await connected.fetch("SELECT 1")
        with deadline.limit(20):
            under_way = asyncio.ensure_future(connected.fetchrow("SELECT 7 AS it FROM pg_sleep(0.5)"))
            await until_active(own_postgres.url)
            await own_postgres.stop()
            read = asyncio.ensure_future(connected.fetchrow("SELECT 8 AS it"))
            write = asyncio.ensure_future(connected.fetch("CREATE TABLE made (it int)"))
            await asyncio.sleep(0)
            await own_postgres.start()
            assert [tuple(row or ()) for row in await asyncio.gather(under_way, read)] == [(7,), (8,)]
            assert await write == []


async def test_a_write_that_was_sent_is_not_sent_again(own_postgres: OwnPostgres) -> None:
    settings = DatabaseSettings(url=own_postgres.url, application_name="test")
    async with asyncio.timeout(30), database.connect(settings) as connected:
        await connected.fetch("CREATE TABLE made (it int)")
        insert = "INSERT INTO made SELECT 1 FROM pg_sleep(20) RETURNING it"
        under_way = asyncio.ensure_future(connected.fetch(insert))
        await until_active(own_postgres.url)
        await own_postgres.stop()
        with pytest.raises(Error) as caught:
            await under_way
        assert caught.value.code is Code.UNAVAILABLE


async def test_a_database_that_stays_away_is_unavailable_before_the_deadline(own_postgres: OwnPostgres) -> None:
    settings = DatabaseSettings(url=own_postgres.url, application_name="test")
    async with asyncio.timeout(30), database.connect(settings) as connected:
        await own_postgres.stop()
        with deadline.limit(0.5), pytest.raises(Error) as caught:
            await connected.fetch("SELECT 1")
        assert caught.value.code is Code.UNAVAILABLE
        with pytest.raises(Error):
            await connected.ping()


async def until_active(url: str) -> None:
    """Until a statement that sleeps is under way."""
    connection = await asyncpg.connect(url)
    try:
        while not await connection.fetchval(SLEEPING):  # noqa: ASYNC110 (it is a matter of another process)
            await asyncio.sleep(0.01)
    finally:
        await connection.close()


async def _terminate(url: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute(TERMINATE)
    await connection.close()


def test_statements_are_found_by_name_and_stand_on_one_line() -> None:
    found = queries(store.MIGRATIONS.with_name("queries.sql"))
    assert found["by_id"] == "SELECT * FROM orders.orders WHERE id = $1"
