"""The life of certificates in the built-in registry."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from mesh.registry.dev import certificates
from mesh.registry.dev.authority import RENEWED_AT, Authority, leaf_scope, proven
from mesh.registry.dev.index import Index

START = datetime(2030, 1, 1, tzinfo=UTC)
HOUR = 3600.0


def authority() -> Authority:
    made = Authority(Index(), leaf_seconds=HOUR)
    made.begin(START)
    return made


def after(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def test_a_leaf_stays_the_same_until_it_is_due() -> None:
    one = authority()
    first = one.leaf("order", "dc1", START)
    one.advance(after(HOUR * RENEWED_AT - 1))
    assert one.leaf("order", "dc1", after(HOUR * RENEWED_AT - 1)) is first
    assert first.end == after(HOUR)


def test_a_leaf_is_replaced_at_70_percent_of_its_life_and_who_waits_for_that_is_woken() -> None:
    index = Index()
    one = Authority(index, leaf_seconds=HOUR)
    one.begin(START)
    first = one.leaf("order", "dc1", START)
    index.take_touched()
    one.advance(after(HOUR * RENEWED_AT))
    assert index.take_touched() == {leaf_scope("order")}
    second = one.leaf("order", "dc1", after(HOUR * RENEWED_AT))
    assert second.index > first.index
    assert second.key != first.key


def test_a_root_is_trusted_until_the_last_leaf_of_it_is_over() -> None:
    one = authority()
    one.configure(START, leaf_seconds=HOUR, key=certificates.new_key())
    one.advance(after(2 * HOUR - 1))
    assert len(one.roots) == 2
    one.advance(after(2 * HOUR))
    assert [root.replaced_at for root in one.roots] == [None]


def test_what_was_stored_is_the_same_authority() -> None:
    one, other = authority(), Authority(Index(first=100))
    one.configure(START, leaf_seconds=2 * HOUR, key=certificates.new_key())
    other.load(proven(one.stored()))
    assert (other.roots, other.trust_domain, other.leaf_seconds) == (one.roots, one.trust_domain, 2 * HOUR)
    assert not other.begin(START)


@pytest.mark.parametrize("key", ["x", "-----BEGIN EC PRIVATE KEY-----\n-----END EC PRIVATE KEY-----\n"])
def test_what_is_no_key_changes_nothing(key: str) -> None:
    one = authority()
    with pytest.raises(ValueError):  # noqa: PT011 - the words are the library's
        one.configure(START, leaf_seconds=2 * HOUR, key=key)
    assert (len(one.roots), one.leaf_seconds) == (1, HOUR)


def test_no_repr_shows_a_key() -> None:
    one = authority()
    assert "PRIVATE" not in repr((one.roots, one.leaf("order", "dc1", START)))
