"""Spans of what a service asks of others by other means than the mesh: statements, commands of Redis, HTTP requests.

Each is below the span of the work that it is part of; what is part of none, such as what a loop asks all the time, has
none. Names of attributes: https://opentelemetry.io/docs/specs/semconv/.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from opentelemetry.trace import Span

_tracer = trace.get_tracer("meshwright.services")


class Asked:
    """A block that asks somebody for something; `about` gives the span's attributes where there is a span."""

    __slots__ = ("_about", "_name", "_span")

    def __init__(self, name: str, about: Callable[[], Mapping[str, Any]]) -> None:
        self._name = name
        self._about = about
        self._span: Span | None = None

    def __enter__(self) -> None:
        if trace.get_current_span().is_recording():
            self._span = _tracer.start_span(self._name, kind=SpanKind.CLIENT, attributes=self._about())

    def __exit__(self, kind: object, error: BaseException | None, stack: object) -> None:
        if self._span is None:
            return
        if error is not None:
            fail(self._span, error)
        self._span.end()


def fail(span: Span, error: BaseException) -> None:
    """Say what went wrong; a statement's error has a code of Postgres. Words are left out, as they may quote values."""
    state = getattr(error, "sqlstate", None)
    if state:
        span.set_attribute("db.response.status_code", state)
    span.set_attribute("error.type", state or type(error).__qualname__)
    span.set_status(StatusCode.ERROR)
