"""Keyset pages: opaque tokens that remember the last key and the filters of their list. Pure.

https://google.aip.dev/158
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from datetime import UTC, datetime, timedelta
from itertools import accumulate, takewhile
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

from mesh import Code, Error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

K = TypeVar("K")
R = TypeVar("R")

DEFAULT_SIZE = 50
MAX_SIZE = 1000

MAX_BYTES = 2 * 1024 * 1024
"""Half of the longest message that peers take by default."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def size(requested: int) -> int:
    """How many rows a page has when so many were asked for."""
    return min(requested, MAX_SIZE) if requested > 0 else DEFAULT_SIZE


def fit(sizes: Iterable[int]) -> int:
    """How many of these entries, given by their bytes, one page has: at least one, and no more than `MAX_BYTES`."""
    ends = accumulate(sizes)
    return max(1, sum(1 for _ in takewhile(lambda end: end <= MAX_BYTES, ends)))


def cut(
    rows: Sequence[R], limit: int, key: Callable[[R], Sequence[str | int]], filters: Mapping[str, str]
) -> tuple[Sequence[R], str]:
    """The first rows, at most so many, and the token that continues after them; empty when nothing follows.

    Who reads `limit` + 1 rows knows whether something does.
    """
    shown = rows[:limit]
    return shown, encode(key(shown[-1]), filters) if len(rows) > limit else ""


def encode(key: Sequence[str | int], filters: Mapping[str, str]) -> str:
    """The token that continues after `key` in the list with these filters."""
    content = json.dumps([_digest(filters), *key], separators=(",", ":"), ensure_ascii=False)
    return base64.urlsafe_b64encode(content.encode("utf-8", "surrogatepass")).decode().rstrip("=")


def decode(token: str, filters: Mapping[str, str], parse: Callable[[Sequence[Any]], K]) -> K | None:
    """The key in a token, as `parse` makes it of its parts; None for an empty token.

    Raises `Error` INVALID_ARGUMENT (reason INVALID_PAGE_TOKEN) for a token that is none of ours, or that belongs to
    a list with other filters. `parse` raises ValueError or TypeError for parts that are no key.
    """
    if not token:
        return None
    try:
        padded = token + "=" * (-len(token) % 4)
        digest, *parts = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        key = parse(parts)
    except (ValueError, TypeError, OverflowError, binascii.Error, RecursionError):
        raise _refusal("is not a token that a list answered") from None
    if digest != _digest(filters):
        raise _refusal("belongs to a list with other filters")
    return key


def text(value: object) -> str:
    """A part of a key that is text which the database can hold; ValueError otherwise."""
    if not isinstance(value, str) or "\0" in value:
        raise ValueError("no text")
    value.encode()
    return value


def timed(time: datetime, which: UUID) -> tuple[int, str]:
    """The key of a row in a list by time."""
    return micros(time), str(which)


def parse_timed(parts: Sequence[Any]) -> tuple[datetime, UUID]:
    """The parts of `timed`, for `decode`."""
    time, which = parts
    return moment(time), UUID(text(which))


def micros(moment: datetime) -> int:
    """A moment as a part of a key: microseconds since 1970, exact."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


def moment(value: object) -> datetime:
    """The moment of `micros`; ValueError or OverflowError otherwise."""
    if not isinstance(value, int):
        raise ValueError("no moment")
    return _EPOCH + timedelta(microseconds=value)


def _digest(filters: Mapping[str, str]) -> str:
    content = json.dumps(sorted(filters.items())).encode()
    return hashlib.sha256(content).hexdigest()[:8]


def _refusal(why: str) -> Error:
    return Error(
        Code.INVALID_ARGUMENT,
        f"page_token {why}; begin again without one",
        reason="INVALID_PAGE_TOKEN",
        violations=[("page_token", why)],
    )
