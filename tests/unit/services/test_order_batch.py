"""Which orders of many cannot be, how that is said, and what comes of working on them."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from mesh import Code, Error, Refused
from mesh.recovery import Backoff
from services.order import batch, wire, work
from services.order.batch import MAX_REJECTED, Tally
from services.order.model import Draft, Line, Money, Order, State
from services.order.work import Attempts
from services.timestamps import moment

NOW = datetime(2024, 1, 1, tzinfo=UTC)
EUR = Money(currency="EUR", units=1, nanos=0)


def draft(request: int = 1, *, quantity: int = 1, customer: int = 7, price: Money = EUR) -> Draft:
    line = Line(sku="A", quantity=quantity, price=price)
    return Draft(request_id=UUID(int=request), customer_id=UUID(int=customer), lines=(line,))


def order(made: Draft, attempts: int = 1) -> Order:
    return Order(
        id=UUID(int=99), request_id=made.request_id, fingerprint=made.fingerprint, customer_id=made.customer_id,
        lines=made.lines, total=made.total, state=State.PROCESSING, failure="", version=2, create_time=NOW,
        update_time=NOW, attempts=attempts,
    )  # fmt: skip


def test_a_batch_names_every_wrong_price_by_its_index() -> None:
    bad = Money(currency="", units=-1, nanos=0)
    with pytest.raises(Refused) as caught:
        batch.checked([draft(1), draft(2, price=bad)])
    assert [field for field, _ in caught.value.violations] == [
        "requests[1].lines[0].unit_price.currency_code", "requests[1].lines[0].unit_price.units",
    ]  # fmt: skip


def test_what_is_wrong_with_a_large_batch_still_fits_into_a_trailer() -> None:
    bad = Money(currency="", units=0, nanos=0)
    with pytest.raises(Refused) as caught:
        batch.checked([draft(n, price=bad) for n in range(100)])
    assert len(caught.value.violations) == batch.MAX_VIOLATIONS


def test_equal_requests_of_one_batch_are_one_and_others_with_their_id_contradict_it() -> None:
    assert batch.contradictions({0: draft(1), 1: draft(1), 2: draft(2)}) == {}
    found = batch.contradictions({0: draft(1), 1: draft(1, quantity=2), 2: draft(1)})
    assert list(found) == [1]
    assert "came at index 0 with another content" in found[1].message


def test_every_batch_has_its_orders_in_the_same_order() -> None:
    assert [one.request_id.int for one in batch.distinct([draft(3), draft(1), draft(3), draft(2)])] == [1, 2, 3]


def test_the_first_fault_refuses_a_batch_and_all_are_named() -> None:
    drafts = {n: draft(n, customer=n) for n in range(3)}
    with pytest.raises(Error) as caught:
        batch.refuse("customer_id", batch.unwelcome(drafts, {UUID(int=0): True}))
    error = caught.value
    assert (error.code, error.reason) == (Code.FAILED_PRECONDITION, "CUSTOMER_NOT_FOUND")
    assert error.message.startswith("requests[1]: customer")
    assert error.metadata == {"customer_id": str(UUID(int=1)), "index": "1"}
    assert [field for field, _ in error.violations] == ["requests[1].customer_id", "requests[2].customer_id"]
    batch.refuse("customer_id", {})


def test_who_is_unknown_and_who_is_deactivated_is_told_apart() -> None:
    drafts = {n: draft(n, customer=n) for n in range(3)}
    found = batch.unwelcome(drafts, {UUID(int=0): True, UUID(int=1): False})
    assert {n: error.reason for n, error in found.items()} == {1: "CUSTOMER_DEACTIVATED", 2: "CUSTOMER_NOT_FOUND"}


def test_a_request_id_that_made_another_order_is_told() -> None:
    stored = {UUID(int=1): order(draft(1))}
    assert list(batch.reused({0: draft(1), 1: draft(2), 2: draft(1, quantity=5)}, stored)) == [2]


def test_a_tally_counts_all_and_remembers_some_in_their_order() -> None:
    tally = Tally()
    error = Error(Code.NOT_FOUND, "x" * 10_000)
    for index in range(MAX_REJECTED + 5):
        tally.reject(MAX_REJECTED * 2 - index, "y" * 10_000, error)
    tally.accept(7, 4)
    found = wire.imported(tally)
    assert (found.created_count, found.existing_count, found.rejected_count) == (4, 3, MAX_REJECTED + 5)
    assert [one.index for one in found.rejected] == sorted(one.index for one in found.rejected)
    assert len(found.rejected) == MAX_REJECTED
    assert found.ByteSize() < 1024 * 1024


def test_attempts_back_off_and_end_with_a_reason() -> None:
    attempts = Attempts(limit=3, backoff=Backoff(first_seconds=1, limit_seconds=60, jitter=0))
    again = [attempts.after(order(draft(), n), "no stock", "UNAVAILABLE", 0.5) for n in (1, 2)]
    assert [(one.state, one.wait_seconds) for one in again] == [(State.PENDING, 1), (State.PENDING, 2)]
    last = attempts.after(order(draft(), 3), "no stock", "UNAVAILABLE", 0.5)
    assert (last.state, last.failure) == (State.FAILED, "given up after 3 attempts: no stock")
    assert [attempts.spent(order(draft(), n)) for n in (3, 4)] == [False, True]


def test_work_that_is_given_back_was_no_attempt() -> None:
    one = order(draft())
    assert not work.given_back(one).counts
    others = (work.completed(one), work.failed(one, "x", "y"), Attempts().after(one, "x", "y", 0))
    assert all(other.counts for other in others)


@pytest.mark.parametrize(
    ("active", "state", "failure"),
    [
        ({UUID(int=7): True}, State.COMPLETED, ""),
        ({UUID(int=7): False}, State.FAILED, "is deactivated"),
        ({}, State.FAILED, "does not exist any more"),
    ],
)
def test_orders_of_active_customers_complete(active: dict[UUID, bool], state: State, failure: str) -> None:
    outcome = work.judged(order(draft()), active)
    assert outcome.state is state
    assert outcome.failure.endswith(failure)


def test_a_time_between_two_microseconds_means_the_later_one() -> None:
    assert moment(Timestamp(seconds=1, nanos=1000)) == moment(Timestamp(seconds=1, nanos=1))
    assert moment(Timestamp(seconds=1)) < moment(Timestamp(seconds=1, nanos=1))
    assert moment(Timestamp(seconds=253_402_300_799, nanos=999_999_999)).year == 9999
    assert moment(Timestamp(seconds=-62_135_596_800)).year == 1
