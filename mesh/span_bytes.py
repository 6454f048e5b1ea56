"""Ended spans as an OTLP export. Pure.

What most spans have in common, their attributes above all, is made once and kept: as a message of protobuf is the sum
of its serialized fields, those are only put together. https://opentelemetry.io/docs/specs/otlp/
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1 import trace_pb2
from opentelemetry.trace import StatusCode

if TYPE_CHECKING:
    from opentelemetry.trace import SpanContext

    from mesh.spans import LiveSpan, Scope

_RESOURCE_SPANS, _RESOURCE, _SCOPE_SPANS, _SCOPE, _SPANS = 1, 1, 2, 1, 2
"""Numbers of the fields that are put together here."""
_REMOTE_KNOWN, _REMOTE = 0x100, 0x200
_STATUS = {StatusCode.OK: trace_pb2.Status.STATUS_CODE_OK, StatusCode.ERROR: trace_pb2.Status.STATUS_CODE_ERROR}
_INT_64 = range(-(1 << 63), 1 << 63)


def resource(attributes: Mapping[str, Any]) -> bytes:
    """What the spans of a process have in common."""
    return _field(_RESOURCE, Resource(attributes=_pairs(attributes)).SerializeToString())


def export(common: bytes, spans: Iterable[LiveSpan]) -> bytes:
    """An ExportTraceServiceRequest; `common` is of `resource`."""
    parts: dict[Scope, list[bytes]] = {}
    for span in spans:
        parts.setdefault(span.scope, []).append(_field(_SPANS, _span(span)))
    scopes = (_field(_SCOPE_SPANS, _scope(scope) + b"".join(part)) for scope, part in parts.items())
    return _field(_RESOURCE_SPANS, common + b"".join(scopes))


@lru_cache
def _scope(scope: Scope) -> bytes:
    return _field(_SCOPE, InstrumentationScope(name=scope.name, version=scope.version).SerializeToString())


def _span(span: LiveSpan) -> bytes:
    context = span.context
    made = trace_pb2.Span(
        trace_id=context.trace_id.to_bytes(16, "big"),
        span_id=context.span_id.to_bytes(8, "big"),
        name=_text(span.name),
        kind=span.kind.value + 1,  # type: ignore[arg-type] # protobuf has one more in front
        start_time_unix_nano=span.start,
        end_time_unix_nano=span.ended,
        flags=context.trace_flags | _REMOTE_KNOWN,
    )
    if span.parent_id:
        made.parent_span_id = span.parent_id.to_bytes(8, "big")
        made.flags |= _REMOTE if span.remote else 0
    if context.trace_state:
        made.trace_state = context.trace_state.to_header()
    if span.status is not StatusCode.UNSET:
        made.status.code = _STATUS[span.status]
        made.status.message = _text(span.message)
    _more(made, span)
    return made.SerializeToString() + b"".join(_attributes(span.attributes))


def _more(made: trace_pb2.Span, span: LiveSpan) -> None:
    """What few spans have."""
    for event in span.events:
        made.events.add(name=_text(event.name), time_unix_nano=event.at, attributes=_pairs(event.attributes))
    for context, attributes in span.links:
        made.links.append(_link(context, attributes))
    if any(span.lost):
        made.dropped_attributes_count, made.dropped_events_count, made.dropped_links_count = span.lost


def _link(context: SpanContext, attributes: Mapping[str, Any]) -> trace_pb2.Span.Link:
    return trace_pb2.Span.Link(
        trace_id=context.trace_id.to_bytes(16, "big"),
        span_id=context.span_id.to_bytes(8, "big"),
        trace_state=context.trace_state.to_header(),
        attributes=_pairs(attributes),
        flags=context.trace_flags | _REMOTE_KNOWN | (_REMOTE if context.is_remote else 0),
    )


def _attributes(attributes: Mapping[str, Any]) -> Iterator[bytes]:
    for key, value in attributes.items():
        kind = type(value)
        yield _common(key, value) if kind is str or kind is int else _attribute(key, value)


@lru_cache(maxsize=4096)
def _common(key: str, value: str | int) -> bytes:
    return _attribute(key, value)


def _attribute(key: str, value: Any) -> bytes:
    """One attribute as a part of a serialized span."""
    return trace_pb2.Span(attributes=_pairs({key: value})).SerializeToString()


def _pairs(attributes: Mapping[str, Any]) -> list[KeyValue]:
    return [KeyValue(key=_text(str(key)), value=_value(value)) for key, value in attributes.items()]


def _value(value: Any) -> AnyValue:
    match value:
        case bool():
            return AnyValue(bool_value=value)
        case int() if value in _INT_64:
            return AnyValue(int_value=value)
        case float():
            return AnyValue(double_value=value)
        case str():
            return AnyValue(string_value=_text(value))
        case bytes():
            return AnyValue(bytes_value=value)
        case Sequence():
            return AnyValue(array_value=ArrayValue(values=map(_value, value)))
    return AnyValue(string_value=_text(str(value)))


def _text(text: str) -> str:
    """Text as protobuf takes it: halves of surrogate pairs are replaced."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def _field(number: int, body: bytes) -> bytes:
    """A field that is a message."""
    head, size = bytearray((number << 3 | 2,)), len(body)
    while size > 0x7F:
        head.append(size & 0x7F | 0x80)
        size >>= 7
    head.append(size)
    return bytes(head) + body
