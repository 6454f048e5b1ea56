"""Many orders at a time on a real Postgres: all or none of a batch, as many as can be of a stream."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from typing import TYPE_CHECKING

import grpc
import pytest

import mesh
from mesh import Code
from meshwright.order.v1.order_pb2 import OrderLine
from meshwright.order.v1.order_service_pb2 import BatchCreateOrdersRequest, CreateOrderRequest
from meshwright.sync.v1.sync_service_pb2_grpc import SyncServiceStub
from services.order import servicer
from services.order.customers import SyncCustomers
from tests.fixtures.orders import CUSTOMER, Anyone, count, create, until
from tests.fixtures.services import Syncing, orders, refusal, request_id

if TYPE_CHECKING:
    from meshwright.order.v1.order_service_pb2_grpc import OrderServiceAsyncStub
    from services.database import Database

STRANGER = "3f0c0a53-57a2-4f1b-8f0e-6f4a2f7b1c11"


class Members:
    """Everybody but one is a customer."""

    async def find(self, customer_ids: Collection[uuid.UUID]) -> Mapping[uuid.UUID, bool]:
        """All but the stranger."""
        return {one: True for one in customer_ids if str(one) != STRANGER}


@pytest.fixture
async def stub(stored: Database) -> AsyncIterator[OrderServiceAsyncStub]:
    async with orders(stored, Members()) as stub:
        yield stub


def batch(*requests: CreateOrderRequest) -> BatchCreateOrdersRequest:
    return BatchCreateOrdersRequest(requests=requests)


async def test_a_batch_answers_its_orders_in_their_order_and_again(
    stub: OrderServiceAsyncStub, stored: Database
) -> None:
    request = batch(*(create(quantity=n) for n in range(1, 1001)))
    answer = await stub.BatchCreateOrders(request)
    assert [order.request_id for order in answer.orders] == [one.request_id for one in request.requests]
    assert [order.lines[0].quantity for order in answer.orders] == list(range(1, 1001))
    assert await stub.BatchCreateOrders(request) == answer
    assert await count(stored) == 1000


async def test_orders_that_exist_and_equal_requests_are_answered_among_the_new(
    stub: OrderServiceAsyncStub, stored: Database
) -> None:
    old, new = create(), create()
    made = await stub.CreateOrder(old)
    answer = await stub.BatchCreateOrders(batch(new, old, new))
    assert answer.orders[1] == made
    assert answer.orders[0] == answer.orders[2]
    assert await count(stored) == 2


async def test_a_batch_asks_for_each_new_customer_once(stored: Database) -> None:
    customers = Anyone()
    async with orders(stored, customers) as stub:
        await stub.BatchCreateOrders(batch(create(), create(), create(customer=str(uuid.uuid4()))))
    assert customers.asked == 2


REUSED = request_id()
WRONG: list[tuple[str, CreateOrderRequest, Code, str, str]] = [
    ("rule", create(quantity=0), Code.INVALID_ARGUMENT, "INVALID_FIELD", "requests[1].lines[0].quantity"),
    ("no lines", CreateOrderRequest(request_id=request_id(), customer_id=CUSTOMER),
     Code.INVALID_ARGUMENT, "INVALID_FIELD", "requests[1].lines"),
    ("price", CreateOrderRequest(request_id=request_id(), customer_id=CUSTOMER,
                                 lines=[OrderLine(sku="A", quantity=1, unit_price={"currency_code": "eur"})]),
     Code.INVALID_ARGUMENT, "INVALID_FIELD", "requests[1].lines[0].unit_price.currency_code"),
    ("twice", create(REUSED, quantity=9), Code.INVALID_ARGUMENT, "INVALID_FIELD", "requests[1].request_id"),
    ("customer", create(customer=STRANGER), Code.FAILED_PRECONDITION, "CUSTOMER_NOT_FOUND",
     "requests[1].customer_id"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("request_", "code", "reason", "field"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG]
)
async def test_one_wrong_request_refuses_the_whole_batch(
    stub: OrderServiceAsyncStub, stored: Database, request_: CreateOrderRequest, code: Code, reason: str, field: str
) -> None:
    error = await refusal(stub.BatchCreateOrders(batch(create(REUSED), request_, create())))
    assert (error.code, error.reason, error.violations[0][0]) == (code, reason, field)
    assert await count(stored) == 0


async def test_a_request_id_of_another_order_refuses_the_whole_batch(
    stub: OrderServiceAsyncStub, stored: Database
) -> None:
    made = await stub.CreateOrder(create())
    error = await refusal(stub.BatchCreateOrders(batch(create(), create(made.request_id, quantity=9))))
    assert (error.code, error.reason) == (Code.ALREADY_EXISTS, "REQUEST_ID_REUSED")
    assert error.metadata["index"] == "1"
    assert error.metadata["order_id"] == made.id
    assert error.violations[0][0] == "requests[1].request_id"
    assert await count(stored) == 1


async def test_batches_that_are_empty_or_too_large_are_refused(stub: OrderServiceAsyncStub, stored: Database) -> None:
    line = create(sku="S" * 64).lines[0]
    full = [CreateOrderRequest(request_id=request_id(), customer_id=CUSTOMER, lines=[line] * 99) for _ in range(150)]
    for request in batch(), batch(*(create() for _ in range(1001))), batch(*full):
        error = await refusal(stub.BatchCreateOrders(request))
        assert (error.code, error.violations[0][0]) == (Code.INVALID_ARGUMENT, "requests")
    assert await count(stored) == 0


async def test_with_the_sync_service_down_nothing_of_a_batch_is_written(stored: Database) -> None:
    async with (
        mesh.channel("sync", mesh.Settings(), target="dns:///127.0.0.1:1") as nobody,
        orders(stored, SyncCustomers(SyncServiceStub(nobody))) as stub,
    ):
        error = await refusal(stub.BatchCreateOrders(batch(*(create(customer=str(uuid.uuid4())) for _ in range(40)))))
        assert (error.code, error.reason) == (Code.UNAVAILABLE, "CUSTOMER_CHECK_UNAVAILABLE")
        assert error.retry_after_seconds == 1
    assert await count(stored) == 0


async def test_every_unknown_customer_of_a_batch_is_named(stored: Database, syncing: Syncing) -> None:
    async with orders(stored, SyncCustomers(await syncing.service(None))) as stub:
        error = await refusal(stub.BatchCreateOrders(batch(*(create(customer=str(uuid.uuid4())) for _ in range(20)))))
    assert error.reason == "CUSTOMER_NOT_FOUND"
    assert [field for field, _ in error.violations] == [f"requests[{n}].customer_id" for n in range(16)]


async def test_crossed_batches_make_each_order_once(stub: OrderServiceAsyncStub, stored: Database) -> None:
    requests = [create(quantity=n) for n in range(1, 201)]
    shuffled = [random.Random(seed).sample(requests, len(requests)) for seed in range(6)]
    answers = await asyncio.gather(*(stub.BatchCreateOrders(batch(*one)) for one in shuffled))
    found = [{order.request_id: order.id for order in answer.orders} for answer in answers]
    assert all(one == found[0] for one in found)
    assert await count(stored) == 200


async def test_of_batches_that_contradict_each_other_one_is_stored_whole(
    stub: OrderServiceAsyncStub, stored: Database
) -> None:
    contested = request_id()
    calls = [stub.BatchCreateOrders(batch(create(), create(contested, quantity=n), create())) for n in range(1, 7)]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    refused = [mesh.from_rpc(answer) for answer in answers if isinstance(answer, grpc.aio.AioRpcError)]
    assert [error.reason for error in refused] == ["REQUEST_ID_REUSED"] * 5
    assert await count(stored) == 3


async def given(requests: Iterable[CreateOrderRequest]) -> AsyncIterator[CreateOrderRequest]:
    for request in requests:
        yield request


async def test_an_import_takes_what_it_can_and_tells_the_rest(stub: OrderServiceAsyncStub, stored: Database) -> None:
    old = create()
    await stub.CreateOrder(old)
    bad = {
        3: (create("no uuid"), Code.INVALID_ARGUMENT, "INVALID_FIELD"),
        501: (create(customer=STRANGER), Code.FAILED_PRECONDITION, "CUSTOMER_NOT_FOUND"),
        700: (create(old.request_id, quantity=9), Code.ALREADY_EXISTS, "REQUEST_ID_REUSED"),
        1199: (create(quantity=0), Code.INVALID_ARGUMENT, "INVALID_FIELD"),
    }
    requests = [bad[n][0] if n in bad else create() for n in range(1200)]
    requests[900] = requests[0]
    requests[10] = old
    answer = await stub.ImportOrders(given(requests))
    assert (answer.created_count, answer.existing_count, answer.rejected_count) == (1194, 2, 4)
    assert [(one.index, one.request_id, one.code, one.reason) for one in answer.rejected] == [
        (index, request.request_id, code, reason) for index, (request, code, reason) in bad.items()
    ]
    assert all(one.message for one in answer.rejected)
    assert await count(stored) == 1195


async def test_sending_an_import_again_makes_nothing_new(stub: OrderServiceAsyncStub, stored: Database) -> None:
    requests = [create() for _ in range(600)]
    assert (await stub.ImportOrders(given(requests))).created_count == 600
    assert (await stub.ImportOrders(given(requests))).existing_count == 600
    assert await count(stored) == 600


async def test_an_empty_import_makes_nothing(stub: OrderServiceAsyncStub) -> None:
    assert not (await stub.ImportOrders(given(()))).ListFields()


async def test_the_list_of_the_rejected_is_bounded_and_their_count_exact(stub: OrderServiceAsyncStub) -> None:
    answer = await stub.ImportOrders(given(create("x" * 10_000) for _ in range(1500)))
    assert (answer.rejected_count, len(answer.rejected)) == (1500, 1000)
    assert answer.rejected[999].index == 999
    assert answer.rejected[0].request_id == "x" * 64


async def test_a_stream_that_is_cut_leaves_whole_batches(stub: OrderServiceAsyncStub, stored: Database) -> None:
    requests = [create() for _ in range(servicer.IMPORT_ORDERS + 20)]
    call = stub.ImportOrders()
    for request in requests:
        await call.write(request)
    await until(stored, lambda states: states.total() > 0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert await count(stored) == servicer.IMPORT_ORDERS
    assert (await stub.ImportOrders(given(requests))).existing_count == servicer.IMPORT_ORDERS


async def test_an_import_reads_no_faster_than_it_stores(stored: Database) -> None:
    blocked, asked = asyncio.Event(), asyncio.Event()

    class Slow(Anyone):
        async def find(self, customer_ids: Collection[uuid.UUID]) -> Mapping[uuid.UUID, bool]:
            asked.set()
            await blocked.wait()
            return await super().find(customer_ids)

    async with orders(stored, Slow()) as stub:
        sent = 0

        async def send() -> None:
            nonlocal sent
            call = stub.ImportOrders()
            for _ in range(40_000):
                await call.write(large)
                sent += 1
            call.cancel()

        large = create()
        large.lines.extend([large.lines[0]] * 99)
        async with asyncio.timeout(60):
            task = asyncio.create_task(send())
            await asked.wait()
            before = -1
            while before != sent:
                before = sent
                await asyncio.sleep(0.3)
        task.cancel()
        assert 500 <= sent < 20_000
