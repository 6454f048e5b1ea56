"""Which events a consumer has had, in its own schema of Postgres: for effects that are in that database too.

Of the services none has such an effect: their read models are in Redis, and go by versions (`services.versioned`).
docs/services.md says why.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta

    from meshwright.events.v1.event_pb2 import Event
    from services.database import Connection

TABLE = """
CREATE TABLE {schema}.inbox (
    consumer text        NOT NULL,
    event    text        NOT NULL,
    time     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (consumer, event)
)
"""
"""For a revision of the schema whose consumer needs it."""

_TAKE = """
INSERT INTO {schema}.inbox (consumer, event) SELECT $1, unnest($2::text[]) ON CONFLICT DO NOTHING RETURNING event
"""
_FORGET = "DELETE FROM {schema}.inbox WHERE consumer = $1 AND time < now() - $2::interval"


async def unseen(connection: Connection, schema: str, consumer: str, events: Sequence[Event]) -> list[Event]:
    """Those of the events that are new to a consumer, each once, in their order; with this transaction they are seen.

    Another transaction with one of them waits for this one. Sorted by id, so that crossed batches cannot deadlock.
    """
    ids = sorted({event.id for event in events})
    new = {row["event"] for row in await connection.fetch(_TAKE.format(schema=schema), consumer, ids)}
    return list({event.id: event for event in events if event.id in new}.values())


async def forget(connection: Connection, schema: str, consumer: str, age: timedelta) -> None:
    """Delete what was seen so long ago that no stream has it any more."""
    await connection.execute(_FORGET.format(schema=schema), consumer, age)
