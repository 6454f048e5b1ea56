"""The trace of a change, kept with its event."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from opentelemetry.trace import Link, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from services.events.stream import STREAM

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from services.database import Connection, Database

SET = "SELECT set_config('meshwright.traceparent', $1, true)"
"""Says of which trace ($1) the changes of a transaction are."""

_PROPAGATOR = TraceContextTextMapPropagator()
_KEY = "traceparent"


def current() -> str:
    """The current span as W3C trace context; empty without one."""
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier)
    return carrier.get(_KEY, "")


@asynccontextmanager
async def transaction(database: Database) -> AsyncIterator[Connection]:
    """A transaction whose changes are of the current trace."""
    async with database.transaction() as connection:
        if traceparent := current():
            await connection.execute(SET, traceparent)
        yield connection


def follow(traceparent: str) -> None:
    """Link the current span to the one that a change was made in."""
    for link in links([traceparent]):
        get_current_span().add_link(link.context)


def links(traceparents: Iterable[str]) -> list[Link]:
    """One link to each of the traces that are recorded."""
    found = (get_current_span(_PROPAGATOR.extract({_KEY: text})).get_span_context() for text in set(traceparents))
    return [Link(context) for context in found if context.is_valid and context.trace_flags.sampled]


def about(name: str, kind: str, count: int) -> dict[str, str | int]:
    """Attributes of a span about so many events: https://opentelemetry.io/docs/specs/semconv/messaging/."""
    return {
        "messaging.system": "redis",
        "messaging.destination.name": STREAM,
        "messaging.operation.name": name,
        "messaging.operation.type": kind,
        "messaging.batch.message_count": count,
    }
