"""The newest entries of a stream, for any number of readers that each keep an index. Pure."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.events.stream import Entry, Place


class Ring:
    """Keeps at least `capacity` entries and at most twice as many. An entry keeps its index for good."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._entries: list[Entry] = []
        self._first = 0
        self._start: Place | None = None

    @property
    def end(self) -> Place | None:
        """The place up to which it reaches; None before it was begun."""
        return self._entries[-1].place if self._entries else self._start

    def begin(self, place: Place) -> None:
        """Forget all, indexes too; what follows is what comes after this place."""
        self._first += len(self._entries) + 1
        self._entries = []
        self._start = place

    def add(self, entries: Sequence[Entry]) -> None:
        """What comes next."""
        self._entries.extend(entries)
        if len(self._entries) > 2 * self._capacity:
            gone = len(self._entries) - self._capacity
            self._start = self._entries[gone - 1].place
            del self._entries[:gone]
            self._first += gone

    def index(self, place: Place) -> int | None:
        """Index of the first entry after a place; None when it is not known whether some are missing."""
        if self._start is None or place < self._start:
            return None
        return self._first + bisect_right(self._entries, place, key=lambda entry: entry.place)

    def since(self, index: int) -> list[Entry] | None:
        """The entries from an index on; None when some of them are gone."""
        return self._entries[index - self._first :] if index >= self._first else None
