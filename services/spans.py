"""Spans of what a service asks of others by other means than the mesh: statements, commands of Redis, HTTP requests.

Each is below the span of the work that it is part of; what is part of none, such as what a loop asks all the time, has
none. Names of attributes: https://opentelemetry.io/docs/specs/semconv/.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from opentelemetry.trace import Span

_PROPAGATOR = TraceContextTextMapPropagator()
_tracer = trace.get_tracer("meshwright.services")


class Asked:
    """A block that asks somebody for something; `about` gives the span's attributes where there is a span.

    The block is given that span, or else the one of the work in hand, whose context it may send on.
    """

    __slots__ = ("_about", "_expected", "_name", "_span")

    def __init__(
        self, name: str, about: Callable[[], Mapping[str, Any]], expected: type[BaseException] | None = None
    ) -> None:
        """An `expected` error is an answer like others: whoever asked knows what to do then."""
        self._name = name
        self._about = about
        self._expected = expected
        self._span: Span | None = None

    def __enter__(self) -> Span:
        current = trace.get_current_span()
        if not current.is_recording():
            return current
        self._span = _tracer.start_span(self._name, kind=SpanKind.CLIENT, attributes=self._about())
        return self._span

    def __exit__(self, kind: object, error: BaseException | None, stack: object) -> None:
        if self._span is None:
            return
        if error is not None and not (self._expected and isinstance(error, self._expected)):
            _fail(self._span, error)
        self._span.end()


def headers(span: Span) -> dict[str, str]:
    """A span as W3C trace context."""
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier, trace.set_span_in_context(span))
    return carrier


def _fail(span: Span, error: BaseException) -> None:
    """Say what went wrong: the code of Postgres or of HTTP, else the kind of error. Words may quote values."""
    state, status = getattr(error, "sqlstate", None), getattr(error, "status", None)
    if state:
        span.set_attribute("db.response.status_code", state)
    span.set_attribute("error.type", str(state or status or type(error).__qualname__))
    span.set_status(StatusCode.ERROR)
