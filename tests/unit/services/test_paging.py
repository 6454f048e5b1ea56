"""Page tokens survive the round trip, and nothing else passes for one."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import Code, Error
from services import paging

FILTERS = {"state": "PENDING"}


def parse(parts: Sequence[Any]) -> tuple[datetime, str]:
    moment, name = parts
    return paging.moment(moment), paging.text(name)


def forged(content: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(content).encode()).decode().rstrip("=")


@given(
    st.datetimes(timezones=st.just(UTC)),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=50),
)
def test_a_key_survives_the_round_trip(moment: datetime, name: str) -> None:
    token = paging.encode((paging.micros(moment), name), FILTERS)
    assert paging.decode(token, FILTERS, parse) == (moment, name)


def test_a_page_is_cut_where_more_follows_and_the_token_goes_on_there() -> None:
    rows = [(datetime(2026, 1, day, tzinfo=UTC), UUID(int=day)) for day in (3, 2, 1)]
    shown, token = paging.cut(rows, 2, lambda row: paging.timed(*row), FILTERS)
    assert (shown, paging.decode(token, FILTERS, paging.parse_timed)) == (rows[:2], rows[1])
    for limit in 3, 4:
        assert paging.cut(rows, limit, lambda row: paging.timed(*row), FILTERS) == (rows, "")
    assert paging.cut(rows[:0], 1, lambda row: paging.timed(*row), FILTERS) == ([], "")


def test_an_empty_token_is_the_first_page() -> None:
    assert paging.decode("", FILTERS, parse) is None


DIGEST = json.loads(base64.urlsafe_b64decode(paging.encode((), FILTERS) + "=="))[0]


@pytest.mark.parametrize(
    "token",
    [
        "x", "===", "é", "\0", "AAAA", forged(1), forged([]), forged({}), forged([DIGEST]), forged([DIGEST, 1]),
        forged([DIGEST, "1", "a"]), forged([DIGEST, 1, 2]), forged([DIGEST, 10**30, "a"]), forged([DIGEST, 1, "a\0"]),
        forged([DIGEST, 1, "\ud800"]), forged([DIGEST, 1, "a", "b"]), forged("[" * 100_000),
        base64.urlsafe_b64encode(b"[" * 100_000).decode().rstrip("="),
    ],
)  # fmt: skip
def test_what_is_no_token_is_refused(token: str) -> None:
    with pytest.raises(Error) as caught:
        paging.decode(token, FILTERS, parse)
    assert (caught.value.code, caught.value.reason) == (Code.INVALID_ARGUMENT, "INVALID_PAGE_TOKEN")
    assert caught.value.violations[0][0] == "page_token"


@given(st.text(max_size=60))
def test_no_text_breaks_it(token: str) -> None:
    with suppress(Error):
        paging.decode(token, FILTERS, parse)


def test_a_token_of_a_list_with_other_filters_is_refused() -> None:
    token = paging.encode((0, "a"), FILTERS)
    with pytest.raises(Error, match="other filters"):
        paging.decode(token, {"state": ""}, parse)


@pytest.mark.parametrize(("requested", "size"), [(0, 50), (1, 1), (1000, 1000), (1001, 1000), (2**31 - 1, 1000)])
def test_page_sizes_have_a_default_and_a_limit(requested: int, size: int) -> None:
    assert paging.size(requested) == size


@pytest.mark.parametrize(
    ("sizes", "number"),
    [([1, 1], 2), ([paging.MAX_BYTES, 1], 1), ([paging.MAX_BYTES + 1, 1], 1), ([paging.MAX_BYTES - 1, 1, 1], 2)],
)
def test_a_page_has_what_fits_and_at_least_one(sizes: list[int], number: int) -> None:
    assert paging.fit(sizes) == number
