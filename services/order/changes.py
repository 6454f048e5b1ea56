"""What events say about orders."""

from __future__ import annotations

from services.events.outbox import Source, json_row
from services.order import wire
from services.order.store import SCHEMA, read

SOURCE = Source(
    service="order",
    schema=SCHEMA,
    bodies={"order": (json_row("orders.orders"), lambda row: wire.message(read(row)))},
)
