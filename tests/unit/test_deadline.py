"""The budget of the call being handled."""

import contextvars

import pytest

from mesh import deadline


@pytest.fixture(autouse=True)
def own_context() -> None:
    deadline.begin(None)


def test_no_call_no_budget() -> None:
    assert deadline.remaining() is None
    assert deadline.bound(None) is None
    assert deadline.bound(3.0) == 3.0


def test_the_budget_shrinks_and_bounds() -> None:
    deadline.begin(10.0)
    left = deadline.remaining()
    assert left is not None
    assert 9.0 < left <= 10.0
    assert deadline.bound(1.0) == 1.0
    assert deadline.bound(60.0) == pytest.approx(left, abs=1.0)
    assert deadline.bound(None) == pytest.approx(left, abs=1.0)


def test_a_spent_budget_is_zero_not_negative() -> None:
    deadline.begin(-5.0)
    assert deadline.remaining() == 0.0


def test_a_limit_holds_inside_only_and_never_widens() -> None:
    deadline.begin(10.0)
    with deadline.limit(1.0), deadline.limit(100.0):
        assert deadline.bound(None) == pytest.approx(1.0, abs=0.5)
    assert deadline.bound(None) == pytest.approx(10.0, abs=0.5)


def test_another_context_is_not_touched() -> None:
    contextvars.copy_context().run(deadline.begin, 1.0)
    assert deadline.remaining() is None
