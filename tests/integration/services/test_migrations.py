"""Schemas are made once, however many replicas start together, and cheaply found to be new."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import uuid
import zlib
from pathlib import Path

import pytest

from mesh import Code, Error
from services import database
from services.database import DatabaseSettings
from services.events.outbox import Outbox
from services.migrations import migrate, newest, revisions
from services.order import store as orders
from services.sync import store as syncs
from services.sync import wire
from services.sync.changes import SOURCE
from services.sync.store import RunStore, UserStore

USERS = """
INSERT INTO sync.users (provider, match_key, external_id, user_name, display_name, email, phone, active)
VALUES ('scim', 'e:' || $1, $1, $1::text, 'Ada', 'a@b.example', '+1', true)
"""
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


async def test_events_of_before_keep_their_bodies(database_settings: DatabaseSettings, tmp_path: Path) -> None:
    """Those about users move from jsonb to columns of their own."""
    for revision in revisions(syncs.MIGRATIONS):
        if revision < "r0005":
            for file in syncs.MIGRATIONS.glob(f"{revision}.*"):
                shutil.copy(file, tmp_path)
    async with database.connect(database_settings) as connected:
        await migrate(connected, database_settings, syncs.SCHEMA, tmp_path)
        await connected.fetch(USERS, "before")
        await RunStore(connected).start(uuid.uuid4(), "scim")
        await migrate(connected, database_settings, syncs.SCHEMA, syncs.MIGRATIONS)
        await connected.fetch(USERS, "after")
        await connected.fetch("UPDATE sync.users SET active = false, update_time = now()")
        outbox = Outbox(connected, SOURCE)
        await outbox.number(10)
        found = [(event.type, event.user.user_name, event.user.active) for event in await outbox.after(0, 10)]
        known = {user.profile.user_name: wire.user(user) for user in await UserStore(connected).page(
            provider="scim", after=None, limit=10
        )}  # fmt: skip
        said = {event.user.user_name: event.user for event in await outbox.after(3, 10)}
    assert found[:3] == [("user.created", "before", True), ("sync.created", "", False), ("user.created", "after", True)]
    assert sorted(found[3:]) == [("user.deactivated", "after", False), ("user.deactivated", "before", False)]
    assert said == known, "an event says all that the contract has"


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
