"""Works off orders: some batches side by side in this process, any number of processes on one database.

An order is worked on at least once: whoever is killed, or takes longer than its lease, leaves its orders to others.
"""

from __future__ import annotations

import asyncio
import logging
import random
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import asyncpg
from opentelemetry import trace

from mesh import Code, Error, deadline
from mesh.recovery import Backoff, Failures, now, sleep
from services.events.trace import links
from services.metrics import Tally, error_type
from services.order import work
from services.order.model import State
from services.order.work import Attempts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from services.order.customers import Customers
    from services.order.model import Order, Outcome
    from services.order.store import WorkStore

RELEASE_SECONDS = 1.0
"""Longest time that giving orders back may keep a process from ending; their lease ends anyway."""

STATUSES = {State.COMPLETED: "completed", State.FAILED: "failed", State.PENDING: "retried"}
"""What became of an attempt."""

ORDERS = Tally(
    "order_processing",
    "orders",
    seconds=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
    statuses=STATUSES.values(),
    errors=(work.MISSING, work.DEACTIVATED, work.LOST, Code.UNAVAILABLE.name, Code.DEADLINE_EXCEEDED.name),
)
_AGAIN = Backoff(first_seconds=0.5, limit_seconds=10.0)
_log = logging.getLogger(__name__)
_tracer = trace.get_tracer(__name__)


class Fulfilment(Protocol):
    """What is done for an order, and may be done for it again."""

    async def fulfil(self, orders: Sequence[Order]) -> Sequence[Outcome]:
        """The outcome of each order. An `Error` is an attempt of all of them that came to nothing."""


class Checkout:
    """Completes the orders of customers who still are active; asks `Customers` once for all."""

    def __init__(self, customers: Customers) -> None:
        self._customers = customers

    async def fulfil(self, orders: Sequence[Order]) -> Sequence[Outcome]:
        """As in `Fulfilment`."""
        active = await self._customers.find({order.customer_id for order in orders})
        return [work.judged(order, active) for order in orders]


@dataclass(frozen=True, kw_only=True)
class WorkSettings:
    """How much is worked off at once, and how long it may take."""

    workers: int = 2
    """ORDER_WORKERS: batches side by side in this process; 0 leaves the work to others."""
    batch_size: int = 100
    """ORDER_BATCH_SIZE: most orders in a batch."""
    lease_seconds: float = 30.0
    """ORDER_LEASE_SECONDS: orders of a worker that gave no outcome for so long are due again; work gets half of it."""
    poll_seconds: float = 1.0
    """ORDER_POLL_SECONDS: how often to look for orders that are due, while there are none."""
    delay_seconds: float = 5.0
    """ORDER_WORK_DELAY_SECONDS: time in which an order can be cancelled, before work on it may begin."""
    grace_seconds: float = 5.0
    """ORDER_GRACE_SECONDS: time for the work in hand when the process stops."""
    attempts: Attempts = field(default_factory=Attempts)
    """ORDER_ATTEMPTS: how often work is tried before an order fails."""


class Worker:
    """Claims orders that are due and has them fulfilled. `changed` is called after orders moved."""

    def __init__(
        self, store: WorkStore, fulfilment: Fulfilment, settings: WorkSettings, changed: Callable[[], None]
    ) -> None:
        self._store = store
        self._fulfilment = fulfilment
        self._settings = settings
        self._changed = changed

    async def run(self) -> None:
        """Work until cancelled; then what is in hand gets the grace, and what is left is given back."""
        async with asyncio.TaskGroup() as group:
            in_hand: set[asyncio.Task[None]] = set()
            try:
                await self._work_side_by_side(group, in_hand)
            except asyncio.CancelledError:
                if in_hand:
                    await asyncio.wait(in_hand, timeout=self._settings.grace_seconds)
                raise

    async def _work_side_by_side(self, group: asyncio.TaskGroup, in_hand: set[asyncio.Task[None]]) -> None:
        slots, failures = asyncio.Semaphore(self._settings.workers), Failures()

        def done(task: asyncio.Task[None]) -> None:
            in_hand.discard(task)
            slots.release()

        while True:
            await slots.acquire()
            while not (orders := await self._claim(failures)):
                await sleep(self._settings.poll_seconds)
            task = group.create_task(self._work(orders))
            in_hand.add(task)
            task.add_done_callback(done)

    async def _claim(self, failures: Failures) -> Sequence[Order]:
        """Orders that are due; none while the database cannot be asked."""
        try:
            orders = await self._store.claim(self._settings.batch_size)
        except (Error, asyncpg.PostgresError) as error:
            _log.warning("orders wait: %s", str(error)[:1000])
            await failures.wait(_AGAIN)
            return ()
        failures.reset()
        return orders

    async def _work(self, orders: Sequence[Order]) -> None:
        try:
            made_in = links(order.traceparent for order in orders)
            with _tracer.start_as_current_span("order work", attributes={"order.count": len(orders)}, links=made_in):
                await self._work_off(orders)
        except asyncio.CancelledError:
            await self._release(orders)
            raise

    async def _work_off(self, orders: Sequence[Order]) -> None:
        """One batch to its outcomes; when they cannot be stored the lease brings the orders back."""
        began = now()
        try:
            outcomes = await self._outcomes(orders)
            _count(outcomes, await self._store.settle(outcomes), now() - began)
            self._changed()
        except (Error, asyncpg.PostgresError) as error:
            _log.warning("%d orders wait for the end of their lease: %s", len(orders), str(error)[:1000])

    async def _outcomes(self, orders: Sequence[Order]) -> Sequence[Outcome]:
        attempts = self._settings.attempts
        spent = [order for order in orders if attempts.spent(order)]
        begun = [order for order in orders if not attempts.spent(order)]
        reason = f"given up after {attempts.limit} workers were lost with it"
        lost = [work.failed(order, reason, work.LOST) for order in spent]
        try:
            with deadline.limit(self._settings.lease_seconds / 2):
                async with asyncio.timeout(deadline.remaining()):
                    return [*lost, *(await self._fulfilment.fulfil(begun) if begun else ())]
        except (Error, TimeoutError) as error:
            why = str(error) or "it took too long"
            _log.warning("work on %d orders came to nothing: %s", len(begun), why[:1000])
            kind = error_type(error)
            return [*lost, *(attempts.after(order, why, kind, random.random()) for order in begun)]

    async def _release(self, orders: Sequence[Order]) -> None:
        with suppress(Error, TimeoutError, asyncpg.PostgresError):
            async with asyncio.timeout(RELEASE_SECONDS):
                await self._store.settle([work.given_back(order) for order in orders])


def _count(outcomes: Sequence[Outcome], settled: Sequence[Order], seconds: float) -> None:
    """Count what became of a batch, but for orders that were not this worker's any more."""
    kept = {order.id for order in settled}
    for outcome in outcomes:
        if outcome.order.id in kept:
            ORDERS.ended(STATUSES[outcome.state], seconds, outcome.error_type)
