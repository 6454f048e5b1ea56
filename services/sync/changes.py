"""What events say about users and runs."""

from __future__ import annotations

from services.events.outbox import Source
from services.sync import wire
from services.sync.store import SCHEMA, read_run, read_user

SOURCE = Source(
    service="sync",
    schema=SCHEMA,
    bodies={
        "user": ("sync.users", lambda row: wire.user(read_user(row))),
        "sync": ("sync.runs", lambda row: wire.sync(read_run(row))),
    },
)
