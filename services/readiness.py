"""A service whose Postgres stays away leaves the rotation, and comes back with it.

Callers then go to instances that do reach it. Where none does, as while Postgres restarts, it is better to stay: what
needs no Postgres is still served, and the rest is told UNAVAILABLE with the time to come back. So an instance leaves
only after a while, and each after a while of its own. That is readiness, which the empty name of the health service
says; a service's own name there says that the process lives, whatever Postgres does.
"""

from __future__ import annotations

import logging
import random
from typing import TYPE_CHECKING

import asyncpg

from mesh import Error, Server, Serving
from mesh.recovery import now, sleep
from services.database import translated

if TYPE_CHECKING:
    from collections.abc import Callable

    from services.database import Database

CHECK_SECONDS = 1.0
ANSWER_SECONDS = 5.0

_log = logging.getLogger(__name__)


async def follow(server: Server, database: Database, patience_seconds: float) -> None:
    """Have a server say NOT_SERVING while Postgres is away for longer than the patience, until cancelled.

    The patience is drawn from once to twice `patience_seconds`.
    """

    def tell(ready: bool) -> None:
        server.health.set("", Serving.SERVING if ready else Serving.NOT_SERVING)

    await watch(database, tell, patience_seconds * (1 + random.random()))


async def watch(
    database: Database, tell: Callable[[bool], None], patience_seconds: float, *, check_seconds: float = CHECK_SECONDS
) -> None:
    """Call `tell` whenever a service becomes unready or ready again, until cancelled.

    Postgres is asked on a connection of its own, as a pool in full use says nothing about Postgres.
    """
    probe = _Probe(database)
    ready, last = True, now()
    try:
        while True:
            answered = await probe.answers()
            last = now() if answered else last
            before, ready = ready, is_ready(ready, answered, now() - last, patience_seconds)
            if ready is not before:
                _log.warning("%s", "ready again" if ready else "not ready, as Postgres stays away")
                tell(ready)
            await sleep(check_seconds)
    finally:
        probe.close()


def is_ready(ready: bool, answered: bool, silent_seconds: float, patience_seconds: float) -> bool:
    """Whether a service is ready now, by whether it was so before, and when Postgres answered last. Pure."""
    return answered or (ready and silent_seconds <= patience_seconds)


class _Probe:
    """Asks Postgres whether it answers."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._connection: asyncpg.Connection[asyncpg.Record] | None = None
        self._answered = True

    async def answers(self) -> bool:
        """Ask. An error is an answer as well: no; it is logged when it is the first."""
        try:
            with translated():
                self._connection = self._connection or await self._database.listener()
                await self._connection.fetchval("SELECT 1", timeout=ANSWER_SECONDS)
        except (Error, asyncpg.PostgresError) as error:
            self.close()
            if self._answered:
                _log.warning("Postgres does not answer: %s", error)
            self._answered = False
        else:
            self._answered = True
        return self._answered

    def close(self) -> None:
        """Drop the connection; the next question makes another."""
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None
