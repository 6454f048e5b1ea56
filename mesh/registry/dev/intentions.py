"""Intentions: which service may call which (pure).

Rules and words are those of Consul 1.8: the most precise one decides, and without any a call is allowed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from mesh.registry.dev.index import Index, Scope

INTENTIONS: Scope = "connect/intentions"
ANY = "*"
ALLOW, DENY = "allow", "deny"
SOURCE, DESTINATION = "source", "destination"


@dataclass(frozen=True, kw_only=True)
class Intention:
    """One rule. Times are Consul's text."""

    id: str
    source: str
    destination: str
    """Names of services; ANY for all."""

    action: str
    description: str = ""
    meta: dict[str, str] = field(default_factory=dict)
    created_at: str
    updated_at: str
    create_index: int = 0
    modify_index: int = 0

    @property
    def precedence(self) -> int:
        """The largest decides."""
        return 9 - (self.source == ANY) - 3 * (self.destination == ANY)

    def covers(self, end: str, service: str) -> bool:
        """Whether it says something of a service as SOURCE or DESTINATION."""
        return (self.source if end == SOURCE else self.destination) in (service, ANY)

    def problems(self) -> Iterator[str]:
        """Why Consul would not take it."""
        for name, value in (("SourceName", self.source), ("DestinationName", self.destination)):
            if not value:
                yield f"{name} must be set"
            elif ANY in value and value != ANY:
                yield f"{name}: wildcard character '*' cannot be used with partial values"
        if self.action not in (ALLOW, DENY):
            yield "Action must be set to 'allow' or 'deny'"


class Intentions:
    """All intentions, with indexes."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._held: dict[str, Intention] = {}

    def load(self, intention: Intention) -> None:
        """Take over one from an earlier run, with its indexes."""
        self._held[intention.id] = intention

    def get(self, intention_id: str) -> Intention | None:
        """One intention."""
        return self._held.get(intention_id)

    def all(self) -> list[Intention]:
        """All, the most precise first."""
        return sorted(self._held.values(), key=_order)

    def like(self, intention: Intention) -> Intention | None:
        """Another one between the same services."""
        return next((held for held in self._held.values() if held.id != intention.id and _same(held, intention)), None)

    def put(self, intention: Intention) -> None:
        """Add one, or replace that with its id."""
        known, number = self.get(intention.id), self._index.next(INTENTIONS)
        created = known.create_index if known else number
        self.load(replace(intention, create_index=created, modify_index=number))

    def delete(self, intention_id: str) -> bool:
        """Remove one; False when there is none with that id."""
        if self._held.pop(intention_id, None) is None:
            return False
        self._index.next(INTENTIONS)
        return True

    def match(self, end: str, service: str) -> list[Intention]:
        """Those that say something of a service as SOURCE or DESTINATION, the most precise first."""
        return [intention for intention in self.all() if intention.covers(end, service)]

    def allowed(self, source: str, destination: str) -> bool:
        """Whether one service may call another."""
        return _decided(i for i in self.match(DESTINATION, destination) if i.covers(SOURCE, source))


def _decided(found: Iterable[Intention]) -> bool:
    return next((intention.action == ALLOW for intention in found), True)


def _same(one: Intention, other: Intention) -> bool:
    return (one.source, one.destination) == (other.source, other.destination)


def _order(intention: Intention) -> tuple[int, str, str]:
    return -intention.precedence, intention.source, intention.destination
