"""How orders come in: alone, all or none of a batch, or as many of a stream as can be taken."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.order import batch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from uuid import UUID

    from services.order.customers import Customers
    from services.order.model import Draft, Order
    from services.order.store import OrderStore

    Refuse = Callable[[str, batch.Faults], None]
    """Is told the field and the faults of drafts that cannot be taken; when it raises, nothing is written."""


class Intake:
    """Takes orders exactly once for each request_id. `changed` is called after orders were written.

    All methods raise what `OrderStore` and `Customers` do, and then have written nothing.
    """

    def __init__(self, store: OrderStore, customers: Customers, changed: Callable[[], None]) -> None:
        self._store = store
        self._customers = customers
        self._changed = changed

    async def take(self, draft: Draft) -> Order:
        """The order of one draft."""
        order = await self._store.by_request(draft.request_id)
        if order is None:
            known = await self._customers.find((draft.customer_id,))
            if error := batch.refused(draft.customer_id, known.get(draft.customer_id)):
                raise error
            order, created = await self._store.insert(draft)
            if created:
                self._changed()
        return order.repeats(draft)

    async def take_all(self, drafts: Sequence[Draft]) -> list[Order]:
        """The orders of all drafts, in their order; an error names the index of what is wrong."""
        orders, _ = await self._take(batch.checked(drafts), batch.refuse)
        return [orders[draft.request_id] for draft in drafts]

    async def take_some(self, drafts: Mapping[int, Draft], tally: batch.Tally) -> None:
        """Take those that can be taken, in one transaction, and count all."""
        rejected: batch.Faults = {}

        def refuse(field: str, faults: batch.Faults) -> None:
            rejected.update(faults)

        _, created = await self._take(drafts, refuse)
        for index, error in sorted(rejected.items()):
            tally.reject(index, str(drafts[index].request_id), error)
        tally.accept(len(drafts) - len(rejected), created)

    async def _take(self, drafts: Mapping[int, Draft], refuse: Refuse) -> tuple[dict[UUID, Order], int]:
        """Orders by request_id, at least of the drafts that were not refused, and how many of them are new."""

        def without(drafts: Mapping[int, Draft], field: str, faults: batch.Faults) -> dict[int, Draft]:
            refuse(field, faults)
            return {index: draft for index, draft in drafts.items() if index not in faults}

        drafts = without(drafts, "request_id", batch.contradictions(drafts))
        stored = await self._store.by_requests({draft.request_id for draft in drafts.values()})
        drafts = without(drafts, "request_id", batch.reused(drafts, stored))
        fresh = {index: draft for index, draft in drafts.items() if draft.request_id not in stored}
        known = await self._customers.find({draft.customer_id for draft in fresh.values()})
        fresh = without(fresh, "customer_id", batch.unwelcome(fresh, known))
        written, created = await self._store.insert_all(
            batch.distinct(fresh.values()), lambda found: refuse("request_id", batch.reused(fresh, found))
        )
        if created:
            self._changed()
        return stored | written, created
