"""One span around each RPC, and W3C trace context in gRPC metadata, cheap enough for every call.

Names and attributes follow OpenTelemetry's RPC conventions (https://opentelemetry.io/docs/specs/semconv/rpc/).
Two attributes are the mesh's own: `meshwright.attempt` (1 for the first) and `meshwright.deadline_seconds`
(what was left when the call began). Trace context: https://www.w3.org/TR/trace-context/
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

from opentelemetry.context import Context, attach
from opentelemetry.trace import (
    INVALID_SPAN,
    NonRecordingSpan,
    ProxyTracerProvider,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    Tracer,
    TraceState,
    get_current_span,
    get_tracer,
    get_tracer_provider,
    set_span_in_context,
)

from mesh import spans
from mesh.errors import FAULTS, Code

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
(_SPAN_KEY,) = set_span_in_context(INVALID_SPAN, Context())
SERVER_FAULTS = FAULTS - {Code.RESOURCE_EXHAUSTED}
"""Codes that make a server's span an error, by the conventions: to them, who asks too much is at fault."""

LOOP_HELD_UP = "event loop held up"
"""Event on the span of a call that held the event loop of its process up, with the code that did."""


class Source:
    """Starts spans with the provider that the process has set, also when that is set later.

    The mesh's own tracer is asked without a context around the parent. To any other, below an unsampled span, a sampler
    that follows its parent can only say no: it is not asked, and no span is made, which saves a tenth of a call.
    """

    def __init__(self) -> None:
        self._tracer: Tracer = get_tracer("meshwright")
        self._obeys: bool | None = None

    def start(
        self, name: str, kind: SpanKind, attributes: Mapping[str, str | int], parent: Span | None = None
    ) -> Span:
        """A span below the parent, or below the current span."""
        above = (parent or get_current_span()).get_span_context()
        tracer = self._tracer
        if type(tracer) is spans.Tracer:
            return tracer.below(above, name, kind, attributes)
        if above.is_valid and not above.trace_flags.sampled and self._obeys_parents():
            return NonRecordingSpan(above)
        span = tracer.start_span(name, _holding(parent) if parent else None, kind, attributes)
        if type(span) is spans.LiveSpan:
            self._tracer = get_tracer("meshwright")  # was made before the provider was set
        return span

    def _obeys_parents(self) -> bool:
        if self._obeys is None:
            provider = get_tracer_provider()
            if isinstance(provider, ProxyTracerProvider):
                return True
            self._obeys = _obeys(getattr(provider, "sampler", None))
        return self._obeys


def _obeys(sampler: Any) -> bool:
    """Whether a sampler never samples below an unsampled span, by its description (the SDK may not be loaded)."""
    said = sampler.get_description() if sampler else ""
    off = ("remoteParentNotSampled:AlwaysOffSampler", "localParentNotSampled:AlwaysOffSampler")
    return said == "AlwaysOffSampler" or all(part in said for part in off)


@dataclass(frozen=True, kw_only=True, slots=True)
class Inbound:
    """What the metadata of an inbound call says about its trace."""

    parent: SpanContext | None = None
    attempt: int | None = None
    """1 for the first; None when nobody counted."""

    @classmethod
    def of(cls, metadata: Iterable[tuple[str, str | bytes]]) -> Inbound:
        """Read `traceparent`, `tracestate` and the attempt counts of gRPC and Envoy; what is malformed is ignored."""
        values = {key: value for key, value in metadata if key in _KEYS and isinstance(value, str)}
        return cls(parent=_parent(values), attempt=_attempt(values))


_KEYS = frozenset({"traceparent", "tracestate", "grpc-previous-rpc-attempts", "x-envoy-attempt-count"})


def server_span(source: Source, name: str, attributes: Mapping[str, str], inbound: Inbound) -> Span:
    """Start the span of an inbound call and make it the current one of this task, for the task's whole life."""
    parent = NonRecordingSpan(inbound.parent) if inbound.parent else INVALID_SPAN
    span = source.start(name, SpanKind.SERVER, attributes, parent)
    if inbound.attempt is not None and span.is_recording():
        span.set_attribute("meshwright.attempt", inbound.attempt)
    attach(_holding(span))
    return span


def _holding(span: Span) -> Context:
    """A context of nothing but the span: `set_span_in_context` copies one, and asks for the current one first."""
    return Context({_SPAN_KEY: span})


