"""Calls that held the event loop of their process up, as the mesh's watchdog tells by an event on their spans. Pure."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from console import facts
from mesh.tracing import LOOP_HELD_UP

if TYPE_CHECKING:
    from collections.abc import Iterable

    from opentelemetry.proto.common.v1 import common_pb2
    from opentelemetry.proto.trace.v1 import trace_pb2

    from console.store import Span

MAX_STALLS = 20
"""Newest ones that are kept of each service."""
MAX_SERVICES = 1_000
_MAX_TEXT = 300


class Stall(NamedTuple):
    """One call that held a loop up; times in nanoseconds, `at` since 1970."""

    trace_id: bytes
    span_id: bytes
    method: str
    instance: str
    """`service.instance.id`; empty where the process does not say."""
    at: int
    duration: int
    """Of the whole call, which can be longer than it held the loop up."""
    by: str
    """The innermost call of the program's own code, as `name (file:line)`; empty if it is not told."""


class Stalls:
    """The newest ones of each service."""

    def __init__(self) -> None:
        self._held: dict[str, deque[Stall]] = {}

    def take(self, trace_id: bytes, span: Span, full: trace_pb2.Span) -> None:
        """Keep the stall that a span tells of, if it tells of one."""
        event = next((one for one in full.events if one.name == LOOP_HELD_UP), None)
        service = span.origin.service
        if event is None or (service not in self._held and len(self._held) >= MAX_SERVICES):
            return
        self._held.setdefault(service, deque(maxlen=MAX_STALLS)).append(Stall(
            trace_id, span.span_id, span.name, facts.instance(span.origin.resource), event.time_unix_nano,
            span.duration, _by(event.attributes),
        ))  # fmt: skip

    def of(self, service: str) -> list[Stall]:
        """The newest first."""
        return [*reversed(self._held.get(service, ()))]


def _by(attributes: Iterable[common_pb2.KeyValue]) -> str:
    said = _texts(attributes)
    if not (name := said.get("code.function.name")):
        return ""
    return f"{name} ({said.get('code.file.path', '?')}:{said.get('code.line.number', '?')})"


def _texts(attributes: Iterable[common_pb2.KeyValue]) -> dict[str, str]:
    return {
        one.key: (one.value.string_value or str(one.value.int_value))[:_MAX_TEXT] for one in attributes
    }
