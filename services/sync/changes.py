"""What events say about users and runs."""

from __future__ import annotations

from services.events.outbox import Source, json_row
from services.sync import wire
from services.sync.store import SCHEMA, read_run, read_user

SOURCE = Source(
    service="sync",
    schema=SCHEMA,
    bodies={
        "user": ("user_body", lambda row: wire.user(read_user(row))),
        "sync": (json_row("sync.runs"), lambda row: wire.sync(read_run(row))),
    },
)
