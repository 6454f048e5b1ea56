"""What all spans of the last hour amount to: figures for each edge and each method, in steps of ten seconds. Pure.

Spans are folded as they are stored, so that nobody counts 200,000 of them to draw a map. Keys and cells are bounded:
what has no room goes to the key of all others, and the oldest step goes first.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from console import facts
from console.figures import Figures
from console.pairing import Call, Edge, Pairing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.proto.trace.v1 import trace_pb2

    from console.pairing import Find
    from console.store import Span

STEP = 10 * 10**9
"""Nanoseconds of one step."""
STEPS = 360
"""Steps that are kept: an hour."""
MAX_KEYS = 1_000
MAX_CELLS = 50_000
"""About 40 MB when each is full."""
MAX_MISTAKES = 50
OTHER = "other"

_SERVER = 2

K = TypeVar("K")


class Ring(Generic[K]):
    """Figures by key and step."""

    def __init__(self, other: K, *, max_keys: int = MAX_KEYS, max_cells: int = MAX_CELLS) -> None:
        self.surplus = 0
        """How many calls were counted for `other`, as their own key had no room."""
        self._other = other
        self._max_keys = max_keys
        self._max_cells = max_cells
        self._steps: dict[int, dict[K, Figures]] = {}
        self._uses: dict[K, int] = {}
        self._cells = 0

    def cell(self, key: K, at: int, now: int) -> Figures | None:
        """Where to count a call that ended at `at`; None when that is over an hour ago. Times: nanoseconds since 1970.

        What ended in the future, by a clock that is wrong, ended now.
        """
        number, newest = min(at, now) // STEP, now // STEP
        if number <= newest - STEPS:
            return None
        step = self._steps.get(number)
        if step is None:
            self._expire(newest)
            step = self._steps[number] = {}
        found = step.get(key)
        return found if found is not None else self._new(step, key)

    def last(self, key: K, now: int) -> Figures | None:
        """The newest cell of a key."""
        newest = now // STEP
        return next((s[key] for n in range(newest, newest - STEPS, -1) if (s := self._steps.get(n)) and key in s), None)

    def known(self) -> list[K]:
        """Whatever was counted within the hour."""
        return list(self._uses)

    def sums(self, now: int, steps: int) -> dict[K, Figures]:
        """Figures of the last whole steps and of the one that is not over yet, by key."""
        found: dict[K, Figures] = {}
        for _, step in self.series(now, steps):
            for key, figures in step.items():
                found.setdefault(key, Figures()).add(figures)
        return found

    def series(self, now: int, steps: int) -> Iterator[tuple[int, dict[K, Figures]]]:
        """When each of the last steps began, and its figures; oldest first, the one that is not over included."""
        newest = now // STEP
        for number in range(newest - min(steps, STEPS), newest + 1):
            yield number * STEP, self._steps.get(number, {})

    def _new(self, step: dict[K, Figures], key: K) -> Figures:
        if key not in self._uses and len(self._uses) >= self._max_keys:
            self.surplus += 1
            key = self._other
            if key in step:
                return step[key]
        self._uses[key] = self._uses.get(key, 0) + 1
        self._cells += 1
        made = step[key] = Figures()
        if self._cells > self._max_cells and len(self._steps) > 1:
            self._drop(min(self._steps))
        return made

    def _expire(self, newest: int) -> None:
        for number in [one for one in self._steps if one <= newest - STEPS]:
            self._drop(number)

    def _drop(self, number: int) -> None:
        for key in self._steps.pop(number):
            self._cells -= 1
            self._uses[key] -= 1
            if not self._uses[key]:
                del self._uses[key]


class Mistake(NamedTuple):
    """A call that a service answered with an error of its own."""

    trace_id: bytes
    span_id: bytes
    method: str
    end: int
    duration: int
    status: str
    message: str


class Digest:
    """Figures of edges and methods, and the newest mistakes of each service."""

    def __init__(self, find: Find) -> None:
        self.edges: Ring[Edge] = Ring(Edge(OTHER, OTHER, ""))
        self.methods: Ring[tuple[str, str]] = Ring((OTHER, OTHER))
        self._mistakes: dict[str, deque[Mistake]] = {}
        self._pairing = Pairing(find)

    def fold(self, trace_id: bytes, span: Span, full: trace_pb2.Span, now: int) -> None:
        """Count one span that has just been stored; `now` in nanoseconds since 1970."""
        said = facts.read(full, error=span.error) if span.kind > 1 else _NOTHING
        links = ((link.trace_id, link.span_id) for link in full.links)
        for call in self._pairing.take(trace_id, span, said, links, now / 1e9):
            self._count(call, now)
        if span.kind == _SERVER:
            self._serve(trace_id, span, full, said, now)

    def settle(self, now: int) -> None:
        """Count the calls whose other half will not come; to be done about once a second."""
        for call in self._pairing.settle(now / 1e9):
            self._count(call, now)

    def mistakes(self, service: str) -> list[Mistake]:
        """The newest ones, newest first."""
        return [*reversed(self._mistakes.get(service, ()))]

    def _count(self, call: Call, now: int) -> None:
        if call.retried and (before := self.edges.last(call.edge, now)):
            before.amend(failed=call.failed)
        elif cell := self.edges.cell(call.edge, call.end, now):
            cell.count(call.duration, failed=call.failed)

    def _serve(self, trace_id: bytes, span: Span, full: trace_pb2.Span, said: facts.Facts, now: int) -> None:
        service = span.origin.service
        if cell := self.methods.cell((service, span.name), span.end, now):
            cell.count(span.duration, failed=said.failed)
        if said.failed and (service in self._mistakes or len(self._mistakes) < MAX_KEYS):
            kept = self._mistakes.setdefault(service, deque(maxlen=MAX_MISTAKES))
            message = full.status.message[:500]
            kept.append(Mistake(trace_id, span.span_id, span.name, span.end, span.duration, said.status, message))


_NOTHING = facts.Facts("", "", False, "", False, False)
