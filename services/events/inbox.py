"""Which events a consumer has had, in its own schema of Postgres: for effects that are in that database too.

Read models in Redis do without: they go by versions (`services.versioned`). docs/services.md says why.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.events.stream import LENGTH

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meshwright.events.v1.event_pb2 import Event
    from services.database import Connection

TABLE = """
CREATE TABLE {schema}.inbox (
    consumer text   NOT NULL,
    service  text   NOT NULL,
    number   bigint NOT NULL,
    PRIMARY KEY (consumer, service, number)
)
"""
"""For a revision of the schema whose consumer needs it. Service and number are the id of an event."""

KEPT = 2 * LENGTH
"""An event that is older by so many than the oldest in hand is forgotten: no outbox and no stream has it any more."""

STEP = 1000
"""Most events that are forgotten at once."""

_TAKE = """
INSERT INTO {schema}.inbox (consumer, service, number) SELECT $1, * FROM unnest($2::text[], $3::bigint[])
ON CONFLICT DO NOTHING RETURNING service, number
"""
_FORGET = """
DELETE FROM {schema}.inbox WHERE (consumer, service, number) IN (
    SELECT consumer, service, number FROM {schema}.inbox
    WHERE consumer = $1 AND service = $2 AND number < $3
    ORDER BY number
    LIMIT $4
    FOR UPDATE SKIP LOCKED
)
"""


async def unseen(
    connection: Connection, schema: str, consumer: str, events: Sequence[Event], *, kept: int = KEPT
) -> list[Event]:
    """Those of the events that are new to a consumer, each once, in their order; with this transaction they are seen.

    Another transaction with one of them waits for this one. Sorted by id, so that crossed batches cannot deadlock.
    """
    by_id = {(event.service, event.number): event for event in events}
    columns = list(zip(*sorted(by_id), strict=True)) or [(), ()]
    rows = await connection.fetch(_TAKE.format(schema=schema), consumer, *columns)
    oldest = dict(sorted(by_id, reverse=True))
    for service, number in oldest.items():
        await connection.execute(_FORGET.format(schema=schema), consumer, service, number - kept, STEP)
    new = {(row["service"], row["number"]) for row in rows}
    return [event for key, event in by_id.items() if key in new]
