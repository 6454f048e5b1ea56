"""OrderService: what a caller asks for, checked, done and answered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID

from mesh import Code, Error, Refused, check
from meshwright.events.v1.event_pb2 import Event
from meshwright.order.v1 import order_service_pb2
from meshwright.order.v1.order_service_pb2_grpc import OrderServiceServicer
from services import paging
from services.events import trace
from services.order import wire
from services.order.batch import Tally
from services.order.model import TRANSITIONS, Draft, Order, State
from services.timestamps import moment

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from datetime import datetime

    from meshwright.order.v1 import order_pb2
    from services.events.changes import Changes
    from services.order.intake import Intake
    from services.order.store import OrderStore


MAX_BATCH_BYTES = 1024 * 1024
"""Largest batch: it is checked in one go, and nothing else goes on meanwhile."""

IMPORT_ORDERS = 500
IMPORT_BYTES = 4 * 1024 * 1024
"""Of a stream so many orders are stored at a time, or those that have so many bytes."""


class OrderServicer(OrderServiceServicer):
    """The methods of the contract, whose comments say what each does."""

    def __init__(
        self, store: OrderStore, intake: Intake, changes: Changes, changed: Callable[[], None]
    ) -> None:
        self._store = store
        self._intake = intake
        self._changes = changes
        self._changed = changed

    async def CreateOrder(self, request: order_service_pb2.CreateOrderRequest, context: Any) -> order_pb2.Order:
        return wire.message(await self._intake.take(wire.draft(request).checked()))

    async def BatchCreateOrders(
        self, request: order_service_pb2.BatchCreateOrdersRequest, context: Any
    ) -> order_service_pb2.BatchCreateOrdersResponse:
        if request.ByteSize() > MAX_BATCH_BYTES:
            raise Refused.of([("requests", f"have more than {MAX_BATCH_BYTES} bytes; send fewer, or use ImportOrders")])
        orders = await self._intake.take_all([wire.draft(one) for one in request.requests])
        return order_service_pb2.BatchCreateOrdersResponse(orders=[wire.message(order) for order in orders])

    async def ImportOrders(
        self, requests: AsyncIterator[order_service_pb2.CreateOrderRequest], context: Any
    ) -> order_service_pb2.ImportOrdersResponse:
        tally, drafts, size, index = Tally(), dict[int, Draft](), 0, 0
        async for request in requests:
            try:
                drafts[index] = _draft(request)
            except Refused as error:
                tally.reject(index, request.request_id, error)
            index, size = index + 1, size + request.ByteSize()
            if len(drafts) >= IMPORT_ORDERS or size >= IMPORT_BYTES:
                await self._intake.take_some(drafts, tally)
                drafts, size = {}, 0
        await self._intake.take_some(drafts, tally)
        return wire.imported(tally)

    async def GetOrder(self, request: order_service_pb2.GetOrderRequest, context: Any) -> order_pb2.Order:
        return wire.message(await self._get(UUID(request.id)))

    async def ListOrders(
        self, request: order_service_pb2.ListOrdersRequest, context: Any
    ) -> order_service_pb2.ListOrdersResponse:
        state, created = _state(request.state), _created(request)
        filters = {
            "customer_id": request.customer_id.lower(),
            "state": state or "",
            "create_time": " ".join(str(one) for one in created) if any(created) else "",
        }
        limit = paging.size(request.page_size)
        orders = await self._store.page(
            customer_id=UUID(request.customer_id) if request.customer_id else None,
            state=state,
            created=created,
            after=paging.decode(request.page_token, filters, paging.parse_timed),
            limit=limit + 1,
        )
        shown = [wire.message(order) for order in orders]
        limit = min(limit, paging.fit(order.ByteSize() for order in shown))
        _, token = paging.cut(orders, limit, lambda last: paging.timed(last.create_time, last.id), filters)
        return order_service_pb2.ListOrdersResponse(orders=shown[:limit], next_page_token=token)

    async def CountOrders(
        self, request: order_service_pb2.CountOrdersRequest, context: Any
    ) -> order_service_pb2.CountOrdersResponse:
        return wire.counted(await self._store.totals())

    async def SweepOrders(
        self, request: order_service_pb2.SweepOrdersRequest, context: Any
    ) -> order_service_pb2.SweepOrdersResponse:
        count = await self._store.sweep()
        if count:
            self._changed()
        return order_service_pb2.SweepOrdersResponse(orders=count)

    async def CancelOrder(self, request: order_service_pb2.CancelOrderRequest, context: Any) -> order_pb2.Order:
        order_id = UUID(request.id)
        order = await self._store.move(order_id, State.CANCELLED)
        if order is None:
            order = await self._get(order_id)
            if order.state is not State.CANCELLED:
                raise TRANSITIONS.illegal(order.id, order.state, State.CANCELLED)
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


def _created(request: order_service_pb2.ListOrdersRequest) -> tuple[datetime | None, datetime | None]:
    first = moment(request.create_time_from) if request.HasField("create_time_from") else None
    end = moment(request.create_time_to) if request.HasField("create_time_to") else None
    if first and end and first >= end:
        raise Refused.of([("create_time_to", "must be after create_time_from")])
    return first, end


def _draft(request: order_service_pb2.CreateOrderRequest) -> Draft:
    check(request)
    return wire.draft(request).checked()
