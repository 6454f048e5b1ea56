"""OrderService: what a caller asks for, checked, done and answered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol
from uuid import UUID

from mesh import Code, Error, Refused
from meshwright.events.v1.event_pb2 import Event
from meshwright.order.v1 import order_service_pb2
from meshwright.order.v1.order_service_pb2_grpc import OrderServiceServicer
from services import paging
from services.events import trace
from services.order import wire
from services.order.model import Order, State, illegal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from datetime import datetime

    from meshwright.order.v1 import order_pb2
    from services.events.changes import Changes
    from services.order.store import OrderStore


class Customers(Protocol):
    """Who may order."""

    async def check(self, customer_id: UUID) -> None:
        """Raise FAILED_PRECONDITION for an unknown customer, UNAVAILABLE when nobody can say."""


class OrderServicer(OrderServiceServicer):
    """The methods of the contract, whose comments say what each does."""

    def __init__(
        self, store: OrderStore, customers: Customers, changes: Changes, changed: Callable[[], None]
    ) -> None:
        self._store = store
        self._customers = customers
        self._changes = changes
        self._changed = changed

    async def CreateOrder(self, request: order_service_pb2.CreateOrderRequest, context: Any) -> order_pb2.Order:
        draft = wire.draft(request).checked()
        order = await self._store.by_request(draft.request_id)
        if order is None:
            await self._customers.check(draft.customer_id)
            order, created = await self._store.insert(draft)
            if created:
                self._changed()
        return wire.message(order.repeats(draft))

    async def GetOrder(self, request: order_service_pb2.GetOrderRequest, context: Any) -> order_pb2.Order:
        return wire.message(await self._get(UUID(request.id)))

    async def ListOrders(
        self, request: order_service_pb2.ListOrdersRequest, context: Any
    ) -> order_service_pb2.ListOrdersResponse:
        state = _state(request.state)
        filters = {"customer_id": request.customer_id.lower(), "state": state or ""}
        limit = paging.size(request.page_size)
        orders = await self._store.page(
            customer_id=UUID(request.customer_id) if request.customer_id else None,
            state=state,
            after=paging.decode(request.page_token, filters, _key),
            limit=limit + 1,
        )
        last = orders[limit - 1] if len(orders) > limit else None
        return order_service_pb2.ListOrdersResponse(
            orders=[wire.message(order) for order in orders[:limit]],
            next_page_token=paging.encode((paging.micros(last.create_time), str(last.id)), filters) if last else "",
        )

    async def CancelOrder(self, request: order_service_pb2.CancelOrderRequest, context: Any) -> order_pb2.Order:
        order_id = UUID(request.id)
        order = await self._store.move(order_id, State.CANCELLED)
        if order is None:
            order = await self._get(order_id)
            if order.state is not State.CANCELLED:
                raise illegal(order, State.CANCELLED)
        else:
            self._changed()
        return wire.message(order)

    async def WatchOrder(
        self, request: order_service_pb2.WatchOrderRequest, context: Any
    ) -> AsyncIterator[order_service_pb2.WatchOrderResponse]:
        order_id = UUID(request.id)
        async with self._changes.about(str(order_id)) as inbox:
            last = await self._now(order_id)
            yield order_service_pb2.WatchOrderResponse(order=last.order)
            while not wire.is_final(last.order):
                for event in await inbox.take() or [await self._now(order_id)]:
                    if event.version > last.version:
                        last = event
                        trace.follow(event.traceparent)
                        yield order_service_pb2.WatchOrderResponse(order=event.order)

    async def _now(self, order_id: UUID) -> Event:
        """The order as the event of its last change would have it."""
        order = await self._get(order_id)
        return Event(version=order.version, order=wire.message(order))

    async def _get(self, order_id: UUID) -> Order:
        order = await self._store.get(order_id)
        if order is None:
            raise Error(
                Code.NOT_FOUND, f"order {order_id} does not exist", reason="ORDER_NOT_FOUND",
                metadata={"id": str(order_id)},
            )  # fmt: skip
        return order


def _state(value: order_pb2.Order.State.ValueType) -> State | None:
    try:
        return wire.state(value)
    except ValueError:
        raise Refused.of([("state", f"{value} is no state of an order")]) from None


def _key(parts: Sequence[Any]) -> tuple[datetime, UUID]:
    moment, order_id = parts
    return paging.moment(moment), UUID(paging.text(order_id))
