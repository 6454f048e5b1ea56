"""Orders in Postgres."""

from __future__ import annotations

import json
import uuid
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

from services import paging
from services.database import queries
from services.events import inbox, trace
from services.order.model import SETTLED_FROM, TRANSITIONS, Draft, Line, Money, Order, Outcome, State
from services.timestamps import moment
from services.totals import OLDEST, Model

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
    from datetime import datetime

    import asyncpg

    from meshwright.events.v1.event_pb2 import Event
    from services.database import Connection, Database

SWEEP = 1000
"""Most orders that one statement makes due again, or cancels."""

SCHEMA = "orders"
MIGRATIONS = Path(__file__).parent / "migrations"
_SQL = queries(Path(__file__).with_name("queries.sql"))


class OrderStore:
    """Every statement of the order service. All methods raise what `Database` does."""

    def __init__(self, database: Database, *, work_delay: timedelta = timedelta(0)) -> None:
        self._database = database
        self._work_delay = work_delay

    async def get(self, order_id: UUID) -> Order | None:
        """One order."""
        return _order(await self._database.fetchrow(_SQL["by_id"], order_id))

    async def by_request(self, request_id: UUID) -> Order | None:
        """The order that a request made."""
        return _order(await self._database.fetchrow(_SQL["by_request"], request_id))

    async def by_requests(self, request_ids: Collection[UUID]) -> dict[UUID, Order]:
        """The orders that requests made, by request."""
        rows = await self._database.fetch(_SQL["by_requests"], request_ids)
        return _by_request(rows)

    async def insert(self, draft: Draft) -> tuple[Order, bool]:
        """Take the order unless its request made one already; the order of the request, and whether it is new."""
        row = await self._database.fetchrow(_SQL["insert"], self._work_delay, *_columns((draft,)), trace.current())
        order = _order(row) or await self.by_request(draft.request_id)
        assert order is not None, "orders are never deleted"
        return order, row is not None

    async def insert_all(
        self, drafts: Sequence[Draft], accept: Callable[[Mapping[UUID, Order]], None]
    ) -> tuple[dict[UUID, Order], int]:
        """Take each order unless its request made one already; the orders by request, and how many are new.

        The drafts are sorted by request and each has its own. `accept` sees the orders before they are committed; when
        it raises, none is.
        """
        if not drafts:
            return {}, 0
        async with self._database.transaction() as connection:
            created = await connection.fetch(_SQL["insert"], self._work_delay, *_columns(drafts), trace.current())
            orders = _by_request(created)
            missing = [draft.request_id for draft in drafts if draft.request_id not in orders]
            if missing:
                orders |= _by_request(await connection.fetch(_SQL["by_requests"], missing))
            accept(orders)
        return orders, len(created)

    async def page(
        self,
        *,
        customer_id: UUID | None,
        state: State | None,
        created: tuple[datetime | None, datetime | None],
        after: tuple[datetime, UUID] | None,
        limit: int,
    ) -> list[Order]:
        """Newest first, after the key of the last one seen; those created from the one time on and before the other."""
        time, last = after or (None, None)
        rows = await self._database.fetch(_SQL["page"], customer_id, state, time, last, limit, *created)
        return [read(row) for row in rows]

    async def move(self, order_id: UUID, target: State) -> Order | None:
        """The order after a legal move; None when there is no such order or the move is not legal."""
        sources = TRANSITIONS.sources(target)
        return _order(await self._database.fetchrow(_SQL["move"], order_id, target, sources, trace.current()))

    async def totals(self) -> Model:
        """Orders by state, and since when the oldest pending one waits."""
        rows = await self._database.fetch(_SQL["totals"])
        counts = {row["state"]: row["number"] for row in rows}
        oldest = [paging.micros(row["oldest"]) for row in rows if row["state"] == State.PENDING]
        return {**counts, OLDEST: oldest[0]} if oldest else counts

    async def sweep(self) -> int:
        """Make orders due again whose lease has ended; how many."""
        count, sources = 0, TRANSITIONS.sources(State.PENDING)
        while rows := await self._database.fetch(_SQL["expire"], State.PENDING, sources, SWEEP):
            count += len(rows)
        return count


