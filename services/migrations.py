"""Brings a service's schema to its newest revision, once, however many replicas start together.

Revisions are Alembic's; each is a .py file that names its predecessor beside a .sql file that holds its statements.
They go forward only. Where there is nothing to do, neither Alembic nor SQLAlchemy is imported: that would be most of
what a service takes to start.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg

from mesh import Code, Error
from services.database import translated

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection
    from sqlalchemy.exc import DBAPIError

    from services.database import Database, DatabaseSettings

VERSION_TABLE = "alembic_version"

LOCK_SECONDS = 60.0
"""How long a revision waits for others who use the schema, and an instance for another one that migrates."""

_IS_THERE = "SELECT to_regclass($1) IS NOT NULL AS there"
_VERSION = f'SELECT version_num FROM "{{schema}}".{VERSION_TABLE}'
_LOCK = "SELECT pg_advisory_xact_lock({key})"
_LIMIT = "SET LOCAL lock_timeout = {milliseconds}"
_HOLDERS = """
SELECT DISTINCT ON (a.xact_start, a.pid) a.pid, a.application_name AS name, a.state,
    coalesce(extract(epoch FROM now() - a.xact_start), 0)::integer AS seconds, left(a.query, 100) AS query
FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid)
WHERE l.granted AND a.pid <> pg_backend_pid() AND a.datname = current_database()
    AND (l.relation IN (SELECT oid FROM pg_class WHERE relnamespace = to_regnamespace($1))
        OR (l.locktype = 'advisory' AND l.classid = 0 AND l.objid = $2::bigint::oid AND l.objsubid = 1))
ORDER BY a.xact_start, a.pid
LIMIT 3
"""
_CREATE = 'CREATE SCHEMA IF NOT EXISTS "{schema}"'


async def migrate(
    database: Database, settings: DatabaseSettings, schema: str, folder: Path, *, lock_seconds: float = LOCK_SECONDS
) -> bool:
    """Apply what is missing in `schema`; tells whether anything was.

    Raises FAILED_PRECONDITION for a schema that a newer program made, UNAVAILABLE when a lock could not be had in
    `lock_seconds`, with who holds it, what `Database` does when Postgres cannot be reached, and what Postgres says
    about a bad revision.
    """
    version = await _version(database, schema)
    if version == newest(folder):
        return False
    if version and version not in revisions(folder):
        raise _too_new(schema, version, newest(folder))
    try:
        await _upgrade(settings, schema, folder, lock_seconds)
    except Exception as error:
        if not _waited(error):
            raise
        raise _locked(schema, lock_seconds, await database.fetch(_HOLDERS, schema, _key(schema))) from None
    return True


def newest(folder: Path) -> str:
    """The last revision in a folder."""
    return revisions(folder)[-1]


def revisions(folder: Path) -> list[str]:
    """Names of the revisions in a folder, which sort in their order."""
    return sorted(path.stem for path in folder.glob("r*.py"))


def statements(revision: str) -> str:
    """What the .sql file beside a revision's .py file says; for use in `upgrade`."""
    return Path(revision).with_suffix(".sql").read_text("utf-8")


def run(revision: str) -> None:
    """Run the .sql file beside a revision's .py file; for use in `upgrade`."""
    from alembic import op

    text = statements(revision)
    connection: Any = op.get_bind().connection.dbapi_connection
    connection.run_async(lambda raw: raw.execute(text))


async def _version(database: Database, schema: str) -> str:
    """The revision that a schema has; empty for none. Asks for the table first, as Postgres logs every error."""
    found = await database.fetchrow(_IS_THERE, f'"{schema}".{VERSION_TABLE}')
    if found is None or not found["there"]:
        return ""
    row = await database.fetchrow(_VERSION.format(schema=schema))
    return row["version_num"] if row else ""


def _too_new(schema: str, version: str, newest: str) -> Error:
    return Error(
        Code.FAILED_PRECONDITION,
        f"the schema {schema} is at revision {version}, which this program does not know (its newest is {newest}): "
        "run a program as new as the one that made it, or give DATABASE_URL another database",
        reason="SCHEMA_TOO_NEW",
        metadata={"schema": schema, "version": version, "newest": newest},
    )


def _waited(error: BaseException | None) -> bool:
    """Whether it is about a lock, as asyncpg says it, or SQLAlchemy in its place."""
    return error is not None and (isinstance(error, asyncpg.LockNotAvailableError) or _waited(error.__cause__))


def _locked(schema: str, seconds: float, holders: Sequence[asyncpg.Record]) -> Error:
    """In the words of `pg_stat_activity`; who holds it may have gone meanwhile."""
    named = "; ".join(
        f"{one['name'] or 'no name'} (pid {one['pid']}, {one['state']}, for {one['seconds']} s): "
        f"{' '.join(one['query'].split())}"
        for one in holders
    )
    return Error(
        Code.UNAVAILABLE,
        f"the schema {schema} could not be brought up to date, as others held its locks for {seconds:g} s: "
        f"{named or 'nobody any more'}. Wait for them, or end them (SELECT pg_terminate_backend(pid)), and start again",
        reason="SCHEMA_LOCKED",
        metadata={"schema": schema},
    )


def _key(schema: str) -> int:
    """The advisory lock of whoever brings a schema up to date."""
    return zlib.crc32(schema.encode())


async def _upgrade(settings: DatabaseSettings, schema: str, folder: Path, lock_seconds: float) -> None:
    from sqlalchemy.exc import DBAPIError
    from sqlalchemy.ext.asyncio import create_async_engine
    from sqlalchemy.pool import NullPool

    async def creator() -> Any:
        return await asyncpg.connect(settings.url, timeout=settings.connect_timeout_seconds)

    engine = create_async_engine("postgresql+asyncpg://", async_creator=creator, poolclass=NullPool)
    with translated():
        try:
            async with engine.begin() as connection:
                await connection.run_sync(_apply, schema, folder, lock_seconds)
        except DBAPIError as error:
            if broken := _broken(error):
                raise broken from None
            raise


def _broken(error: DBAPIError) -> BaseException | None:
    """What asyncpg said where the connection broke, which another one may mend."""
    return error.orig.__cause__ if error.connection_invalidated and error.orig else None


def _apply(connection: Connection, schema: str, folder: Path, lock_seconds: float) -> None:
    """In one transaction behind one lock, so that who comes second finds the work done."""
    from alembic.config import Config
    from alembic.runtime.environment import EnvironmentContext
    from alembic.script import ScriptDirectory

    connection.exec_driver_sql(_LIMIT.format(milliseconds=round(lock_seconds * 1000)))
    connection.exec_driver_sql(_LOCK.format(key=_key(schema)))
    connection.exec_driver_sql(_CREATE.format(schema=schema))
    script = ScriptDirectory(str(folder), version_locations=[str(folder)])
    context = EnvironmentContext(Config(), script, fn=lambda at, _: script._upgrade_revs("head", at))
    with context:
        context.configure(connection=connection, version_table=VERSION_TABLE, version_table_schema=schema)
        context.run_migrations()
