"""Spans by OpenTelemetry's API, for what a fifth of the SDK's cost: a call that is traced should cost a call.

A span is a few plain fields until it has ended; `mesh.span_bytes` makes OTLP of it in the thread that exports. A
process that sets a provider of its own, such as the SDK's with processors of its own, is left with that.
https://opentelemetry.io/docs/specs/otel/trace/api/ Pure.
"""

from __future__ import annotations

import random
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState
from opentelemetry.util._decorator import _agnosticcontextmanager

from mesh.recovery import nanoseconds

if TYPE_CHECKING:
    from types import TracebackType

    from opentelemetry.context import Context
    from opentelemetry.trace import Link

MOST = 128
"""Attributes, events and links of one span; those beyond are counted. The specification's own limit."""

_RANDOM = 2
"""Flag of a trace whose id is random. https://www.w3.org/TR/trace-context-2/#random-trace-id-flag"""
_FLAGS = tuple(map(TraceFlags, range(4)))
_ALL = 1 << 64

Samples = Callable[[int, SpanContext], bool]
"""Whether to record a span: by the id of its trace, and by its parent, which may be invalid."""


class Scope(NamedTuple):
    """What made a span."""

    name: str
    version: str


class Event(NamedTuple):
    """Something that happened while a span was open."""

    name: str
    at: int
    """Nanoseconds since 1970."""
    attributes: Mapping[str, Any]


class Lost(NamedTuple):
    """What a span had no room for."""

    attributes: int = 0
    events: int = 0
    links: int = 0


NONE_LOST = Lost()


class LiveSpan(trace.Span):
    """A span that is recorded; given to `done` once, when it ends. Times are in nanoseconds since 1970.

    What few spans have is made when it is asked for: each object that lives as long as a span is work for the
    collector of garbage too.
    """

    ended: int = 0
    """0 while it is open."""
    status: StatusCode = StatusCode.UNSET
    message: str = ""
    events: Sequence[Event] = ()
    links: Sequence[tuple[SpanContext, Mapping[str, Any]]] = ()
    lost: Lost = NONE_LOST
    _context: SpanContext | None = None

    def __init__(
        self, name: str, trace_id: int, parent: SpanContext | None, kind: SpanKind,
        attributes: dict[str, Any], start: int, scope: Scope, done: Callable[[LiveSpan], None],
    ) -> None:  # fmt: skip
        self.name = name
        self.trace_id = trace_id
        self.span_id = random.getrandbits(64) or 1
        self.parent = parent
        """None for the first span of a trace."""
        self.kind = kind
        self.attributes = attributes
        self.start = start
        self.scope = scope
        self._done = done

    @property
    def flags(self) -> int:
        """Those of W3C."""
        return TraceFlags.SAMPLED | (_RANDOM if self.parent is None else self.parent.trace_flags & _RANDOM)

    @property
    def state(self) -> TraceState | None:
        """What others have put into the context of the trace."""
        return self.parent.trace_state if self.parent else None

    def get_span_context(self) -> SpanContext:
        """Who it is."""
        if self._context is None:
            self._context = SpanContext(self.trace_id, self.span_id, False, _FLAGS[self.flags], self.state)
        return self._context

    def is_recording(self) -> bool:
        """Whether it is open."""
        return not self.ended

    def end(self, end_time: int | None = None) -> None:
        """The first time counts."""
        if not self.ended:
            self.ended = _at(end_time) if end_time else nanoseconds()
            self._done(self)

    def set_attribute(self, key: str, value: Any) -> None:
        """Text, a number, a truth value, or a sequence of those."""
        if self.ended:
            return
        if len(self.attributes) < MOST or key in self.attributes:
            self.attributes[key] = value
        else:
            self._lose(attributes=1)

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Several."""
        if not self.ended and len(self.attributes) + len(attributes) <= MOST:
            self.attributes.update(attributes)
            return
        for key, value in attributes.items():
            self.set_attribute(key, value)

    def add_event(self, name: str, attributes: Mapping[str, Any] | None = None, timestamp: int | None = None) -> None:
        """Something happened; now, unless it says when."""
        if len(self.events) >= MOST:
            self._lose(events=1)
        elif not self.ended:
            self.events = [*self.events, Event(name, _at(timestamp), dict(attributes or {}))]

    def add_link(self, context: SpanContext, attributes: Mapping[str, Any] | None = None) -> None:
        """Another span has to do with it."""
        if len(self.links) >= MOST:
            self._lose(links=1)
        elif not self.ended and context.is_valid:
            self.links = [*self.links, (context, dict(attributes or {}))]

    def _lose(self, attributes: int = 0, events: int = 0, links: int = 0) -> None:
        lost = self.lost
        self.lost = Lost(lost.attributes + attributes, lost.events + events, lost.links + links)

    def update_name(self, name: str) -> None:
        """Call it something else."""
        if not self.ended:
            self.name = name

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        """How it went. OK is the last word, and UNSET is none."""
        code = status.status_code if isinstance(status, Status) else status
        said = status.description if isinstance(status, Status) else description
        if not self.ended and self.status is not StatusCode.OK and code is not StatusCode.UNSET:
            self.status, self.message = code, (said or "") if code is StatusCode.ERROR else ""

    def record_exception(
        self, exception: BaseException, attributes: Mapping[str, Any] | None = None, timestamp: int | None = None,
        escaped: bool = False,
    ) -> None:  # fmt: skip
        """An event with the error's type, message and stack."""
        said = {
            "exception.type": _type_name(exception),
            "exception.message": _text(exception),
            "exception.stacktrace": "".join(traceback.format_exception(exception)),
            **(attributes or {}),
        }
        self.add_event("exception", said, timestamp)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, stack: TracebackType | None
    ) -> None:
        if isinstance(error, Exception):
            self.fail(error)
        self.end()

    def fail(self, error: Exception, *, record: bool = True, status: bool = True) -> None:
        """An error ended what the span is about."""
        if record:
            self.record_exception(error)
        if status:
            self.set_status(StatusCode.ERROR, f"{type(error).__name__}: {_text(error)}")


