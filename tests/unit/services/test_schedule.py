"""When tasks are due, and which missed times count."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.status.schedule import Cron, due

HOUR = timedelta(hours=1)
HOURLY = Cron.parse("7 * * * *")


def at(hour: int, minute: int, second: int = 0, microsecond: int = 0) -> datetime:
    """A time of the day that these tests are on."""
    return datetime(2026, 3, 1, hour, minute, second, microsecond, tzinfo=UTC)


@pytest.mark.parametrize(
    ("expression", "after", "expected"),
    [
        ("7 * * * *", at(10, 6, 59), at(10, 7)),
        ("7 * * * *", at(10, 7), at(11, 7)),
        ("*/15 * * * *", at(10, 45, 1), at(11, 0)),
        ("0 3 * * *", at(3, 0), at(3, 0) + timedelta(days=1)),
        ("0 0 29 2 *", at(0, 0), datetime(2028, 2, 29, tzinfo=UTC)),
        ("*/10 * * * * *", at(10, 0, 5), at(10, 0, 10)),
    ],
)
def test_the_next_time(expression: str, after: datetime, expected: datetime) -> None:
    assert Cron.parse(expression).next(after) == expected


@pytest.mark.parametrize("now", [at(10, 7), at(10, 7, 0, 1), at(10, 30), at(11, 6, 59, 999_999)])
def test_the_newest_time_is_the_last_one_that_has_come(now: datetime) -> None:
    assert HOURLY.newest(now) == at(10, 7)


@given(st.timedeltas(timedelta(0), timedelta(days=3650)))
def test_what_is_newest_at_a_time_comes_next_before_it(later: timedelta) -> None:
    now = at(0, 0) + later
    newest = HOURLY.newest(now)
    assert newest is not None
    assert newest <= now < HOURLY.next(now)
    assert HOURLY.next(newest) == HOURLY.next(now)


@pytest.mark.parametrize(
    ("since", "now", "expected"),
    [
        (at(10, 7), at(11, 6, 59), None),
        (at(10, 7), at(11, 7), at(11, 7)),
        (at(10, 30), at(11, 7), at(11, 7)),
        (at(5, 7), at(11, 7), at(11, 7)),
        (at(11, 7), at(11, 7), None),
        (at(5, 7), at(11, 37), at(11, 7)),
        (at(5, 7), at(11, 37, 1), None),
        (at(12, 7), at(11, 30), None),
    ],
    ids=[
        "not yet", "on time", "first ever", "of many missed the newest", "dealt with", "missed lately",
        "missed too long ago", "clock set back",
    ],
)  # fmt: skip
def test_which_time_a_task_is_due_for(since: datetime, now: datetime, expected: datetime | None) -> None:
    assert due(HOURLY, since=since, now=now, patience=HOUR / 2) == expected


@pytest.mark.parametrize(
    ("expression", "why"),
    [
        ("hourly", "wrong number of fields"),
        ("60 * * * *", "bad minute"),
        ("* * 0 * *", "bad day-of-month"),
        ("* * 30 2 *", "bad day-of-month"),
        ("0 0 */20 * 1L", "never comes true"),
    ],
)
def test_what_is_no_time_is_refused(expression: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Cron.parse(expression)
