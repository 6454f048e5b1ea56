"""Calls put together out of spans as they come, for whoever watches them live. Pure.

A call is a CLIENT span with the SERVER spans below it, which are its attempts; either may be missing. As nobody says
when the last of them has come, a call is told when its caller has spoken and nothing came for `SETTLE_SECONDS`, or when
nothing came for `PATIENCE_SECONDS`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from console import facts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.proto.trace.v1 import trace_pb2

    from console.facts import Facts
    from console.store import Span

SETTLE_SECONDS = 1.0
PATIENCE_SECONDS = 3.0
WAITING = 10_000
"""How many calls may wait; beyond that the oldest is told as it is."""

_SERVER, _CLIENT = 2, 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Wish:
    """Which calls somebody wants to see; all that are given must hold."""

    service: str = ""
    method: str = ""
    """By its name alone, or in full."""

    failed: bool = False
    """Only those that failed."""

    min_milliseconds: float = 0.0

    def takes(self, call: Mapping[str, Any]) -> bool:
        """Whether this is one of them."""
        return (
            self.service in ("", call["service"])
            and self.method in ("", call["method"], call["method"].rpartition("/")[2])
            and (call["failed"] or not self.failed)
            and call["duration"] >= self.min_milliseconds
        )


@dataclass(eq=False, slots=True)
class _Call:
    trace_id: bytes
    heard: float
    client: tuple[Span, Facts] | None = None
    attempts: list[tuple[Span, Facts, int]] = field(default_factory=list)


class Calls:
    """Those that are not told yet; `now` is in seconds on any clock that only goes forth."""

    def __init__(self) -> None:
        self._waiting: dict[bytes, _Call] = {}

    def take(self, trace_id: bytes, span: Span, full: trace_pb2.Span, now: float) -> None:
        """One span that has just come."""
        if span.kind not in (_SERVER, _CLIENT):
            return
        said = facts.read(full, error=span.error)
        if span.kind == _CLIENT and (said.is_store or not said.kind):
            return
        key = trace_id + ((span.parent_id or span.span_id) if span.kind == _SERVER else span.span_id)
        call = self._waiting.setdefault(key, _Call(trace_id, now))
        call.heard = now
        if span.kind == _CLIENT:
            call.client = span, said
        else:
            call.attempts.append((span, said, _attempt(full)))

    def due(self, now: float) -> Iterator[dict[str, Any]]:
        """The calls that have come to rest, each once."""
        surplus = len(self._waiting) - WAITING
        for at, (key, call) in enumerate(list(self._waiting.items())):
            patience = SETTLE_SECONDS if call.client and call.attempts else PATIENCE_SECONDS
            if at < surplus or call.heard + patience <= now:
                del self._waiting[key]
                yield _told(call)

    def clear(self) -> None:
        """Nobody watches any more."""
        self._waiting.clear()


def _told(call: _Call) -> dict[str, Any]:
    """A call as JSON, as its caller saw it if that spoke; times in milliseconds, `at` in those since 1970."""
    attempts = sorted(call.attempts, key=lambda one: one[0].end)
    (first, said), last = call.client or attempts[-1][:2], attempts[-1] if attempts else None
    return {
        "at": first.start / 1e6,
        "caller": first.origin.service if call.client else "",
        "service": last[0].origin.service if last else said.peer,
        "method": last[0].name if last else first.name,
        "instance": facts.instance(last[0].origin.resource) if last else "",
        "status": said.status or (last[1].status if last else "") or ("ERROR" if first.error else "OK"),
        "failed": first.error,
        "duration": first.duration / 1e6,
        "attempts": max((number for *_, number in attempts), default=1),
        "trace_id": call.trace_id.hex(),
        "span_id": first.span_id.hex(),
    }


def _attempt(span: trace_pb2.Span) -> int:
    return next((max(1, one.value.int_value) for one in span.attributes if one.key == "meshwright.attempt"), 1)
