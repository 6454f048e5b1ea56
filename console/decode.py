"""OTLP/HTTP bodies: bytes, content type and encoding in, ExportTraceServiceRequest out, or an Error that says why not.

Specification: https://opentelemetry.io/docs/specs/otlp/#otlphttp. Its JSON differs from proto3's: trace and span
ids are hex, enums are numbers; names are lowerCamelCase and unknown ones are ignored.
"""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from typing import TYPE_CHECKING, Any

from google.protobuf import json_format
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from mesh.errors import Code, Error

if TYPE_CHECKING:
    from collections.abc import Iterator

    from console.store import Outcome

PROTOBUF = "application/x-protobuf"
JSON = "application/json"

_MAX_DEPTH = 100


def decode(body: bytes, content_type: str, encoding: str, max_bytes: int) -> ExportTraceServiceRequest:
    """The export in a body of at most `max_bytes` (also after decompression); raises Error."""
    plain = decompress(body, encoding, max_bytes)
    return from_json(plain) if content_type == JSON else from_protobuf(plain)


def decompress(body: bytes, encoding: str, max_bytes: int) -> bytes:
    """A body without its Content-Encoding; never more than `max_bytes`, however well it was packed."""
    match encoding.strip().lower():
        case "" | "identity":
            return body
        case "gzip":
            return _gunzip(body, max_bytes)
        case other:
            raise _invalid(f"Content-Encoding {other!r} is not supported: send gzip, or none")


def _gunzip(body: bytes, max_bytes: int) -> bytes:
    member = zlib.decompressobj(wbits=31)
    try:
        plain = member.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise _invalid("the body is not gzip, though Content-Encoding says so") from error
    if len(plain) > max_bytes:
        raise too_large(max_bytes)
    if not member.eof:
        raise _invalid("the gzip body ends too early")
    if member.unused_data:
        raise _invalid("the gzip body has something behind its end; send one gzip member")
    return plain


def too_large(max_bytes: int) -> Error:
    """The export is over the limit."""
    return Error(
        Code.RESOURCE_EXHAUSTED,
        f"the export is over {max_bytes} bytes: send smaller batches (OTEL_BSP_MAX_EXPORT_BATCH_SIZE)",
        reason="EXPORT_TOO_LARGE",
    )


def from_protobuf(body: bytes) -> ExportTraceServiceRequest:
    """Parse the binary form."""
    try:
        return ExportTraceServiceRequest.FromString(body)
    except DecodeError as error:
        raise _invalid("the body is no ExportTraceServiceRequest in protobuf's binary form") from error


def from_json(body: bytes) -> ExportTraceServiceRequest:
    """Parse OTLP's JSON form."""
    try:
        tree = _load(body)
        for span, path in _spans(tree):
            _ids_to_base64(span, path)
        return json_format.ParseDict(
            tree, ExportTraceServiceRequest(), ignore_unknown_fields=True, max_recursion_depth=_MAX_DEPTH
        )
    except json_format.ParseError as error:
        raise _invalid(f"the JSON is no ExportTraceServiceRequest: {str(error)[:300]}") from error
    except RecursionError as error:
        raise _invalid("the JSON is nested too deeply") from error
    except (ValueError, TypeError, AttributeError, KeyError, OverflowError) as error:
        raise _invalid(f"the body is no JSON of an ExportTraceServiceRequest: {str(error)[:300]}") from error


def _load(body: bytes) -> dict[str, Any]:
    text = body.decode()
    tree = json.loads(text, parse_constant=_refuse_constant)
    if "\\ud" in text.lower():
        # An escaped half of a surrogate pair is no text; protobuf answers it with a SystemError.
        json.dumps(tree, ensure_ascii=False).encode()
    if not isinstance(tree, dict):
        raise _invalid("the body must be a JSON object with resourceSpans")
    return tree


def success(outcome: Outcome) -> ExportTraceServiceResponse:
    """The answer to an export: empty, or partial_success if spans were refused."""
    if not outcome.refused:
        return ExportTraceServiceResponse()
    partial = ExportTracePartialSuccess(rejected_spans=outcome.refused, error_message=outcome.reason)
    return ExportTraceServiceResponse(partial_success=partial)


def _refuse_constant(name: str) -> float:
    raise ValueError(f'{name} is not JSON; write it as the string "{name}"')


def _spans(tree: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """Every span and link of a JSON export, with its path."""
    for resource, at_resource in _children(tree, "", "resourceSpans", "resource_spans"):
        for scope, at_scope in _children(resource, at_resource, "scopeSpans", "scope_spans"):
            for span, at_span in _children(scope, at_scope, "spans"):
                yield span, at_span
                yield from _children(span, at_span, "links")


def _children(node: dict[str, Any], path: str, *names: str) -> Iterator[tuple[dict[str, Any], str]]:
    for name in names:
        values = node.get(name)
        for index, value in enumerate(values if isinstance(values, list) else ()):
            if isinstance(value, dict):
                yield value, f"{path}.{name}[{index}]".lstrip(".")


def _ids_to_base64(node: dict[str, Any], path: str) -> None:
    for name in ("traceId", "trace_id", "spanId", "span_id", "parentSpanId", "parent_span_id"):
        value = node.get(name)
        if value is None:
            continue
        try:
            node[name] = base64.b64encode(binascii.unhexlify(value)).decode()
        except (ValueError, TypeError) as error:
            raise _invalid(f"{path}.{name} must be hex digits (OTLP's JSON does not use base64 here)") from error


def _invalid(message: str) -> Error:
    return Error(Code.INVALID_ARGUMENT, message, reason="INVALID_EXPORT")
