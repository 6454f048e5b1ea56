"""Where a watcher stands in the events of all services, and which of them it wants. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from mesh import Refused
from meshwright.events.v1.event_pb2 import Event

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

USER_TYPES = frozenset({"user.created", "user.updated", "user.deactivated"})


def _types() -> frozenset[str]:
    """What events can be: for each body `created`, and its states where it has any."""
    found = set(USER_TYPES)
    for body in Event.DESCRIPTOR.oneofs_by_name["body"].fields:
        states = body.message_type.enum_types_by_name.get("State") if body.message_type else None
        names = [state.name.removeprefix("STATE_").lower() for state in states.values if state.number] if states else []
        found |= {f"{body.name}.{name}" for name in ["created", *names]}
    return frozenset(found)


TYPES = _types()
"""Types of events, as in `order.created`."""

KINDS = frozenset(name.partition(".")[0] for name in TYPES)
"""First words of these."""

_ID = re.compile(r"([a-z][a-z0-9-]{0,62})-([0-9]{1,18})")
_NOTHING = "0"


def event_id(service: str, number: int) -> str:
    """Name of an event."""
    return f"{service}-{number}"


@dataclass(frozen=True)
class Seen:
    """The newest event of each service that was seen. Within a service, numbers follow each other without gaps."""

    numbers: Mapping[str, int]

    @classmethod
    def parse(cls, text: str) -> Self:
        """From `order-12,sync-907`, or `0` for nothing at all. Raises `Refused`."""
        if text == _NOTHING:
            return cls({})
        found = [_ID.fullmatch(part) for part in text.split(",")]
        numbers = {match[1]: int(match[2]) for match in found if match}
        if len(numbers) != len(found):
            raise Refused.of([("last_event_id", "must be 0, or ids of events such as order-12,sync-907")])
        return cls(numbers)

    def __str__(self) -> str:
        return ",".join(event_id(*one) for one in sorted(self.numbers.items())) or _NOTHING

    def has(self, event: Event) -> bool:
        """Whether the event was seen."""
        return event.number <= self.numbers.get(event.service, 0)

    def misses(self, event: Event) -> bool:
        """Whether something lies between what was seen and this event."""
        return event.number > self.numbers.get(event.service, event.number - 1) + 1

    def after(self, events: Iterable[Event]) -> Self:
        """After these events too."""
        return type(self)({**self.numbers, **{event.service: event.number for event in events}})

    def add(self, event: Event) -> Self:
        """After this event too."""
        return type(self)({**self.numbers, event.service: event.number})


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which events a watcher wants; empty filters want all."""

    types: frozenset[str]
    subject: str

    @classmethod
    def of(cls, types: Iterable[str], subject: str) -> Self:
        """From a request. Raises `Refused` for types that no event can have."""
        types = list(types)
        known = f"must be one of {', '.join(sorted(KINDS | TYPES))}"
        if wrong := [(f"types[{n}]", known) for n, name in enumerate(types) if name not in KINDS | TYPES]:
            raise Refused.of(wrong)
        return cls(types=frozenset(types), subject=subject.lower())

    def takes(self, event: Event) -> bool:
        """Whether this is one of them."""
        kind = event.type.partition(".")[0]
        return (not self.types or bool(self.types & {event.type, kind})) and self.subject in ("", event.subject)

    def among(self, events: Iterable[Event], seen: Seen) -> Iterator[tuple[Event, Seen]]:
        """Those of them, each with what was seen after it; `seen` is what was seen before them all."""
        for event in events:
            seen = seen.add(event)
            if self.takes(event):
                yield event, seen
