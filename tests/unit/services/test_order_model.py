"""Exact money, legal transitions, and when two requests are the same."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import Code, Error, Refused
from services.order import wire
from services.order.model import (
    MAX_UNITS,
    NANO,
    SETTLED_FROM,
    TRANSITIONS,
    Draft,
    Line,
    Money,
    Order,
    State,
)

ONE, TWO = UUID(int=1), UUID(int=2)
NOW = datetime(2024, 1, 1, tzinfo=UTC)


def money(units: int = 1, nanos: int = 0, currency: str = "EUR") -> Money:
    return Money(currency=currency, units=units, nanos=nanos)


def draft(*lines: Line, customer: UUID = ONE) -> Draft:
    return Draft(request_id=ONE, customer_id=customer, lines=lines or (Line(sku="A", quantity=1, price=money()),))


def order(state: State = State.PENDING) -> Order:
    made = draft()
    return Order(
        id=TWO, request_id=made.request_id, fingerprint=made.fingerprint, customer_id=made.customer_id,
        lines=made.lines, total=made.total, state=state, version=1, failure="", create_time=NOW, update_time=NOW,
    )  # fmt: skip


prices = st.builds(money, st.integers(0, 10**6), st.integers(0, NANO - 1))
lines = st.builds(Line, sku=st.just("A"), quantity=st.integers(1, 10**6), price=prices)


@given(st.lists(lines, min_size=1, max_size=20))
def test_totals_are_exact_and_normal(chosen: list[Line]) -> None:
    total = draft(*chosen).total
    assert total.amount == sum(line.quantity * (line.price.units * NANO + line.price.nanos) for line in chosen)
    assert 0 <= total.nanos < NANO


@pytest.mark.parametrize(
    ("price", "field"),
    [
        (money(currency=""), "currency_code"),
        (money(currency="eur"), "currency_code"),
        (money(currency="EURO"), "currency_code"),
        (money(currency="ZZZ"), "currency_code"),
        (money(currency="DEM"), "currency_code"),
        (money(currency="XXX"), "currency_code"),
        (money(-1), "units"),
        (money(0, -1), "nanos"),
        (money(0, NANO), "nanos"),
    ],
)
def test_a_bad_price_is_refused_with_its_path(price: Money, field: str) -> None:
    bad = draft(Line(sku="A", quantity=1, price=money()), Line(sku="B", quantity=1, price=price))
    with pytest.raises(Refused) as caught:
        bad.checked()
    assert [path for path, _ in caught.value.violations] == [f"lines[1].unit_price.{field}"]


def test_a_currency_that_is_none_is_named() -> None:
    with pytest.raises(Refused, match="BGN is no currency of ISO 4217, or none any more"):
        draft(Line(sku="A", quantity=1, price=money(currency="BGN"))).checked()


@pytest.mark.parametrize("code", ["EUR", "USD", "JPY", "KWD", "XOF", "CLF"])
def test_a_currency_in_use_is_taken(code: str) -> None:
    draft(Line(sku="A", quantity=1, price=money(currency=code))).checked()


def test_every_line_has_the_currency_of_the_first() -> None:
    mixed = draft(Line(sku="A", quantity=1, price=money()), Line(sku="B", quantity=1, price=money(currency="USD")))
    with pytest.raises(Refused, match="must be EUR"):
        mixed.checked()


def test_the_largest_total_passes_and_one_more_is_refused() -> None:
    draft(Line(sku="A", quantity=1, price=money(MAX_UNITS))).checked()
    with pytest.raises(Refused, match="total"):
        draft(Line(sku="A", quantity=2, price=money(MAX_UNITS))).checked()


def test_equal_content_has_equal_fingerprints_and_other_content_has_others() -> None:
    base = draft()
    assert base.fingerprint == draft().fingerprint
    others = [
        draft(customer=TWO),
        draft(Line(sku="B", quantity=1, price=money())),
        draft(Line(sku="A", quantity=2, price=money())),
        draft(Line(sku="A", quantity=1, price=money(2))),
        draft(Line(sku="A", quantity=1, price=money(1, 1))),
        draft(Line(sku="A", quantity=1, price=money(currency="USD"))),
        draft(base.lines[0], base.lines[0]),
    ]
    assert len({base.fingerprint, *(other.fingerprint for other in others)}) == len(others) + 1


def test_a_repetition_answers_the_order_and_another_request_is_refused() -> None:
    made = order()
    assert made.repeats(draft()) is made
    with pytest.raises(Error) as caught:
        made.repeats(draft(customer=TWO))
    assert (caught.value.code, caught.value.reason) == (Code.ALREADY_EXISTS, "REQUEST_ID_REUSED")


def test_the_table_of_transitions_is_whole_and_final_states_stay() -> None:
    assert set(TRANSITIONS.moves) == set(State)
    assert [state for state in State if TRANSITIONS.is_final(state)] == [State.COMPLETED, State.FAILED, State.CANCELLED]
    assert TRANSITIONS.sources(State.CANCELLED) == TRANSITIONS.sources(State.PROCESSING) == (State.PENDING,)
    assert SETTLED_FROM == TRANSITIONS.sources(State.PENDING) == (State.PROCESSING,)
    refused = TRANSITIONS.illegal(ONE, State.COMPLETED, State.CANCELLED)
    assert refused.metadata == {"state": "COMPLETED", "target": "CANCELLED"}


@pytest.mark.parametrize("state", State)
def test_every_state_has_its_name_in_the_contract(state: State) -> None:
    assert wire.state(wire.message(order(state)).state) is state


def test_the_unspecified_state_filters_nothing() -> None:
    assert wire.state(0) is None  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="99"):
        wire.state(99)  # type: ignore[arg-type]