class WorkStore:
    """Statements of the workers, whose `name` tells them apart. All methods raise what `Database` does."""

    def __init__(self, database: Database, *, name: str, lease: timedelta) -> None:
        self._database = database
        self._name = name
        self._lease = lease

    async def claim(self, limit: int) -> list[Order]:
        """Orders that are due, now this worker's until the lease ends; those of ended leases are due again first."""
        async with self._database.transaction() as connection:
            await connection.fetch(_SQL["expire"], State.PENDING, TRANSITIONS.sources(State.PENDING), limit)
            rows = await connection.fetch(
                _SQL["claim"], State.PROCESSING, TRANSITIONS.sources(State.PROCESSING), limit, self._name, self._lease
            )
        return [read(row) for row in rows]

    async def settle(self, outcomes: Sequence[Outcome]) -> list[Order]:
        """Move orders in hand to what came of them, in one statement; those that still were this worker's."""
        rows = await self._database.fetch(
            _SQL["settle"], SETTLED_FROM, self._name, *_settlements(outcomes), trace.current()
        )
        return [read(row) for row in rows]


class CustomerStore:
    """Statements about the orders of customers. All methods raise what `Database` does."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def cancel_once(self, consumer: str, events: Sequence[Event], reason: str) -> int:
        """Cancel what was pending of the subjects when these events happened; how many orders.

        One transaction with the inbox: events that this consumer had before change nothing, nor does a part of them.
        """
        async with trace.transaction(self._database) as connection:
            new = await inbox.unseen(connection, SCHEMA, consumer, events)
            return await _cancel(connection, {UUID(event.subject): moment(event.time) for event in new}, reason)

    async def cancel(self, customer_ids: Collection[UUID], until: datetime, reason: str) -> int:
        """Cancel what is pending of customers and was accepted until then; how many orders."""
        async with trace.transaction(self._database) as connection:
            return await _cancel(connection, dict.fromkeys(customer_ids, until), reason)

    async def waiting(self, after: UUID | None, limit: int) -> dict[UUID, datetime]:
        """Customers with pending orders, by id, after the last one seen; and when that was, by Postgres' clock."""
        rows = await self._database.fetch(_SQL["waiting_customers"], after, limit)
        return {row["customer_id"]: row["time"] for row in rows}


async def _cancel(connection: Connection, until: Mapping[UUID, datetime], reason: str) -> int:
    """In steps, as there may be many, and a statement has its time."""
    count, sources = 0, TRANSITIONS.sources(State.CANCELLED)
    while rows := await connection.fetch(
        _SQL["cancel_of_customers"], State.CANCELLED, sources, list(until), list(until.values()), reason, SWEEP
    ):
        count += len(rows)
    return count


def _settlements(outcomes: Sequence[Outcome]) -> Iterator[list[object]]:
    """What is settled, column by column."""
    rows = ((
        one.order.id, one.order.attempts, one.state, one.failure, timedelta(seconds=one.wait_seconds),
        int(not one.counts),
    ) for one in outcomes)  # fmt: skip
    return (list(column) for column in zip(*rows, strict=True))


def _columns(drafts: Sequence[Draft]) -> Iterator[list[object]]:
    """What is inserted, column by column."""
    rows = ((
        uuid.uuid4(), draft.request_id, draft.fingerprint, draft.customer_id, _dump(draft.lines),
        draft.total.currency, draft.total.units, draft.total.nanos,
    ) for draft in drafts)  # fmt: skip
    return (list(column) for column in zip(*rows, strict=True))


def _by_request(rows: Iterable[asyncpg.Record]) -> dict[UUID, Order]:
    return {order.request_id: order for order in map(read, rows)}


def _dump(lines: tuple[Line, ...]) -> str:
    return json.dumps([
        {"sku": line.sku, "quantity": line.quantity, "units": line.price.units, "nanos": line.price.nanos}
        for line in lines
    ])  # fmt: skip


def _order(row: asyncpg.Record | None) -> Order | None:
    return None if row is None else read(row)


def read(row: asyncpg.Record) -> Order:
    """The order in a row of the table."""
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
        version=row["version"],
        failure=row["failure"],
        traceparent=row.get("traceparent") or "",
        cancel_reason=row["cancel_reason"] or "",  # NULL in an event that is older than the column
        create_time=row["create_time"],
        update_time=row["update_time"],
        attempts=row["attempts"],
    )
