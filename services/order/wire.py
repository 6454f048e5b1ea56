"""Orders between protobuf and the model. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from google.type.money_pb2 import Money as MoneyMessage

from meshwright.order.v1 import order_pb2, order_service_pb2
from services import paging
from services.order.model import TRANSITIONS, Draft, Line, Money, Order, State
from services.timestamps import timestamp
from services.totals import OLDEST, Model

if TYPE_CHECKING:

    from services.order.batch import Tally

MAX_MESSAGE = 500
"""Longest reason of a rejected order, so that a thousand of them fit into one message."""


def draft(request: order_service_pb2.CreateOrderRequest) -> Draft:
    """What a request asks for."""
    return Draft(
        request_id=UUID(request.request_id),
        customer_id=UUID(request.customer_id),
        lines=tuple(
            Line(
                sku=line.sku,
                quantity=line.quantity,
                price=Money(
                    currency=line.unit_price.currency_code, units=line.unit_price.units, nanos=line.unit_price.nanos
                ),
            )
            for line in request.lines
        ),
    )


def message(order: Order) -> order_pb2.Order:
    """An order as the contract has it."""
    return order_pb2.Order(
        id=str(order.id),
        request_id=str(order.request_id),
        customer_id=str(order.customer_id),
        lines=[
            order_pb2.OrderLine(sku=line.sku, quantity=line.quantity, unit_price=_money(line.price))
            for line in order.lines
        ],
        total=_money(order.total),
        state=order_pb2.Order.State.Value(f"STATE_{order.state}"),
        failure=order.failure,
        cancel_reason=order.cancel_reason,
        create_time=timestamp(order.create_time),
        update_time=timestamp(order.update_time),
    )


def imported(tally: Tally) -> order_service_pb2.ImportOrdersResponse:
    """What became of a stream, as the contract has it."""
    return order_service_pb2.ImportOrdersResponse(
        created_count=tally.created,
        existing_count=tally.existing,
        rejected_count=tally.rejected,
        rejected=[
            order_service_pb2.RejectedOrder(
                index=one.index,
                request_id=one.request_id,
                code=int(one.error.code),
                reason=one.error.reason,
                message=one.error.message[:MAX_MESSAGE],
            )
            for one in sorted(tally.first_rejected, key=lambda one: one.index)
        ],
    )


def counted(counts: Model) -> order_service_pb2.CountOrdersResponse:
    """Orders by state, as `OrderStore.totals` has them."""
    oldest = counts.get(OLDEST)
    return order_service_pb2.CountOrdersResponse(
        by_state={f"STATE_{name}": number for name, number in counts.items() if name != OLDEST},
        oldest_pending_time=None if oldest is None else timestamp(paging.moment(oldest)),
    )


def state(value: order_pb2.Order.State.ValueType) -> State | None:
    """The state that a filter names; None for every state. ValueError for a number that the contract lacks."""
    return State(order_pb2.Order.State.Name(value).removeprefix("STATE_")) if value else None


def is_final(order: order_pb2.Order) -> bool:
    """Whether nothing follows the state of an order."""
    found = state(order.state)
    return found is not None and TRANSITIONS.is_final(found)


def _money(money: Money) -> MoneyMessage:
    return MoneyMessage(currency_code=money.currency, units=money.units, nanos=money.nanos)
