"""The log of one service's changes, in its schema of Postgres."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import asynccontextmanager
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeAlias

from google.protobuf.message import Message

from mesh import Code, Error
from meshwright.events.v1.event_pb2 import Event
from services.database import queries
from services.events.model import event_id
from services.timestamps import timestamp

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from datetime import datetime

    import asyncpg

    from services.database import Connection, Database

Bodies: TypeAlias = "Mapping[str, tuple[str, Callable[[asyncpg.Record], Message]]]"
"""First word of an event's type, which is also the field of its body: SQL of a row, and what makes a message of it."""

NUMBERING, PUBLISHING = 1, 2
"""What one process does at a time for all replicas."""

_SQL = queries(Path(__file__).with_name("outbox.sql"))


@dataclass(frozen=True, kw_only=True)
class Source:
    """Whose changes an outbox has."""

    service: str
    schema: str
    bodies: Bodies

    @property
    def channel(self) -> str:
        """Notices say `new` when changes wait for their numbers, and `numbered` when the log has grown."""
        return f"{self.schema}_outbox"


@dataclass(frozen=True, kw_only=True)
class Backlog:
    """Events that follow some number."""

    waiting: int
    """How many."""
    oldest: datetime | None
    """When the oldest was made; None when there is none."""
    last: int
    """The newest number of all."""


class Outbox:
    """Statements about one outbox. All methods raise what `Database` does."""

    def __init__(self, database: Database, source: Source) -> None:
        self.source = source
        self._database = database
        self._rows: Database | Connection = database
        bodies = ", ".join(_body(kind, row) for kind, (row, _) in source.bodies.items())
        self._sql = {name: text.format(schema=source.schema, bodies=bodies) for name, text in _SQL.items()}

    async def number(self, limit: int) -> int:
        """Give committed changes their numbers, the oldest first; how many. 0 as well while another process does it."""
        async with self.alone(NUMBERING) as own:
            if own is None:
                return 0
            row = await own._rows.fetchrow(self._sql["number"], limit)
            if row is None or not row["count"]:
                return 0
            await own._rows.fetchrow(self._sql["notify"])
            return int(row["count"])

    @asynccontextmanager
    async def alone(self, task: int) -> AsyncIterator[Self | None]:
        """The same in a transaction, over its connection, as the only process at a task; None when another one is."""
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(self._sql["lock"], task)
            if row and row["mine"]:
                own = copy(self)
                own._rows = connection
                yield own
            else:
                yield None

    async def last(self) -> int:
        """Number of the newest event; 0 when there is none."""
        row = await self._rows.fetchrow(self._sql["last"])
        return int(row["number"]) if row else 0

    async def after(self, number: int, limit: int) -> list[Event]:
        """The events that follow, in their order. Raises FAILED_PRECONDITION for one of a newer release."""
        return [self._event(row) for row in await self._rows.fetch(self._sql["after"], number, limit)]

    async def backlog(self, number: int) -> Backlog:
        """What follows, events without a number included."""
        row = await self._rows.fetchrow(self._sql["beyond"], number)
        assert row is not None, "it counts"
        return Backlog(**row)

    async def forget(self, keep: int, published: int) -> None:
        """Delete what has been published, but for the newest ones."""
        await self._rows.fetch(self._sql["forget"], keep, published)

    def _event(self, row: asyncpg.Record) -> Event:
        id_, kind = event_id(self.source.service, row["number"]), row["type"].partition(".")[0]
        if kind not in self.source.bodies or row[kind] is None:
            raise _too_new(id_)
        _, message = self.source.bodies[kind]
        body: Any = {kind: message(row[kind])}
        return Event(
            id=id_,
            service=self.source.service,
            number=row["number"],
            type=row["type"],
            subject=str(row["subject"]),
            version=row["version"],
            time=timestamp(row["time"]),
            traceparent=row["traceparent"],
            **body,
        )


def json_row(table: str) -> str:
    """The row that `body` has, as the table has it now: columns that were added since are NULL."""
    return f"jsonb_populate_record(NULL::{table}, body)"


def _too_new(event: str) -> Error:
    """A newer release keeps its bodies elsewhere, and publishes them; while both run, this one has nothing to say."""
    message = f"{event} was written for a newer release, which sends it: replace this process by one as new"
    return Error(Code.FAILED_PRECONDITION, message, reason="EVENT_TOO_NEW", metadata={"event": event})


def _body(kind: str, row: str) -> str:
    return f"CASE WHEN type LIKE '{kind}.%' THEN {row} END AS \"{kind}\""
