"""Spans put together to calls: who called whom, how long it took the caller, and how it ended for the caller. Pure.

A call is a CLIENT span; who answered is the service of the first SERVER span below it, whichever of them comes first.
More SERVER spans below it are attempts of the same call. Where nobody answers for `PATIENCE_SECONDS`, the callee is the
name that was dialled. A SERVER span whose caller sends no spans counts as a call from `OUTSIDE`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from console.facts import Facts
    from console.store import Span

    Find = Callable[[bytes, bytes], Span | None]
    Links = Iterator[tuple[bytes, bytes]]

OUTSIDE = "outside"
"""The caller of which nothing is known."""

PATIENCE_SECONDS = 15.0
WAITING = 10_000
"""How many of either half may wait; beyond that the oldest counts as it is."""

_SERVER, _CLIENT, _PRODUCER, _CONSUMER = 2, 3, 4, 5


class Edge(NamedTuple):
    """Who calls whom, and how: rpc, http, sql, redis or event."""

    caller: str
    callee: str
    kind: str


class Call(NamedTuple):
    """One call, as its caller saw it."""

    edge: Edge
    end: int
    """Nanoseconds since 1970."""
    duration: int
    """Nanoseconds."""
    failed: bool
    retried: bool = False
    """Whether it replaces the one before on the same edge, which failed."""


class _Half(NamedTuple):
    call: Call
    since: float


class Pairing:
    """Takes one span after the other; `now` is in seconds on any clock that only goes forth."""

    def __init__(self, find: Find) -> None:
        self._find = find
        self._asked: dict[bytes, _Half] = {}
        """Calls that nobody answered yet, by trace and span id, oldest first."""
        self._answered: dict[bytes, _Half] = {}
        """Calls whose caller is not there yet, by trace and its span id, oldest first."""

    def take(self, trace_id: bytes, span: Span, facts: Facts, links: Links, now: float) -> Iterator[Call]:
        """The calls that are known by this span."""
        key = trace_id + span.span_id
        answered = self._answered.pop(key, None) if self._answered else None
        if span.kind == _CLIENT:
            yield from self._client(key, span, facts, answered, now)
        elif answered and answered.call.edge.callee != span.origin.service:
            yield _between(span.origin.service, answered.call)
        if span.kind == _SERVER:
            yield from self._server(trace_id, span, facts, now)
        elif span.kind == _PRODUCER:
            yield _call(Edge(span.origin.service, facts.peer or "messages", "event"), span, facts)
        elif span.kind == _CONSUMER:
            yield from self._consumer(span, facts, links)

    def settle(self, now: float) -> Iterator[Call]:
        """The calls whose other half will not come."""
        for half in _drain(self._asked, now - PATIENCE_SECONDS, WAITING):
            if half.call.edge.callee:
                yield half.call
        for half in _drain(self._answered, now - PATIENCE_SECONDS, WAITING):
            yield _between(OUTSIDE, half.call)

    def _client(self, key: bytes, span: Span, facts: Facts, answered: _Half | None, now: float) -> Iterator[Call]:
        call = _call(Edge(span.origin.service, facts.peer, facts.kind), span, facts)
        if facts.is_store:
            yield call
        elif answered is None:
            self._asked[key] = _Half(call, now)
        elif call.edge.caller != (callee := answered.call.edge.callee):
            yield _answer(call, callee)

    def _server(self, trace_id: bytes, span: Span, facts: Facts, now: float) -> Iterator[Call]:
        service = span.origin.service
        call = _call(Edge(OUTSIDE, service, facts.kind), span, facts)
        if not span.parent_id:
            yield call
            return
        key = trace_id + span.parent_id
        if asked := self._asked.pop(key, None):
            if asked.call.edge.caller != service:
                yield _answer(asked.call, service)
        elif (parent := self._find(trace_id, span.parent_id)) is None:
            self._answered.setdefault(key, _Half(call, now))
        elif parent.kind != _CLIENT and parent.origin.service != service:
            yield _between(parent.origin.service, call)

    def _consumer(self, span: Span, facts: Facts, links: Links) -> Iterator[Call]:
        service = span.origin.service
        linked = (self._find(*link) for link in links)
        callers = {one.origin.service for one in linked if one} - {service}
        for caller in sorted(callers):
            yield _call(Edge(caller, service, "event"), span, facts)


def _call(edge: Edge, span: Span, facts: Facts) -> Call:
    return Call(edge, span.end, span.duration, facts.failed, facts.retried)


def _answer(call: Call, callee: str) -> Call:
    return call._replace(edge=call.edge._replace(callee=callee))


def _between(caller: str, call: Call) -> Call:
    return call._replace(edge=call.edge._replace(caller=caller))


def _drain(waiting: dict[bytes, _Half], until: float, limit: int) -> Iterator[_Half]:
    while waiting and (len(waiting) > limit or next(iter(waiting.values())).since <= until):
        yield waiting.pop(next(iter(waiting)))
