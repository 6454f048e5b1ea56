"""Bounded memory of spans: by trace id, by service, oldest traces dropped first.

What is kept of a span is its own OTLP bytes and the few fields that lists and searches look at; attributes,
events and links are decoded when someone opens the trace. Resource and scope are kept once for all their spans.

Dropping: when the store is over one of its bounds, the trace that was added to least recently goes, whole, because
a trace with holes misleads. One trace may hold `max_trace_spans`; beyond that it loses its own oldest spans, so
that a runaway trace cannot push out all others. Everything dropped is counted.

Not safe for threads: one event loop owns it. The views that it hands out are immutable and may go to any thread.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from opentelemetry.proto.trace.v1 import trace_pb2

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from opentelemetry.proto.common.v1 import common_pb2
    from opentelemetry.proto.resource.v1 import resource_pb2

UNKNOWN_SERVICE = "unknown_service"
"""Service of a resource without `service.name`, as OpenTelemetry's resource conventions call it."""

# What CPython needs beside the OTLP bytes, measured with tracemalloc; the byte bound counts it.
SPAN_OVERHEAD = 400
TRACE_OVERHEAD = 600
ORIGIN_OVERHEAD = 800

_ERROR = trace_pb2.Status.STATUS_CODE_ERROR
_ERROR_KEY = b"\x0a\x05error"
"""The key `error` of an attribute as it is serialized: looking for that is cheaper than looking through all."""
_NO_TRACE = bytes(16)
_NO_SPAN = bytes(8)


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Bounds of the store; all are at least 1."""

    max_spans: int = 200_000
    max_bytes: int = 256 * 1024 * 1024
    max_trace_spans: int = 50_000


@dataclass(eq=False, slots=True)
class Origin:
    """Where spans come from: one process and one instrumentation scope, shared by all their spans."""

    service: str
    resource: bytes
    """Serialized opentelemetry.proto.resource.v1.Resource."""
    scope: bytes
    """Serialized opentelemetry.proto.common.v1.InstrumentationScope."""
    spans: int = 0
    """How many stored spans refer to it; at 0 it is forgotten."""

    @property
    def cost(self) -> int:
        """Bytes that the store counts for it."""
        return len(self.resource) + len(self.scope) + ORIGIN_OVERHEAD


class Span(NamedTuple):
    """One stored span; times in nanoseconds since 1970."""

    span_id: bytes
    parent_id: bytes
    """Empty for a root."""
    name: str
    kind: int
    start: int
    end: int
    error: bool
    origin: Origin
    data: bytes
    """Serialized opentelemetry.proto.trace.v1.Span."""

    @property
    def duration(self) -> int:
        """Nanoseconds, never negative."""
        return max(0, self.end - self.start)


class Trace(NamedTuple):
    """All stored spans of one trace at one moment, in order of arrival."""

    trace_id: bytes
    spans: tuple[Span, ...]


class Outcome(NamedTuple):
    """What became of one export."""

    stored: int
    duplicates: int
    refused: int
    reason: str
    """Why the first refused span was refused; empty if none was."""


@dataclass(slots=True)
class Counts:
    """Totals since the start."""

    stored: int = 0
    duplicates: int = 0
    refused: int = 0
    dropped_spans: int = 0
    dropped_traces: int = 0


@dataclass(eq=False, slots=True)
class _Entry:
    trace_id: bytes
    spans: dict[bytes, Span] = field(default_factory=dict)
    services: set[str] = field(default_factory=set)


class Store:
    """Spans of the newest traces, within `limits`."""

    def __init__(
        self, limits: Limits | None = None, watch: Callable[[bytes, Span, trace_pb2.Span], None] | None = None
    ) -> None:
        """An empty one; `watch` is given the trace id and both forms of every span that has just been stored."""
        self.limits = limits or Limits()
        self.watch = watch
        self.counts = Counts()
        self._traces: OrderedDict[bytes, _Entry] = OrderedDict()
        self._services: dict[str, dict[bytes, _Entry]] = {}
        self._origins: dict[tuple[bytes, bytes], Origin] = {}
        self._span_count = 0
        self._byte_count = 0

    @property
    def span_count(self) -> int:
        """Spans stored now."""
        return self._span_count

    @property
    def trace_count(self) -> int:
        """Traces stored now."""
        return len(self._traces)

    @property
    def byte_count(self) -> int:
        """Estimated bytes held now."""
        return self._byte_count

    def add(self, batches: Iterable[trace_pb2.ResourceSpans]) -> Outcome:
        """Store an export.

        A span that is there already (same trace and span id, as a retried export brings it) is stored once.
        One with an invalid id is refused; the others of the export are stored all the same.
        """
        before = (self.counts.stored, self.counts.duplicates, self.counts.refused)
        reason = ""
        for batch in batches:
            resource = batch.resource.SerializeToString()
            for part in batch.scope_spans:
                origin = self._origin(batch.resource, resource, part.scope)
                reason = self._add_spans(origin, part.spans) or reason
                self._release(origin, 0)
        self._shrink()
        stored, duplicates, refused = before
        now = self.counts
        return Outcome(now.stored - stored, now.duplicates - duplicates, now.refused - refused, reason)

    def trace(self, trace_id: bytes) -> Trace | None:
        """The trace with this id (16 bytes), or None."""
        entry = self._traces.get(trace_id)
        return Trace(trace_id, tuple(entry.spans.values())) if entry else None

    def span(self, trace_id: bytes, span_id: bytes) -> Span | None:
        """One span, or None."""
        entry = self._traces.get(trace_id)
        return entry.spans.get(span_id) if entry else None

    def traces(self) -> list[Trace]:
        """All traces, in no particular order."""
        return [Trace(entry.trace_id, tuple(entry.spans.values())) for entry in self._traces.values()]

    def services(self) -> list[str]:
        """Names of all services with a stored span, sorted."""
        return sorted({origin.service for origin in self._origins.values()})

    def traces_of(self, service: str) -> list[Trace]:
        """All traces in which this service takes part, in no particular order."""
        entries = self._services.get(service, {}).values()
        return [Trace(entry.trace_id, tuple(entry.spans.values())) for entry in entries]

    def _origin(self, resource: resource_pb2.Resource, data: bytes, scope: common_pb2.InstrumentationScope) -> Origin:
        key = (data, scope.SerializeToString())
        origin = self._origins.get(key)
        if origin is None:
            origin = self._origins[key] = Origin(_service_name(resource), *key)
            self._byte_count += origin.cost
        return origin

    def _add_spans(self, origin: Origin, spans: Iterable[trace_pb2.Span]) -> str:
        """Store the spans of one origin; answer why one was refused, or an empty string."""
        reason = ""
        entry = _Entry(b"")
        for span in spans:
            if problem := _problem(span):
                self.counts.refused += 1
                reason = reason or problem
                continue
            trace_id = span.trace_id
            if trace_id != entry.trace_id:
                entry = self._entry(trace_id)
            self._add_span(entry, origin, span)
        return reason

    def _entry(self, trace_id: bytes) -> _Entry:
        entry = self._traces.get(trace_id)
        if entry is None:
            entry = self._traces[trace_id] = _Entry(trace_id)
            self._byte_count += TRACE_OVERHEAD
        else:
            self._traces.move_to_end(trace_id)
        return entry

    def _add_span(self, entry: _Entry, origin: Origin, span: trace_pb2.Span) -> None:
        span_id = span.span_id
        if span_id in entry.spans:
            self.counts.duplicates += 1
            return
        kept = _keep(span, span_id, origin)
        entry.spans[span_id] = kept
        origin.spans += 1
        self.counts.stored += 1
        self._span_count += 1
        self._byte_count += len(kept.data) + SPAN_OVERHEAD
        if origin.service not in entry.services:
            entry.services.add(origin.service)
            self._services.setdefault(origin.service, {})[entry.trace_id] = entry
        if self.watch:
            self.watch(entry.trace_id, kept, span)
        if len(entry.spans) > self.limits.max_trace_spans:
            self._trim(entry)

    def _over(self) -> bool:
        return self._span_count > self.limits.max_spans or self._byte_count > self.limits.max_bytes

    def _shrink(self) -> None:
        while self._over() and self._traces:
            if len(self._traces) == 1:
                self._trim(next(iter(self._traces.values())))
            else:
                self._drop_trace(next(iter(self._traces)))

    def _trim(self, entry: _Entry) -> None:
        # A tenth at once: taking one at a time from the front of a dict costs O(n) each.
        oldest = list(islice(entry.spans, max(1, len(entry.spans) // 10)))
        for span_id in oldest:
            self._forget(entry.spans.pop(span_id))
        self._leave(entry, entry.services - {span.origin.service for span in entry.spans.values()})
        if not entry.spans:
            self._drop_trace(entry.trace_id)

    def _drop_trace(self, trace_id: bytes) -> None:
        entry = self._traces.pop(trace_id)
        for span in entry.spans.values():
            self._forget(span)
        self._leave(entry, set(entry.services))
        self._byte_count -= TRACE_OVERHEAD
        self.counts.dropped_traces += 1

    def _leave(self, entry: _Entry, services: set[str]) -> None:
        """These services have no span in the trace any more."""
        entry.services -= services
        for service in services:
            members = self._services[service]
            del members[entry.trace_id]
            if not members:
                del self._services[service]

    def _forget(self, span: Span) -> None:
        self._span_count -= 1
        self._byte_count -= len(span.data) + SPAN_OVERHEAD
        self.counts.dropped_spans += 1
        self._release(span.origin, 1)

    def _release(self, origin: Origin, spans: int) -> None:
        origin.spans -= spans
        if origin.spans == 0:
            del self._origins[origin.resource, origin.scope]
            self._byte_count -= origin.cost


def _problem(span: trace_pb2.Span) -> str:
    """Why a span cannot be stored, or an empty string."""
    trace_id, span_id, parent = span.trace_id, span.span_id, span.parent_span_id
    if len(trace_id) != 16 or trace_id == _NO_TRACE:
        return f"trace_id must be 16 bytes and not all zero, got {trace_id[:20].hex() or 'none'}"
    if len(span_id) != 8 or span_id == _NO_SPAN:
        return f"span_id must be 8 bytes and not all zero, got {span_id[:20].hex() or 'none'}"
    if len(parent) not in (0, 8):
        return f"parent_span_id must be 8 bytes or empty, got {parent[:20].hex()}"
    return ""


def _keep(span: trace_pb2.Span, span_id: bytes, origin: Origin) -> Span:
    parent, data = span.parent_span_id, span.SerializeToString()
    return Span(
        span_id,
        parent if parent != _NO_SPAN else b"",
        sys.intern(span.name),
        span.kind,
        span.start_time_unix_nano,
        span.end_time_unix_nano,
        span.status.code == _ERROR or (_ERROR_KEY in data and _says_error(span)),
        origin,
        data,
    )


def _says_error(span: trace_pb2.Span) -> bool:
    """Whether a tag says so, as Envoy's do where no answer came, in place of the status."""
    said = next((one.value for one in span.attributes if one.key == "error"), None)
    return said is not None and (said.bool_value or said.string_value == "true")


def _service_name(resource: resource_pb2.Resource) -> str:
    for attribute in resource.attributes:
        if attribute.key == "service.name":
            return attribute.value.string_value or UNKNOWN_SERVICE
    return UNKNOWN_SERVICE
