"""Cancels the pending orders of customers who are deactivated, as events of SyncService tell.

An order that is being worked on is its worker's, who looks at the customer too. So is one that was accepted after the
event: by an instance that had not heard yet, or for a customer who is active again.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from services.events.consumer import Effect
from services.order.batch import DEACTIVATED

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from meshwright.events.v1.event_pb2 import Event
    from services.order.customers import Customers
    from services.order.store import CustomerStore

GROUP = "orders"
"""The consumers that cancel orders, and their name in the inbox."""

TYPE = "user.deactivated"

PAGE = 1000
"""Customers that are looked at together when all are."""

_log = logging.getLogger(__name__)


def effect(store: CustomerStore, customers: Customers, changed: Callable[[], None]) -> Effect:
    """What events of users do to orders; `changed` is called after orders were cancelled."""

    def told(count: int) -> None:
        if count:
            _log.info("%d orders of deactivated customers are cancelled", count)
            changed()

    async def apply(events: Sequence[Event]) -> None:
        if gone := [event for event in events if event.type == TYPE]:
            told(await store.cancel_once(GROUP, gone, DEACTIVATED))

    async def rebuild() -> None:
        told(await cancel_all(store, customers))

    return Effect(kinds=frozenset({"user"}), apply=apply, rebuild=rebuild)


async def cancel_all(store: CustomerStore, customers: Customers) -> int:
    """The same for whoever is deactivated now, where events were lost; how many orders. Raises what both do."""
    count, last = 0, None
    while found := await store.waiting(last, PAGE):
        *_, (last, until) = found.items()
        active = await customers.find(list(found))
        count += await store.cancel([one for one in found if active.get(one) is False], until, DEACTIVATED)
    return count