class Tracer(trace.Tracer):
    """Makes the spans of one scope."""

    def __init__(self, scope: Scope, samples: Samples, done: Callable[[LiveSpan], None]) -> None:
        self._scope = scope
        self._samples = samples
        self._done = done

    def start_span(
        self, name: str, context: Context | None = None, kind: SpanKind = SpanKind.INTERNAL,
        attributes: Mapping[str, Any] | None = None, links: Sequence[Link] | None = None,
        start_time: int | None = None, record_exception: bool = True, set_status_on_exception: bool = True,
    ) -> trace.Span:  # fmt: skip
        """A span below the one that is current in the context, not current itself."""
        parent = trace.get_current_span(context).get_span_context()
        span = self.below(parent, name, kind, attributes or {}, start_time)
        for link in links or ():
            span.add_link(link.context, link.attributes)
        return span

    def below(
        self, parent: SpanContext, name: str, kind: SpanKind, attributes: Mapping[str, Any], start: int | None = None
    ) -> trace.Span:
        """A span below another, or the first of a trace where that one is not valid."""
        above = parent.is_valid
        trace_id = parent.trace_id if above else random.getrandbits(128) or 1
        if self._samples(trace_id, parent):
            return LiveSpan(
                name, trace_id, parent if above else None, kind, dict(attributes),
                _at(start) if start else nanoseconds(), self._scope, self._done,
            )  # fmt: skip
        if above and not parent.trace_flags & TraceFlags.SAMPLED:
            return NonRecordingSpan(parent)
        flags = _FLAGS[parent.trace_flags & _RANDOM if above else _RANDOM]
        return NonRecordingSpan(SpanContext(trace_id, random.getrandbits(64) or 1, False, flags, parent.trace_state))

    @_agnosticcontextmanager
    def start_as_current_span(
        self, name: str, context: Context | None = None, kind: SpanKind = SpanKind.INTERNAL,
        attributes: Mapping[str, Any] | None = None, links: Sequence[Link] | None = None,
        start_time: int | None = None, record_exception: bool = True, set_status_on_exception: bool = True,
        end_on_exit: bool = True,
    ) -> Iterator[trace.Span]:  # fmt: skip
        """A span that is current within the block."""
        span = self.start_span(name, context, kind, attributes, links, start_time)
        with trace.use_span(span, end_on_exit, record_exception=False, set_status_on_exception=False):
            try:
                yield span
            except Exception as error:
                if isinstance(span, LiveSpan):
                    span.fail(error, record=record_exception, status=set_status_on_exception)
                raise


def sampler(name: str, ratio: float) -> Samples:
    """What OTEL_TRACES_SAMPLER names; `ratio` (0 to 1) is for those that take a share of the traces."""
    follows = name.startswith("parentbased_")
    bound = {"always_on": _ALL, "always_off": 0}.get(name.removeprefix("parentbased_"), round(ratio * _ALL))

    def samples(trace_id: int, parent: SpanContext) -> bool:
        if follows and parent.is_valid:
            return bool(parent.trace_flags & TraceFlags.SAMPLED)
        return trace_id % _ALL < bound

    return samples


def _at(given: float | None) -> int:
    """A time that a program gave, who may have one with a fraction; now, unless it is one."""
    with suppress(TypeError, ValueError, OverflowError):
        return int(given or 0) or nanoseconds()
    return nanoseconds()


def _text(error: BaseException) -> str:
    """What it says of itself; in the stack's own words where that fails, as it is a program's code."""
    try:
        return str(error)
    except Exception:
        return f"<exception {type(error).__name__}.__str__() failed>"


def _type_name(error: BaseException) -> str:
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


