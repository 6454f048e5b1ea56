"""Ended spans as an OTLP export. Pure.

What most spans have in common, their attributes above all, is made once and kept, and ids and times have a fixed form:
as a serialized message is the sum of its serialized fields, those are only put together.
https://opentelemetry.io/docs/specs/otlp/
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from struct import Struct
from typing import TYPE_CHECKING, Any

from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1 import trace_pb2
from opentelemetry.trace import StatusCode

from mesh.spans import NONE_LOST

if TYPE_CHECKING:
    from opentelemetry.trace import SpanContext, SpanKind

    from mesh.spans import Event, LiveSpan, Scope

_RESOURCE_SPANS, _RESOURCE, _SCOPE_SPANS, _SCOPE, _SPANS = 1, 1, 2, 1, 2
"""Numbers of the fields that are put together here."""
_REMOTE_KNOWN, _REMOTE = 0x100, 0x200
_STATUS = {StatusCode.OK: trace_pb2.Status.STATUS_CODE_OK, StatusCode.ERROR: trace_pb2.Status.STATUS_CODE_ERROR}
_INT_64 = range(-(1 << 63), 1 << 63)


def resource(attributes: Mapping[str, Any]) -> bytes:
    """What the spans of a process have in common."""
    return _field(_RESOURCE, Resource(attributes=_pairs(attributes)).SerializeToString())


def export(common: bytes, parts: Iterable[bytes]) -> bytes:
    """An ExportTraceServiceRequest of what `together` made; `common` is of `resource`."""
    return _field(_RESOURCE_SPANS, common + b"".join(parts))


def together(spans: Iterable[LiveSpan]) -> bytes:
    """Spans as a part of a serialized ResourceSpans."""
    parts: dict[Scope, list[bytes]] = {}
    for span in spans:
        parts.setdefault(span.scope, []).append(_one(span))
    return b"".join(_field(_SCOPE_SPANS, _scope(scope) + b"".join(part)) for scope, part in parts.items())


def _one(span: LiveSpan) -> bytes:
    """A span as a part of a serialized ScopeSpans."""
    parent, trace_id = span.parent, span.trace_id
    parts = [
        _head(span.name, span.kind, span.flags, parent is not None and parent.is_remote),
        _IDS(_TRACE_ID, trace_id >> 64, trace_id & _LOW, _SPAN_ID, span.span_id),
        _TIMES(_START, span.start, _END, span.ended),
        *_attributes(span.attributes),
    ]
    if parent:
        parts.append(_PARENT_ID(_PARENT, parent.span_id))
    if span.status is not StatusCode.UNSET or span.events or span.links or span.state or span.lost is not NONE_LOST:
        parts.append(_rest(span))
    return _field(_SPANS, b"".join(parts))


_LOW = (1 << 64) - 1
_TRACE_ID, _SPAN_ID, _PARENT, _START, _END = b"\x0a\x10", b"\x12\x08", b"\x22\x08", b"\x39", b"\x41"
"""Numbers, types and lengths of fields of a span that always have the same length."""
_IDS, _PARENT_ID, _TIMES = Struct(">2sQQ2sQ").pack, Struct(">2sQ").pack, Struct("<cQcQ").pack
_DOUBLE = Struct("<d").pack


@lru_cache
def _scope(scope: Scope) -> bytes:
    return _field(_SCOPE, InstrumentationScope(name=scope.name, version=scope.version).SerializeToString())


@lru_cache(maxsize=1024)
def _head(name: str, kind: SpanKind, flags: int, remote: bool) -> bytes:
    number: Any = kind.value + 1  # protobuf has one more in front
    flags |= _REMOTE_KNOWN | (_REMOTE if remote else 0)
    return trace_pb2.Span(name=_text(name), kind=number, flags=flags).SerializeToString()


def _rest(span: LiveSpan) -> bytes:
    """What few spans have."""
    attributes, events, links = span.lost
    made = trace_pb2.Span(
        trace_state=span.state.to_header() if span.state else "",
        events=[_event(event) for event in span.events],
        links=[_link(context, said) for context, said in span.links],
        dropped_attributes_count=attributes, dropped_events_count=events, dropped_links_count=links,
    )  # fmt: skip
    if span.status is not StatusCode.UNSET:
        made.status.code = _STATUS[span.status]
        made.status.message = _text(span.message)
    return made.SerializeToString()


def _event(event: Event) -> trace_pb2.Span.Event:
    return trace_pb2.Span.Event(
        name=_text(event.name), time_unix_nano=event.at, attributes=_pairs(event.attributes)
    )


def _link(context: SpanContext, attributes: Mapping[str, Any]) -> trace_pb2.Span.Link:
    return trace_pb2.Span.Link(
        trace_id=context.trace_id.to_bytes(16, "big"),
        span_id=context.span_id.to_bytes(8, "big"),
        trace_state=context.trace_state.to_header(),
        attributes=_pairs(attributes),
        flags=context.trace_flags | _REMOTE_KNOWN | (_REMOTE if context.is_remote else 0),
    )


def _attributes(attributes: Mapping[str, Any]) -> Iterator[bytes]:
    for pair in attributes.items():
        kind = type(pair[1])
        if kind is str or kind is int:
            yield _common(pair)
        elif kind is float:
            yield _before_double(pair[0]) + _DOUBLE(pair[1])
        else:
            yield _attribute(*pair)


@lru_cache(maxsize=4096)
def _common(pair: tuple[str, str | int]) -> bytes:
    """Of text or an integer, and of no other number: 1 is equal to 1.0 and to True."""
    return _attribute(*pair)


@lru_cache(maxsize=1024)
def _before_double(key: str) -> bytes:
    return _attribute(key, 0.0)[: -len(_DOUBLE(0.0))]


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
