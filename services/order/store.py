"""Orders in Postgres."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from services import paging
from services.database import queries
from services.order.model import Draft, Line, Money, Order, State, sources
from services.totals import OLDEST

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from uuid import UUID

    import asyncpg

    from services.database import Database

SCHEMA = "orders"
MIGRATIONS = Path(__file__).parent / "migrations"
_SQL = queries(Path(__file__).with_name("queries.sql"))


class OrderStore:
    """Every statement of the order service. All methods raise what `Database` does."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, order_id: UUID) -> Order | None:
        """One order."""
        return _order(await self._database.fetchrow(_SQL["by_id"], order_id))

    async def by_request(self, request_id: UUID) -> Order | None:
        """The order that a request made."""
        return _order(await self._database.fetchrow(_SQL["by_request"], request_id))

    async def insert(self, draft: Draft) -> tuple[Order, bool]:
        """Take the order unless its request made one already; the order of the request, and whether it is new."""
        total = draft.total
        row = await self._database.fetchrow(
            _SQL["insert"], uuid.uuid4(), draft.request_id, draft.fingerprint, draft.customer_id,
            _dump(draft.lines), total.currency, total.units, total.nanos,
        )  # fmt: skip
        order = _order(row) or await self.by_request(draft.request_id)
        assert order is not None, "orders are never deleted"
        return order, row is not None

    async def page(
        self, *, customer_id: UUID | None, state: State | None, after: tuple[datetime, UUID] | None, limit: int
    ) -> list[Order]:
        """Newest first, after the key of the last one seen."""
        moment, last = after or (None, None)
        rows = await self._database.fetch(_SQL["page"], customer_id, state, moment, last, limit)
        return [_read(row) for row in rows]

    async def move(self, order_id: UUID, target: State) -> Order | None:
        """The order after a legal move; None when there is no such order or the move is not legal."""
        return _order(await self._database.fetchrow(_SQL["move"], order_id, target, sources(target)))

    async def totals(self) -> Mapping[str, int]:
        """Orders by state, and since when the oldest pending one waits."""
        rows = await self._database.fetch(_SQL["totals"])
        counts = {row["state"]: row["number"] for row in rows}
        oldest = [paging.micros(row["oldest"]) for row in rows if row["state"] == State.PENDING]
        return {**counts, OLDEST: oldest[0]} if oldest else counts


def _dump(lines: tuple[Line, ...]) -> str:
    return json.dumps([
        {"sku": line.sku, "quantity": line.quantity, "units": line.price.units, "nanos": line.price.nanos}
        for line in lines
    ])  # fmt: skip


def _order(row: asyncpg.Record | None) -> Order | None:
    return None if row is None else _read(row)


def _read(row: asyncpg.Record) -> Order:
    currency = row["currency"]
    return Order(
        id=row["id"],
        request_id=row["request_id"],
        fingerprint=row["fingerprint"],
        customer_id=row["customer_id"],
        lines=tuple(
            Line(
                sku=line["sku"],
                quantity=line["quantity"],
                price=Money(currency=currency, units=line["units"], nanos=line["nanos"]),
            )
            for line in json.loads(row["lines"])
        ),
        total=Money(currency=currency, units=row["total_units"], nanos=row["total_nanos"]),
        state=State(row["state"]),
        failure=row["failure"],
        create_time=row["create_time"],
        update_time=row["update_time"],
    )
