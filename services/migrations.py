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
    from sqlalchemy import Connection
    from sqlalchemy.exc import DBAPIError

    from services.database import Database, DatabaseSettings

VERSION_TABLE = "alembic_version"

_IS_THERE = "SELECT to_regclass($1) IS NOT NULL AS there"
_VERSION = f'SELECT version_num FROM "{{schema}}".{VERSION_TABLE}'
_LOCK = "SELECT pg_advisory_xact_lock({key})"
_CREATE = 'CREATE SCHEMA IF NOT EXISTS "{schema}"'


async def migrate(database: Database, settings: DatabaseSettings, schema: str, folder: Path) -> bool:
    """Apply what is missing in `schema`; tells whether anything was.

    Raises FAILED_PRECONDITION for a schema that a newer program made, what `Database` does when Postgres cannot be
    reached, and what Postgres says about a bad revision.
    """
    version = await _version(database, schema)
    if version == newest(folder):
        return False
    if version and version not in revisions(folder):
        raise _too_new(schema, version, newest(folder))
    await _upgrade(settings, schema, folder)
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


async def _upgrade(settings: DatabaseSettings, schema: str, folder: Path) -> None:
    from sqlalchemy.exc import DBAPIError
    from sqlalchemy.ext.asyncio import create_async_engine
    from sqlalchemy.pool import NullPool

    async def creator() -> Any:
        return await asyncpg.connect(settings.url, timeout=settings.connect_timeout_seconds)

    engine = create_async_engine("postgresql+asyncpg://", async_creator=creator, poolclass=NullPool)
    with translated():
        try:
            async with engine.begin() as connection:
                await connection.run_sync(_apply, schema, folder)
        except DBAPIError as error:
            raise _broken(error) or error from None


def _broken(error: DBAPIError) -> BaseException | None:
    """What asyncpg said where the connection broke, which another one may mend."""
    return error.orig.__cause__ if error.connection_invalidated and error.orig else None


def _apply(connection: Connection, schema: str, folder: Path) -> None:
    """In one transaction behind one lock, so that who comes second finds the work done."""
    from alembic.config import Config
    from alembic.runtime.environment import EnvironmentContext
    from alembic.script import ScriptDirectory

    connection.exec_driver_sql(_LOCK.format(key=zlib.crc32(schema.encode())))
    connection.exec_driver_sql(_CREATE.format(schema=schema))
    script = ScriptDirectory(str(folder), version_locations=[str(folder)])
    context = EnvironmentContext(Config(), script, fn=lambda at, _: script._upgrade_revs("head", at))
    with context:
        context.configure(connection=connection, version_table=VERSION_TABLE, version_table_schema=schema)
        context.run_migrations()
