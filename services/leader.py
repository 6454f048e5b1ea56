"""One leader among the replicas of a service: who holds an advisory lock of Postgres on a connection of its own.

Postgres gives the lock up the moment that connection ends, so a leader that dies is followed at once; a leader that
loses the connection stops its work. Between the two there may be a moment with two leaders: what they write must bear
it. The lock needs a session, so DATABASE_URL must not lead through a pooler that shares sessions between transactions.
"""

from __future__ import annotations

import logging
import zlib
from typing import TYPE_CHECKING, Any

import asyncpg

from mesh import Error
from mesh.recovery import Backoff, Failures, sleep
from mesh.scope import Scope, first_error
from services.database import translated, until_lost

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from services.database import Database

    Work = Callable[[], Coroutine[Any, Any, None]]

CHECK_SECONDS = 1.0
"""How often others try to take the lead over, and a leader asks its connection whether it lives."""

ANSWER_SECONDS = 5.0
"""A leader whose connection does not answer for so long has lost the lead."""

_TRY = "SELECT pg_try_advisory_lock($1)"
_AGAIN = Backoff(first_seconds=0.2, limit_seconds=5.0)
_log = logging.getLogger(__name__)


async def lead(database: Database, name: str, work: Work) -> None:
    """Do the work whenever this process leads, until cancelled; what fails in Postgres is tried again.

    `name` tells leads apart in one database. The work is cancelled when the lead is lost.
    """
    failures = Failures()
    while True:
        try:
            await _campaign(database, name, work, failures)
            _log.warning("%s: the lead is lost with its connection", name)
        except* (Error, OSError, asyncpg.PostgresError) as failed:
            _log.warning("%s: %s", name, str(first_error(failed))[:1000])
        await failures.wait(_AGAIN)


async def _campaign(database: Database, name: str, work: Work, failures: Failures) -> None:
    """Wait for the lead, then do the work until it is lost."""
    connection = await database.listener()
    try:
        while not await _is_won(connection, name):
            await sleep(CHECK_SECONDS)
        failures.reset()
        _log.info("%s: this process leads", name)
        async with Scope() as scope:
            scope.start(work(), name=name)
            await until_lost(connection, CHECK_SECONDS, ANSWER_SECONDS)
    finally:
        connection.terminate()


async def _is_won(connection: asyncpg.Connection[asyncpg.Record], name: str) -> bool:
    with translated():
        return bool(await connection.fetchval(_TRY, zlib.crc32(name.encode()), timeout=ANSWER_SECONDS))