def set_caller(span: Span, peer: str, left_seconds: float | None) -> None:
    """Record gRPC's name of the other side, and the time that it gave.

    The name is `ipv4:127.0.0.1:5000`, `ipv6:%5B::1%5D:5000` or `unix:`.
    """
    span.set_attributes(_peer(peer))
    if left_seconds is not None:
        span.set_attribute("meshwright.deadline_seconds", left_seconds)


@lru_cache
def _peer(peer: str) -> dict[str, str | int]:
    """Read once for each connection."""
    scheme, _, rest = unquote(peer).partition(":")
    address, _, port = rest.rpartition(":")
    if scheme not in ("ipv4", "ipv6") or not port.isdecimal():
        return {}
    return {"network.peer.address": address.strip("[]"), "network.peer.port": int(port)}


def place(service: str, target: str) -> dict[str, str | int]:
    """Attributes about where calls of a channel go: to a service, whose instance gRPC chooses, or to one host."""
    found = _HOST.fullmatch(target)
    if not found:
        return {"server.address": service}
    return {"server.address": found[1].strip("[]"), "server.port": int(found[2]), "peer.service": service}


_HOST = re.compile(r"(?:(?:dns|ipv4|ipv6):(?://[^/]*/)?)?(\[[^\]]+\]|[^:/,]+):(\d+)")
"""gRPC's targets that name one host. https://github.com/grpc/grpc/blob/master/doc/naming.md"""


def client_span(source: Source, name: str, attributes: Mapping[str, str | int]) -> Span:
    """Start the span of an outbound call below the current one."""
    return source.start(name, SpanKind.CLIENT, attributes)


def trace_context(span: Span) -> tuple[tuple[str, str], ...]:
    """Metadata that carries a span to the server; empty when there is no trace."""
    if type(span) is spans.LiveSpan:  # isinstance takes ten times as long for classes of the API
        return _headers(span.trace_id, span.span_id, span.flags, span.state)
    context = span.get_span_context()
    if not context.is_valid:
        return ()
    return _headers(context.trace_id, context.span_id, context.trace_flags, context.trace_state)


def _headers(trace_id: int, span_id: int, flags: int, state: TraceState | None) -> tuple[tuple[str, str], ...]:
    traceparent = ("traceparent", f"00-{trace_id:032x}-{span_id:016x}-{flags:02x}")
    return (traceparent, ("tracestate", state.to_header())) if state else (traceparent,)


def record_error(span: Span, error: Exception) -> None:
    """Put an error on a span; a program's own provider may fail at that, as when the error has no text."""
    with suppress(Exception):
        span.record_exception(error)


def end_server_span(span: Span, code: Code) -> None:
    """End an inbound call's span with its status."""
    _end(span, code, failed=code in SERVER_FAULTS)


def end_client_span(span: Span, code: Code) -> None:
    """End an outbound call's span with its status."""
    _end(span, code, failed=code is not Code.OK)


def _end(span: Span, code: Code, *, failed: bool) -> None:
    if span.is_recording():
        span.set_attribute("rpc.response.status_code", code.name)
        if failed:
            span.set_attribute("error.type", code.name)
            span.set_status(Status(StatusCode.ERROR))
    span.end()


def _parent(values: Mapping[str, str | bytes]) -> SpanContext | None:
    found = _TRACEPARENT.fullmatch(str(values.get("traceparent", "")))
    if not found or found[1] == "ff" or (found[1] == "00" and found[5]):
        return None
    context = SpanContext(
        int(found[2], 16), int(found[3], 16), is_remote=True,
        trace_flags=TraceFlags(int(found[4], 16)), trace_state=_state(values),
    )
    return context if context.is_valid else None


def _state(values: Mapping[str, str | bytes]) -> TraceState | None:
    header = values.get("tracestate")
    return TraceState.from_header([str(header)]) if header else None


def _attempt(values: Mapping[str, str | bytes]) -> int | None:
    """gRPC counts the attempts before this one, Envoy this one too; a call through both was tried by either."""
    previous = str(values.get("grpc-previous-rpc-attempts", ""))
    if previous.isdecimal():
        return int(previous) + 1
    count = str(values.get("x-envoy-attempt-count", ""))
    return int(count) if count.isdecimal() else None
