"""Schemas are made once, however many replicas start together, and cheaply found to be new."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from mesh import Code, Error
from services import database
from services.database import DatabaseSettings
from services.migrations import migrate, newest
from services.order import store as orders
from services.sync import store as syncs

SCHEMAS = [(orders.SCHEMA, orders.MIGRATIONS), (syncs.SCHEMA, syncs.MIGRATIONS)]


@pytest.mark.parametrize(("schema", "folder"), SCHEMAS, ids=["orders", "sync"])
async def test_four_replicas_that_start_together_migrate_once(
    database_settings: DatabaseSettings, schema: str, folder: Path
) -> None:
    async def replica() -> bool:
        async with database.connect(database_settings) as connected:
            return await migrate(connected, database_settings, schema, folder)

    await asyncio.gather(*(replica() for _ in range(4)))
    async with database.connect(database_settings) as connected:
        rows = await connected.fetch(f'SELECT version_num FROM "{schema}".alembic_version')
        assert [row["version_num"] for row in rows] == [newest(folder)]
        assert not await migrate(connected, database_settings, schema, folder)


async def test_a_failed_revision_leaves_nothing_behind(
    database_settings: DatabaseSettings, tmp_path: Path
) -> None:
    source = orders.MIGRATIONS / "r0001_orders.py"
    (tmp_path / "r0001_orders.py").write_text(source.read_text())
    (tmp_path / "r0001_orders.sql").write_text("CREATE TABLE orders.half (id int); SELECT broken;")
    async with database.connect(database_settings) as connected:
        with pytest.raises(Exception, match="broken"):
            await migrate(connected, database_settings, "orders", tmp_path)
        assert not await connected.fetch("SELECT 1 FROM information_schema.tables WHERE table_schema = 'orders'")
        assert await migrate(connected, database_settings, "orders", orders.MIGRATIONS)


async def test_a_schema_of_a_newer_program_is_told_in_one_line(
    database_settings: DatabaseSettings, valkey_url: str
) -> None:
    async with database.connect(database_settings) as connected:
        await migrate(connected, database_settings, syncs.SCHEMA, syncs.MIGRATIONS)
        await connected.fetch("UPDATE sync.alembic_version SET version_num = 'r9999_future'")
        with pytest.raises(Error, match="at revision r9999_future") as caught:
            await migrate(connected, database_settings, syncs.SCHEMA, syncs.MIGRATIONS)
        assert caught.value.code is Code.FAILED_PRECONDITION
    environ = os.environ | {"DATABASE_URL": database_settings.url, "REDIS_URL": valkey_url}
    service = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.sync", env=environ, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(20):
        _, told = await service.communicate()
    assert (service.returncode, told.decode().splitlines()[-1]) == (1, str(caught.value))


def add(folder: Path, name: str, before: str | None, statement: str) -> None:
    """One more revision."""
    (folder / f"{name}.sql").write_text(statement)
    (folder / f"{name}.py").write_text(
        f"from services.migrations import run\nrevision, down_revision = {name!r}, {before!r}\n"
        "def upgrade():\n    run(__file__)\n"
    )


@pytest.mark.parametrize(
    "held", [f"SELECT pg_advisory_xact_lock({zlib.crc32(b'shed')})", "LOCK TABLE shed.things IN SHARE MODE"]
)
async def test_who_holds_up_a_revision_is_told(database_settings: DatabaseSettings, tmp_path: Path, held: str) -> None:
    async with database.connect(database_settings) as connected:
        add(tmp_path, "r1", None, "CREATE TABLE shed.things (id integer)")
        await migrate(connected, database_settings, "shed", tmp_path)
        add(tmp_path, "r2", "r1", "ALTER TABLE shed.things ADD COLUMN more integer")
        async with connected.transaction() as holder:
            await holder.execute(held)
            with pytest.raises(Error, match=f"pid {holder.get_server_pid()}, idle in transaction") as caught:
                await migrate(connected, database_settings, "shed", tmp_path, lock_seconds=0.05)
        assert (caught.value.code, caught.value.reason) == (Code.UNAVAILABLE, "SCHEMA_LOCKED")
        assert held in caught.value.message
        assert await migrate(connected, database_settings, "shed", tmp_path)


def test_a_service_does_not_import_alembic_or_an_http_client_to_start() -> None:
    script = (
        "import sys, services.order.__main__, services.sync.__main__;"
        "print([name for name in ('alembic', 'sqlalchemy', 'aiohttp') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
