"""OTLP/HTTP bodies: both forms, compression within a bound, and garbage that is always answered with an Error."""

from __future__ import annotations

import base64
import gzip
import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.trace.v1 import trace_pb2

from console import decode
from mesh.errors import Code, Error
from tests.fixtures.otlp import START, batch, export, span, span_id, trace_id

LIMIT = 100_000

DOCUMENT = {
    "resourceSpans": [
        {
            "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "shop"}}]},
            "scopeSpans": [
                {
                    "scope": {"name": "browser", "unknownField": {"a": [1]}},
                    "spans": [
                        {
                            "traceId": trace_id(1).hex().upper(),
                            "spanId": span_id(2).hex(),
                            "parentSpanId": span_id(1).hex(),
                            "name": "click",
                            "kind": 3,
                            "startTimeUnixNano": str(START),
                            "endTimeUnixNano": START + 5,
                            "attributes": [{"key": "n", "value": {"intValue": "9007199254740993"}}],
                            "links": [{"traceId": trace_id(9).hex(), "spanId": span_id(9).hex()}],
                            "status": {"code": 2, "message": "no"},
                            "newInSomeYear": True,
                        }
                    ],
                }
            ],
        }
    ],
    "alsoUnknown": None,
}


def decode_json(tree: object) -> trace_pb2.Span:
    """The first span of a JSON document."""
    return decode.decode(json.dumps(tree).encode(), decode.JSON, "", LIMIT).resource_spans[0].scope_spans[0].spans[0]


def refusal(body: bytes, kind: str = decode.JSON, encoding: str = "") -> Error:
    """The error that a body is answered with."""
    with pytest.raises(Error) as caught:
        decode.decode(body, kind, encoding, LIMIT)
    return caught.value


def test_json_ids_are_hex_enums_numbers_and_large_integers_text() -> None:
    found = decode_json(DOCUMENT)
    assert (found.trace_id, found.span_id, found.parent_span_id) == (trace_id(1), span_id(2), span_id(1))
    assert (found.links[0].trace_id, found.links[0].span_id) == (trace_id(9), span_id(9))
    assert found.kind == trace_pb2.Span.SPAN_KIND_CLIENT
    assert found.status.code == trace_pb2.Status.STATUS_CODE_ERROR
    assert (found.start_time_unix_nano, found.end_time_unix_nano) == (START, START + 5)
    assert found.attributes[0].value.int_value == 9_007_199_254_740_993


def test_protobuf_form_is_taken_as_it_is() -> None:
    request = export(batch("order", span(1, 1)))
    assert decode.decode(request.SerializeToString(), decode.PROTOBUF, "", LIMIT) == request


@pytest.mark.parametrize("encoding", ["gzip", " GZip ", "identity", ""])
def test_encodings(encoding: str) -> None:
    body = export(batch("order", span(1, 1))).SerializeToString()
    packed = gzip.compress(body) if "gz" in encoding.lower() else body
    assert decode.decompress(packed, encoding, LIMIT) == body


def test_base64_ids_are_refused_with_the_place() -> None:
    tree = json.loads(json.dumps(DOCUMENT))
    tree["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["traceId"] = base64.b64encode(trace_id(1)).decode()
    error = refusal(json.dumps(tree).encode())
    assert "resourceSpans[0].scopeSpans[0].spans[0].traceId must be hex" in error.message


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b"", "JSON"),
        (b"[]", "object"),
        (b"{", "JSON"),
        (b'"text"', "object"),
        (b"\xff\xfe", "JSON"),
        (b'{"resourceSpans": 7}', "ExportTraceServiceRequest"),
        (b'{"resourceSpans": [7]}', "ExportTraceServiceRequest"),
        (b'{"resourceSpans": [{"scopeSpans": [{"spans": [{"traceId": 7}]}]}]}', "hex"),
        (b'{"resourceSpans": [{"scopeSpans": [{"spans": [{"name": NaN}]}]}]}', "NaN"),
        (b'{"resourceSpans": [{"scopeSpans": [{"spans": [{"startTimeUnixNano": -1}]}]}]}', "ExportTrace"),
        (b"[" * 100_000, "deep"),
    ],
)
def test_bad_json_is_refused_and_says_why(body: bytes, word: str) -> None:
    error = refusal(body)
    assert error.code is Code.INVALID_ARGUMENT
    assert word in error.message


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b"plain", "not gzip"),
        (b"", "too early"),
        (gzip.compress(b"x" * 1_000)[:-9], "too early"),
        (gzip.compress(b"x") + b"more", "behind its end"),
    ],
    ids=["not packed", "empty", "cut off", "with more"],  # what is packed tells when, and workers must agree
)
def test_bad_gzip_is_refused(body: bytes, word: str) -> None:
    assert word in refusal(body, encoding="gzip").message


def test_unknown_encoding_is_refused() -> None:
    assert "send gzip" in refusal(b"", encoding="br").message


def test_gzip_bomb_stops_at_the_bound() -> None:
    bomb = gzip.compress(bytes(200 * LIMIT))
    assert len(bomb) < LIMIT
    error = refusal(bomb, encoding="gzip")
    assert (error.code, error.reason) == (Code.RESOURCE_EXHAUSTED, "EXPORT_TOO_LARGE")


def test_body_of_exactly_the_bound_is_taken() -> None:
    assert len(decode.decompress(gzip.compress(bytes(LIMIT)), "gzip", LIMIT)) == LIMIT


@given(body=st.binary(max_size=300), kind=st.sampled_from([decode.JSON, decode.PROTOBUF]))
def test_garbage_is_an_export_or_an_error(body: bytes, kind: str) -> None:
    for encoding in ("", "gzip"):
        with suppress(Error):
            decode.decode(body, kind, encoding, LIMIT)


names = st.sampled_from(
    [
        *("resource", "resourceSpans", "scopeSpans", "spans", "traceId", "links", "status", "code", "kind", "key"),
        *("attributes", "value", "stringValue", "intValue", "bytesValue", "arrayValue", "kvlistValue", "values"),
        "startTimeUnixNano",
    ]
)
trees = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text("a0=/é\ud800", max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=4),
    max_leaves=25,
)


@given(tree=st.dictionaries(names, trees, max_size=4))
def test_json_of_any_shape_is_an_export_or_an_error(tree: dict[str, object]) -> None:
    with suppress(Error):
        decode.from_json(json.dumps(tree).encode())


@given(tree=trees)
def test_span_of_any_shape_is_an_export_or_an_error(tree: object) -> None:
    with suppress(Error):
        decode.from_json(json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [tree]}]}]}).encode())
