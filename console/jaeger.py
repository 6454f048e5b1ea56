"""Stored spans as the JSON of Jaeger's query API.

Translation: https://opentelemetry.io/docs/specs/otel/trace/sdk_exporters/jaeger/ and, for what it leaves open, what
Jaeger itself answers for spans that came by OTLP. Times are microseconds there.
"""

from __future__ import annotations

import base64
import json
import math
from typing import TYPE_CHECKING, Any

from opentelemetry.proto.common.v1 import common_pb2
from opentelemetry.proto.resource.v1 import resource_pb2
from opentelemetry.proto.trace.v1 import trace_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable

    from console.store import Origin, Span, Trace

Tag = dict[str, Any]

KINDS = {1: "internal", 2: "server", 3: "client", 4: "producer", 5: "consumer"}
"""Value of the tag `span.kind` by OTLP's SpanKind."""

_STATUSES = {1: "OK", 2: "ERROR"}
_SAFE_INTEGER = 2**53 - 1
_MAX_NESTING = 50


def answer(data: Any, *, total: int = 0, errors: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """The envelope of every answer."""
    return {"data": data, "total": total, "limit": 0, "offset": 0, "errors": errors}


def failure(code: int, message: str) -> dict[str, Any]:
    """The envelope of an error; `code` is the HTTP status."""
    return answer(None, errors=[{"code": code, "msg": message}])


def trace(found: Trace) -> dict[str, Any]:
    """One trace: spans by start time, processes p1, p2, ... in order of appearance."""
    trace_id = found.trace_id.hex()
    known = {span.span_id for span in found.spans}
    processes = _Processes()
    spans = [
        _span(trace_id, span, processes.id_of(span.origin), known)
        for span in sorted(found.spans, key=lambda span: (span.start, span.span_id))
    ]
    return {"traceID": trace_id, "spans": spans, "processes": processes.rendered, "warnings": None}


def tags(span: Span) -> list[Tag]:
    """All tags of a span itself, as its JSON has them."""
    return _tags(span, trace_pb2.Span.FromString(span.data))


def logs(span: Span) -> list[dict[str, Any]]:
    """The events of a span."""
    return [_log(event) for event in trace_pb2.Span.FromString(span.data).events]


def process_tags(origin: Origin) -> list[Tag]:
    """Resource attributes except the service's name."""
    resource = resource_pb2.Resource.FromString(origin.resource)
    return [_tag(one.key, one.value) for one in resource.attributes if one.key != "service.name"]


class _Processes:
    """Process ids by resource: two scopes of one process share an id."""

    def __init__(self) -> None:
        self.rendered: dict[str, dict[str, Any]] = {}
        self._ids: dict[bytes, str] = {}

    def id_of(self, origin: Origin) -> str:
        found = self._ids.get(origin.resource)
        if found is None:
            found = self._ids[origin.resource] = f"p{len(self._ids) + 1}"
            self.rendered[found] = {"serviceName": origin.service, "tags": process_tags(origin)}
        return found


def _span(trace_id: str, span: Span, process_id: str, known: set[bytes]) -> dict[str, Any]:
    full = trace_pb2.Span.FromString(span.data)
    return {
        "traceID": trace_id,
        "spanID": span.span_id.hex(),
        "operationName": span.name,
        "references": _references(trace_id, span, full.links),
        "startTime": span.start // 1_000,
        "duration": span.duration // 1_000,
        "tags": _tags(span, full),
        "logs": [_log(event) for event in full.events],
        "processID": process_id,
        "warnings": _warnings(span, known) or None,
    }


def _references(trace_id: str, span: Span, links: Iterable[trace_pb2.Span.Link]) -> list[dict[str, str]]:
    parent = [_reference("CHILD_OF", trace_id, span.parent_id)] if span.parent_id else []
    return parent + [_reference("FOLLOWS_FROM", link.trace_id.hex(), link.span_id) for link in links]


def _reference(kind: str, trace_id: str, span_id: bytes) -> dict[str, str]:
    return {"refType": kind, "traceID": trace_id, "spanID": span_id.hex()}


def _warnings(span: Span, known: set[bytes]) -> list[str]:
    warnings = []
    if span.parent_id and span.parent_id not in known:
        warnings.append(f"the parent span {span.parent_id.hex()} is not in this trace (yet)")
    if span.end < span.start:
        warnings.append("the span ends before it starts; its duration is shown as 0")
    return warnings


def _tags(span: Span, full: trace_pb2.Span) -> list[Tag]:
    scope = common_pb2.InstrumentationScope.FromString(span.origin.scope)
    texts = (
        ("otel.scope.name", scope.name),
        ("otel.scope.version", scope.version),
        ("span.kind", KINDS.get(span.kind, "")),
        ("otel.status_code", _STATUSES.get(full.status.code, "")),
        ("otel.status_description", full.status.message),
        ("w3c.tracestate", full.trace_state),
    )
    dropped = (
        ("otel.dropped_attributes_count", full.dropped_attributes_count),
        ("otel.dropped_events_count", full.dropped_events_count),
        ("otel.dropped_links_count", full.dropped_links_count),
    )
    found = [_tag(attribute.key, attribute.value) for attribute in full.attributes]
    if span.error and not any(tag["key"] == "error" for tag in found):
        found.append({"key": "error", "type": "bool", "value": True})
    found += [{"key": key, "type": "string", "value": text} for key, text in texts if text]
    found += [{"key": key, "type": "int64", "value": count} for key, count in dropped if count]
    return found


def _log(event: trace_pb2.Span.Event) -> dict[str, Any]:
    fields = [_tag(attribute.key, attribute.value) for attribute in event.attributes]
    # The specification: an attribute named "event" wins over the event's name.
    if event.name and not any(tag["key"] == "event" for tag in fields):
        fields.insert(0, {"key": "event", "type": "string", "value": event.name})
    return {"timestamp": event.time_unix_nano // 1_000, "fields": fields}


def _tag(key: str, value: common_pb2.AnyValue) -> Tag:
    kind = value.WhichOneof("value")
    if kind == "int_value":
        # Beyond 2^53 JavaScript would round: Jaeger sends text then.
        exact = abs(value.int_value) <= _SAFE_INTEGER
        return {"key": key, "type": "int64", "value": value.int_value if exact else str(value.int_value)}
    if kind == "double_value":
        # JSON has no NaN and no infinity.
        number = value.double_value
        return {"key": key, "type": "float64", "value": number if math.isfinite(number) else str(number)}
    if kind == "bool_value":
        return {"key": key, "type": "bool", "value": value.bool_value}
    if kind == "bytes_value":
        return {"key": key, "type": "binary", "value": base64.b64encode(value.bytes_value).decode()}
    if kind in ("array_value", "kvlist_value"):
        return {"key": key, "type": "string", "value": json.dumps(_plain(value, 0), ensure_ascii=False)}
    return {"key": key, "type": "string", "value": value.string_value}


def _plain(value: common_pb2.AnyValue, depth: int) -> Any:
    """A nested value as JSON's types; what is nested deeper than anyone reads becomes "..."."""
    kind = value.WhichOneof("value")
    if depth > _MAX_NESTING:
        return "..."
    if kind == "array_value":
        return [_plain(one, depth + 1) for one in value.array_value.values]
    if kind == "kvlist_value":
        return {one.key: _plain(one.value, depth + 1) for one in value.kvlist_value.values}
    if kind == "bytes_value":
        return base64.b64encode(value.bytes_value).decode()
    if kind == "double_value" and not math.isfinite(value.double_value):
        return str(value.double_value)
    return getattr(value, kind) if kind else None
