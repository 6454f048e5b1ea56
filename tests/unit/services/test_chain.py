"""Pages that were read while the list changed: what is called whole left nobody out."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.sync.chain import OVERLAP, Chain, overlap, ranges
from services.sync.model import Fault, Profile
from services.sync.scim import Page


def page(names: list[str], index: int, count: int) -> Page:
    return Page(
        index=index, total=len(names),
        entries=tuple(Profile(user_name=name) for name in names[index - 1 : index - 1 + count]),
    )  # fmt: skip


def names(count: int) -> list[str]:
    return [f"n{number}" for number in range(count)]


@st.composite
def changing(draw: st.DrawFn) -> tuple[list[str], int, list[list[str]]]:
    """A list, the size of its pages, and the lists that it became before each page was read, in whatever order."""
    users = names(draw(st.integers(0, 40)))
    states, new = [users], 0
    for _ in range(draw(st.integers(0, 4))):
        users = list(users)
        for _ in range(draw(st.integers(1, 8))):
            place = draw(st.integers(0, len(users)))
            if draw(st.booleans()) and place < len(users):
                del users[place]
            else:
                users.insert(place, f"new{new}")
                new += 1
        states.append(users)
    return states[0], draw(st.integers(1, 15)), states


@given(changing(), st.data())
@settings(deadline=None)
def test_a_whole_chain_has_everybody_who_was_there_all_the_time(
    made: tuple[list[str], int, list[list[str]]], data: st.DataObject
) -> None:
    start, size, states = made
    always = set(start).intersection(*states)
    first = page(start, 1, size)
    chain, seen = Chain().join(first)
    found = {entry.match_key for entry in seen}
    for index, count in ranges(first):
        chain, seen = chain.join(page(data.draw(st.sampled_from(states)), index, count))
        found |= {entry.match_key for entry in seen}
    for _ in range(60):
        one = page(states[-1], chain.restart(max(1, overlap(size))), size)
        ended = one.end <= chain.next_index
        chain, seen = chain.join(one)
        found |= {entry.match_key for entry in seen}
        if ended:
            break
    if chain.whole and ended:
        assert {f"u:{name}" for name in always} <= found


@pytest.mark.parametrize("count", [0, 1, 2, 9, 10, 11, 200])
@pytest.mark.parametrize("size", [2, 3, 10, 50])
def test_a_list_that_does_not_change_is_whole_and_everybody_comes_once(count: int, size: int) -> None:
    users = names(count)
    first = page(users, 1, size)
    chain, entries = Chain().join(first)
    for index, most in ranges(first):
        chain, fresh = chain.join(page(users, index, most))
        entries += fresh
    assert chain.whole
    assert [entry.match_key for entry in entries] == [f"u:{name}" for name in users]
    assert len(list(ranges(first))) <= (count // (size - overlap(size))) + 1


@pytest.mark.parametrize("removed", range(OVERLAP + 2))
def test_as_many_as_pages_share_less_one_may_be_removed_without_a_gap(removed: int) -> None:
    chain, _ = Chain().join(page(names(40), 1, 10))
    chain, _ = chain.join(page(names(40)[removed:], 11 - OVERLAP, 10))
    assert chain.whole == (removed < OVERLAP)


def test_a_user_that_cannot_be_told_leaves_a_gap_and_comes_once() -> None:
    users: list[Profile | Fault] = [Profile(user_name="a"), Fault(reason="x"), Profile(user_name="b")]
    chain, first = Chain().join(Page(index=1, total=3, entries=tuple(users)))
    chain, again = chain.join(Page(index=2, total=3, entries=tuple(users[1:])))
    assert not chain.whole
    assert (len(first), again) == (3, ())


def test_nobody_is_a_whole_list_only_if_the_provider_says_so() -> None:
    assert Chain().join(Page(index=1, total=0, entries=()))[0].whole
    assert not Chain().join(Page(index=1, total=3, entries=()))[0].whole
