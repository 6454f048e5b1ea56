"""The order service on a real Postgres: exactly once, exact money, pages, cancelling, bad input."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.type.money_pb2 import Money

import mesh
from mesh import Code, Error
from meshwright.order.v1.order_pb2 import Order, OrderLine
from meshwright.order.v1.order_service_pb2 import (
    BatchCreateOrdersRequest,
    CancelOrderRequest,
    CreateOrderRequest,
    GetOrderRequest,
    ListOrdersRequest,
)
from meshwright.sync.v1.sync_pb2 import User
from meshwright.sync.v1.sync_service_pb2 import GetUserRequest
from meshwright.sync.v1.sync_service_pb2_grpc import (
    SyncServiceServicer,
    SyncServiceStub,
    add_SyncServiceServicer_to_server,
)
from services.database import Database
from services.order.customers import SyncCustomers
from tests.fixtures.orders import CUSTOMER, Anyone, count, create
from tests.fixtures.services import Syncing, orders, refusal, request_id, serving

if TYPE_CHECKING:
    from meshwright.order.v1.order_service_pb2_grpc import OrderServiceAsyncStub
    from meshwright.sync.v1.sync_service_pb2_grpc import SyncServiceAsyncStub

@pytest.fixture
async def stub(stored: Database) -> AsyncIterator[OrderServiceAsyncStub]:
    async with orders(stored, Anyone()) as stub:
        yield stub


async def test_an_order_is_stored_with_its_exact_total(stub: OrderServiceAsyncStub) -> None:
    made = await stub.CreateOrder(create(quantity=3))
    assert made.total == Money(currency_code="EUR", units=37, nanos=500_000_003)
    assert made.state == Order.STATE_PENDING
    assert await stub.GetOrder(GetOrderRequest(id=made.id)) == made


async def test_fifty_equal_requests_at_once_make_one_order(stub: OrderServiceAsyncStub, stored: Database) -> None:
    request = create()
    answers = await asyncio.gather(*(stub.CreateOrder(request) for _ in range(50)))
    assert all(answer == answers[0] for answer in answers)
    assert await count(stored) == 1


async def test_the_same_request_id_with_another_content_is_refused(
    stub: OrderServiceAsyncStub, stored: Database
) -> None:
    made = await stub.CreateOrder(create())
    error = await refusal(stub.CreateOrder(create(made.request_id, quantity=9)))
    assert (error.code, error.reason) == (Code.ALREADY_EXISTS, "REQUEST_ID_REUSED")
    assert error.metadata["order_id"] == made.id
    assert await count(stored) == 1


async def test_a_repetition_does_not_ask_for_the_customer_again(stored: Database) -> None:
    customers = Anyone()
    async with orders(stored, customers) as stub:
        request = create()
        assert await stub.CreateOrder(request) == await stub.CreateOrder(request)
    assert customers.asked == 1


async def test_an_unknown_customer_is_refused_by_the_sync_service(stored: Database, syncing: Syncing) -> None:
    async with orders(stored, SyncCustomers(await syncing.service(None))) as stub:
        error = await refusal(stub.CreateOrder(create()))
    assert (error.code, error.reason) == (Code.FAILED_PRECONDITION, "CUSTOMER_NOT_FOUND")
    assert await count(stored) == 0


async def test_with_the_sync_service_down_nothing_is_written(stored: Database) -> None:
    async with (
        mesh.channel("sync", mesh.Settings(), target="dns:///127.0.0.1:1") as nobody,
        orders(stored, SyncCustomers(SyncServiceStub(nobody))) as stub,
    ):
        error = await refusal(stub.CreateOrder(create()))
    assert (error.code, error.reason) == (Code.UNAVAILABLE, "CUSTOMER_CHECK_UNAVAILABLE")
    assert error.retry_after_seconds == 1
    assert await count(stored) == 0


@asynccontextmanager
async def unwilling(error: Error) -> AsyncIterator[SyncServiceAsyncStub]:
    """A sync service that answers each call with this."""

    class Unwilling(SyncServiceServicer):
        async def GetUser(self, request: GetUserRequest, context: Any) -> User:
            raise error

    made = Unwilling()  # type: ignore[abstract] # nothing else is asked
    async with serving(partial(add_SyncServiceServicer_to_server, made)) as channel:
        yield SyncServiceStub(channel)


@pytest.mark.parametrize(
    ("said", "code", "reason"),
    [
        (Code.RESOURCE_EXHAUSTED, Code.RESOURCE_EXHAUSTED, "CUSTOMER_CHECK_OVERLOADED"),
        (Code.DEADLINE_EXCEEDED, Code.DEADLINE_EXCEEDED, "CUSTOMER_CHECK_SLOW"),
        (Code.INTERNAL, Code.UNAVAILABLE, "CUSTOMER_CHECK_UNAVAILABLE"),
    ],
)
async def test_what_the_sync_service_says_is_passed_on_where_it_tells_how_to_go_on(
    stored: Database, said: Code, code: Code, reason: str
) -> None:
    async with unwilling(Error(said, "no", retry_after_seconds=7)) as sync, orders(stored, SyncCustomers(sync)) as stub:
        error = await refusal(stub.CreateOrder(create()))
    assert (error.code, error.reason, error.retry_after_seconds) == (code, reason, 7)
    assert error.metadata == {"code": said.name}
    assert await count(stored) == 0


@pytest.mark.parametrize("said", [Code.PERMISSION_DENIED, Code.UNAUTHENTICATED, Code.UNIMPLEMENTED])
async def test_a_sync_service_that_refuses_to_be_asked_is_nothing_to_try_again(
    stored: Database, said: Code, caplog: pytest.LogCaptureFixture
) -> None:
    no = Error(said, "order may not call sync", reason="INTENTION_DENIES", retry_after_seconds=7)
    async with unwilling(no) as sync, orders(stored, SyncCustomers(sync)) as stub:
        error, _ = await refusal(stub.CreateOrder(create())), await refusal(stub.CreateOrder(create()))
    assert (error.code, error.reason) == (Code.FAILED_PRECONDITION, "CUSTOMER_CHECK_REFUSED")
    assert error.retry_after_seconds is None
    assert error.message == f"the customer cannot be checked, so nothing was done: {said.name}: order may not call sync"
    assert error.metadata == {"code": said.name, "reason": "INTENTION_DENIES"}
    assert [line for line in caplog.messages if "cannot be asked" in line] == [
        f"orders are refused, as SyncService cannot be asked for their customers: {said.name}: order may not call sync"
    ]
    assert await count(stored) == 0


async def test_pages_are_complete_and_stable_while_orders_arrive(stub: OrderServiceAsyncStub) -> None:
    made = [(await stub.CreateOrder(create())).id for _ in range(5)]
    page = await stub.ListOrders(ListOrdersRequest(page_size=2))
    seen = [order.id for order in page.orders]
    await stub.CreateOrder(create())
    while page.next_page_token:
        page = await stub.ListOrders(ListOrdersRequest(page_size=2, page_token=page.next_page_token))
        seen += [order.id for order in page.orders]
    assert seen == made[::-1]


async def test_large_orders_make_pages_that_every_peer_takes(stub: OrderServiceAsyncStub) -> None:
    large = create()
    large.lines.extend([large.lines[0]] * 99)
    for line in large.lines:
        line.sku = "S" * 64
    for _ in range(3):
        batch = BatchCreateOrdersRequest(requests=[large] * 100)
        for request in batch.requests:
            request.request_id = request_id()
        await stub.BatchCreateOrders(batch)
    seen: list[str] = []
    token = ""
    while not seen or token:
        page = await stub.ListOrders(ListOrdersRequest(page_size=1000, page_token=token))
        assert page.ByteSize() < 2.1 * 2**20
        seen, token = [*seen, *(order.id for order in page.orders)], page.next_page_token
    assert len(seen) == len(set(seen)) == 300


async def test_lists_are_filtered_by_customer_and_state(stub: OrderServiceAsyncStub) -> None:
    first = await stub.CreateOrder(create())
    await stub.CreateOrder(create(customer=str(uuid.uuid4())))
    await stub.CancelOrder(CancelOrderRequest(id=first.id))
    cancelled = await stub.ListOrders(ListOrdersRequest(customer_id=CUSTOMER, state=Order.STATE_CANCELLED))
    assert [order.id for order in cancelled.orders] == [first.id]
    assert not (await stub.ListOrders(ListOrdersRequest(customer_id=CUSTOMER, state=Order.STATE_PENDING))).orders


async def test_lists_are_filtered_by_time_from_the_one_and_before_the_other(stub: OrderServiceAsyncStub) -> None:
    made = [await stub.CreateOrder(create()) for _ in range(4)]
    wanted = ListOrdersRequest(
        create_time_from=made[1].create_time, create_time_to=made[3].create_time, page_size=1
    )
    page = await stub.ListOrders(wanted)
    seen = list(page.orders)
    while page.next_page_token:
        wanted.page_token = page.next_page_token
        page = await stub.ListOrders(wanted)
        seen += page.orders
    assert seen == [made[2], made[1]]


async def test_a_time_that_ends_before_it_begins_is_refused(stub: OrderServiceAsyncStub) -> None:
    request = ListOrdersRequest(create_time_from=Timestamp(seconds=7), create_time_to=Timestamp(seconds=7))
    error = await refusal(stub.ListOrders(request))
    assert error.violations == (("create_time_to", "must be after create_time_from"),)


async def test_a_token_of_a_list_with_other_filters_is_refused(stub: OrderServiceAsyncStub) -> None:
    for _ in range(2):
        await stub.CreateOrder(create())
    page = await stub.ListOrders(ListOrdersRequest(page_size=1))
    for other in ListOrdersRequest(customer_id=CUSTOMER), ListOrdersRequest(create_time_to=Timestamp(seconds=2**33)):
        other.page_token = page.next_page_token
        error = await refusal(stub.ListOrders(other))
        assert (error.code, error.reason) == (Code.INVALID_ARGUMENT, "INVALID_PAGE_TOKEN")


async def test_cancelling_twice_answers_the_same(stub: OrderServiceAsyncStub) -> None:
    made = await stub.CreateOrder(create())
    cancelled = await stub.CancelOrder(CancelOrderRequest(id=made.id))
    assert cancelled.state == Order.STATE_CANCELLED
    assert await stub.CancelOrder(CancelOrderRequest(id=made.id)) == cancelled


async def test_an_order_in_work_cannot_be_cancelled(stub: OrderServiceAsyncStub, stored: Database) -> None:
    made = await stub.CreateOrder(create())
    await stored.fetch("UPDATE orders.orders SET state = 'PROCESSING'")
    error = await refusal(stub.CancelOrder(CancelOrderRequest(id=made.id)))
    assert (error.code, error.reason) == (Code.FAILED_PRECONDITION, "ILLEGAL_TRANSITION")


@pytest.mark.parametrize(
    "request_",
    [
        create("not-a-uuid"),
        create(customer="nobody"),
        create(customer=""),
        create(quantity=0),
        create(quantity=1_000_001),
        create(sku="A\0B"),
        create(sku=""),
        create(sku="S" * 65),
        CreateOrderRequest(request_id=request_id(), customer_id=CUSTOMER),
        CreateOrderRequest(request_id=request_id(), customer_id=CUSTOMER, lines=[OrderLine(sku="A", quantity=1)]),
    ],
    ids=["request id", "customer id", "no customer", "none", "too many", "NUL", "no sku", "sku", "no lines", "price"],
)
async def test_bad_orders_are_refused(
    stub: OrderServiceAsyncStub, stored: Database, request_: CreateOrderRequest
) -> None:
    error = await refusal(stub.CreateOrder(request_))
    assert error.code is Code.INVALID_ARGUMENT
    assert error.violations
    assert await count(stored) == 0


@pytest.mark.parametrize("page_size", [-1, -(2**31)])
async def test_negative_page_sizes_are_refused(stub: OrderServiceAsyncStub, page_size: int) -> None:
    assert (await refusal(stub.ListOrders(ListOrdersRequest(page_size=page_size)))).code is Code.INVALID_ARGUMENT


@pytest.mark.parametrize("token", ["x", "AAAA", "\0", "W10", "é", "W251bGwsIDFd"])
async def test_bad_tokens_are_refused(stub: OrderServiceAsyncStub, token: str) -> None:
    assert (await refusal(stub.ListOrders(ListOrdersRequest(page_token=token)))).code is Code.INVALID_ARGUMENT


async def test_unknown_orders_are_not_found(stub: OrderServiceAsyncStub) -> None:
    missing = str(uuid.uuid4())
    for call in (stub.GetOrder(GetOrderRequest(id=missing)), stub.CancelOrder(CancelOrderRequest(id=missing))):
        error = await refusal(call)
        assert (error.code, error.reason) == (Code.NOT_FOUND, "ORDER_NOT_FOUND")


async def test_a_state_that_the_contract_lacks_is_refused(stub: OrderServiceAsyncStub) -> None:
    request = ListOrdersRequest.FromString(b"\x20\x63")
    assert (await refusal(stub.ListOrders(request))).code is Code.INVALID_ARGUMENT
