"""Proves that pages, fetched at different times from a list that changes, leave no user out. Pure.

Each page begins with the last users of the page before. While those that stay keep their order, a page that still holds
one of them shows all that follow it: what was inserted or removed elsewhere has moved nobody past the boundary unseen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from services.sync.model import Fault, Profile
    from services.sync.scim import Page

    Entry = Profile | Fault

OVERLAP = 5
"""Users that neighbouring pages share: so many less one may be removed before a page without a gap behind it."""


@dataclass(frozen=True, kw_only=True)
class Chain:
    """How far the users of a provider are read, and whether without a gap."""

    next_index: int = 1
    """SCIM's 1-based index of the first user that was not read."""
    tail: tuple[str, ...] = ()
    """Match keys of the last users that were read."""
    whole: bool = True
    """No user that was there all the time can be among those that were not read."""

    def restart(self, shared: int = OVERLAP) -> int:
        """Where to go on reading, so that the page shares so many users with what was read."""
        return max(1, self.next_index - shared)

    def join(self, page: Page) -> tuple[Chain, tuple[Entry, ...]]:
        """The chain with one more page, and what of the page was not read before."""
        keys = tuple(entry.match_key for entry in page.entries)
        fresh = tuple(entry for number, entry in enumerate(page.entries, page.index) if not self._has(entry, number))
        joined = Chain(
            next_index=max(self.next_index, page.end),
            tail=(*self.tail, *(entry.match_key for entry in fresh if entry.match_key))[-OVERLAP:],
            whole=self.whole and self._continues(page, keys) and all(keys),
        )
        return joined, fresh

    def _has(self, entry: Entry, number: int) -> bool:
        return entry.match_key in self.tail if entry.match_key else number < self.next_index

    def _continues(self, page: Page, keys: tuple[str, ...]) -> bool:
        if self.next_index == 1:
            return page.index == 1 and (page.size > 0 or page.total == 0)
        if page.size == 0:
            return page.index > page.total and page.index > self.next_index
        return not set(self.tail).isdisjoint(keys)


def overlap(size: int) -> int:
    """How many users a page shares with one of this size before it; none with a page of one, so that it ends."""
    return min(OVERLAP, size // 2)


def ranges(first: Page) -> Iterator[tuple[int, int]]:
    """(index, count) of what is left after the first page, in steps of what the provider answers at once."""
    shared = overlap(first.size)
    step, end = first.size - shared, first.total + 1
    starts = range(first.index + step, end - shared, step) if step else ()
    return ((index, min(first.size, end - index)) for index in starts)
