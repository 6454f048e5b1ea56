"""The key-value table (pure)."""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass

from mesh.registry.dev.index import Index, Scope

KV: Scope = "kv"
_MAX_GRAVES = 512


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A value at a key."""

    key: str
    value: bytes
    flags: int = 0
    create_index: int = 0
    modify_index: int = 0


class Values:
    """All entries, and where some were removed, so that who reads a prefix hears of it."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._entries: dict[str, Entry] = {}
        self._keys: list[str] = []
        self._graves: dict[str, int] = {}
        self._oldest_grave = index.first

    def load(self, entry: Entry) -> None:
        """Take over an entry from an earlier run, with its indexes."""
        if entry.key not in self._entries:
            insort(self._keys, entry.key)
        self._entries[entry.key] = entry

    def get(self, key: str) -> Entry | None:
        """The entry at a key."""
        return self._entries.get(key)

    def under(self, prefix: str) -> list[Entry]:
        """Entries whose key starts with a prefix, sorted by key."""
        found = []
        for position in range(bisect_left(self._keys, prefix), len(self._keys)):
            if not self._keys[position].startswith(prefix):
                break
            found.append(self._entries[self._keys[position]])
        return found

    def put(self, key: str, value: bytes, *, flags: int = 0, cas: int | None = None) -> bool:
        """Store; with `cas`, only where the key's ModifyIndex is that (0: where the key is not there)."""
        known = self._entries.get(key)
        if cas is not None and cas != (known.modify_index if known else 0):
            return False
        number = self._index.next(KV)
        created = known.create_index if known else number
        self._graves.pop(key, None)
        self.load(Entry(key=key, value=value, flags=flags, create_index=created, modify_index=number))
        return True

    def delete(self, key: str, *, cas: int | None = None) -> bool:
        """Remove; with `cas`, only where the key's ModifyIndex is that and not 0. Absent keys are fine."""
        known = self._entries.get(key)
        if cas is not None and (known is None or cas != known.modify_index):
            return False
        if known is not None:
            self._bury(key)
        return True

    def _bury(self, key: str) -> None:
        del self._entries[key]
        self._keys.pop(bisect_left(self._keys, key))
        self._graves[key] = self._index.next(KV)
        if len(self._graves) > _MAX_GRAVES:
            self._oldest_grave = max(self._graves.values())
            self._graves.clear()

    def index_of(self, key: str) -> int:
        """Number for who reads one key."""
        entry = self._entries.get(key)
        return entry.modify_index if entry else max(self._index.of(KV), 1)

    def index_under(self, prefix: str) -> int:
        """Number for who reads a prefix."""
        entries = [entry.modify_index for entry in self.under(prefix)]
        graves = [number for key, number in self._graves.items() if key.startswith(prefix)]
        if not entries:
            return max(self._index.of(KV), 1)
        return max(*entries, *graves, self._oldest_grave)
