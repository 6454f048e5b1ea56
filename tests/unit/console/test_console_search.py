"""Jaeger's search: parameters in, the newest matching traces out."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from console import search
from console.store import Store
from mesh.errors import Code, Error
from tests.fixtures.otlp import SECOND, START, batch, key_values, span, trace_id

MILLISECOND = 10**6


@pytest.fixture(scope="module")
def store() -> Store:
    """Four traces, a second apart: 1 fast, 2 slow, 3 failed, 4 of another service."""
    store = Store()
    fast = span(1, 1, name="Get", duration=MILLISECOND, attributes={"user": "u-1", "rows": 3, "big": True, "f": 1.5})
    fast.events.add(name="cache", attributes=key_values({"hit": False}))
    store.add([batch("order", fast, host="a"), batch("sync", span(1, 2, parent=1, name="Get"))])
    store.add([batch("order", span(2, 3, name="List", start=START + SECOND, duration=5 * MILLISECOND), host="b")])
    failed = span(3, 4, name="Get", start=START + 2 * SECOND, error="no", kind=Span.SPAN_KIND_CLIENT)
    store.add([batch("order", failed)])
    store.add([batch("status", span(4, 5, name="Get", start=START + 3 * SECOND))])
    return store


def found(store: Store, **parameters: str) -> list[int]:
    """Numbers of the traces that a search answers."""
    query = search.parse({name: [value] for name, value in parameters.items()})
    traces = search.run(query, store.traces_of(query.service))
    return [int.from_bytes(one.trace_id, "big") for one in traces]


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({}, [3, 2, 1]),
        ({"limit": "2"}, [3, 2]),
        ({"operation": "Get"}, [3, 1]),
        ({"operation": "None"}, []),
        ({"minDuration": "2ms"}, [2]),
        ({"minDuration": "1ms500us"}, [2]),
        ({"maxDuration": "1m30s"}, [3, 2, 1]),
        ({"maxDuration": "1000us"}, [3, 1]),
        ({"minDuration": "0.001s", "maxDuration": "1ms"}, [3, 1]),
        ({"start": str(START // 1_000 + 1_000_000)}, [3, 2]),
        ({"end": str(START // 1_000 + 1_000_000)}, [2, 1]),
        ({"tags": '{"error":"true"}'}, [3]),
        ({"tag": "error:true"}, [3]),
        ({"tags": '{"user":"u-1","rows":"3","big":"true","f":"1.5"}'}, [1]),
        ({"tags": '{"user":"u-2"}'}, []),
        ({"tags": '{"host":"b"}'}, [2]),
        ({"tags": '{"hit":"false"}'}, [1]),
        ({"tags": '{"event":"cache"}'}, [1]),
        ({"tags": '{"span.kind":"client"}'}, [3]),
        ({"tags": '{"otel.status_description":"no"}'}, [3]),
        ({"tags": '{"otel.scope.name":"test"}', "operation": "List"}, [2]),
        ({"tags": ""}, [3, 2, 1]),
        ({"unknown": "x"}, [3, 2, 1]),
    ],
)
def test_search(store: Store, parameters: dict[str, str], expected: list[int]) -> None:
    assert found(store, service="order", **parameters) == expected


def test_one_span_must_match_everything(store: Store) -> None:
    assert found(store, service="sync", tags='{"user":"u-1"}') == []


def test_unknown_service_has_no_traces(store: Store) -> None:
    assert found(store, service="nobody") == []


@pytest.mark.parametrize(
    ("parameters", "word"),
    [
        ({}, "'service' is required"),
        ({"service": ""}, "'service' is required"),
        ({"service": "a", "limit": "many"}, "limit"),
        ({"service": "a", "minDuration": "1m30"}, "minDuration"),
        ({"service": "a", "minDuration": "1s" * 50}, "minDuration"),
        ({"service": "a", "start": "yesterday"}, "start"),
        ({"service": "a", "end": "1.5"}, "end"),
        ({"service": "a", "minDuration": "5"}, "minDuration"),
        ({"service": "a", "maxDuration": "fast"}, "maxDuration"),
        ({"service": "a", "minDuration": "2s", "maxDuration": "1s"}, "at least"),
        ({"service": "a", "tag": "error"}, "key:value"),
        ({"service": "a", "tags": "error=true"}, "JSON object"),
        ({"service": "a", "tags": '{"error":true}'}, "JSON object"),
        ({"service": "a", "tags": "[" * 100_000}, "JSON object"),
    ],
)
def test_bad_parameters_are_named(parameters: dict[str, str], word: str) -> None:
    with pytest.raises(Error) as caught:
        search.parse({name: [value] for name, value in parameters.items()})
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert word in caught.value.message


@pytest.mark.parametrize("text", ["1", "0001", "1".zfill(32)])
def test_trace_id_may_lack_leading_zeros(text: str) -> None:
    assert search.trace_id(text) == trace_id(1)


@pytest.mark.parametrize("text", ["", "x", "0x1", "1" * 33, " 1", "1\n", "\uff11"])
def test_malformed_trace_id_is_refused(text: str) -> None:
    with pytest.raises(Error, match="hex digits"):
        search.trace_id(text)


def test_operations_of_a_service(store: Store) -> None:
    traces = store.traces_of("order")
    assert search.operations("order", traces) == [("Get", "client"), ("Get", "server"), ("List", "server")]
    assert search.operations("order", traces, "client") == [("Get", "client")]


fields = st.sampled_from(["service", "operation", "tags", "tag", "start", "end", "minDuration", "maxDuration", "limit"])
values = st.sampled_from(["order", "1ms", "20", '{"a":"b"}', '{"\\ud800":"x"}', "a:b"]) | st.text("0é{}:.-\x00\ud800")


@given(parameters=st.dictionaries(fields, st.lists(values, max_size=2)))
def test_any_parameters_are_a_query_or_an_error(store: Store, parameters: dict[str, list[str]]) -> None:
    with suppress(Error):
        search.run(search.parse({"service": ["order"], **parameters}), store.traces_of("order"))


def test_tags_of_both_forms_add_up() -> None:
    query = search.parse({"service": ["a"], "tag": ["x:1", "y:a:b"], "tags": [json.dumps({"z": "2"})]})
    assert dict(query.tags) == {"x": "1", "y": "a:b", "z": "2"}
