"""Stored spans as Jaeger's JSON: goldens for the shape, cases for what JSON or Jaeger cannot hold."""

from __future__ import annotations

import json
from typing import Any

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Span

from console import jaeger
from console.store import Store
from tests.fixtures.golden import Golden
from tests.fixtures.otlp import SECOND, START, Value, batch, key_values, span, span_id, trace_id


def rendered(*batches: ResourceSpans, trace: int = 1) -> dict[str, Any]:
    """The JSON of a trace, after a round trip through text."""
    store = Store()
    store.add(batches)
    found = store.trace(trace_id(trace))
    assert found is not None
    tree: dict[str, Any] = json.loads(json.dumps(jaeger.trace(found), allow_nan=False))
    return tree


def text(tree: object) -> str:
    """As goldens have it."""
    return json.dumps(tree, indent=2, ensure_ascii=False) + "\n"


def call(number: int, parent: int, kind: Span.SpanKind.ValueType, offset: int, **options: Any) -> Span:
    """A span of the sample trace, `offset` microseconds after its start."""
    return span(0xABC, number, parent=parent, kind=kind, start=START + offset * 1_000, **options)


def sample() -> list[ResourceSpans]:
    """A call through three processes that failed at its end."""
    entry = call(1, 0, Span.SPAN_KIND_SERVER, 0, name="POST /v1/orders", duration=SECOND)
    entry.trace_state = "vendor=1"
    create = call(2, 1, Span.SPAN_KIND_SERVER, 100, name="order/CreateOrder", attributes={"rpc.system.name": "grpc"})
    create.events.add(time_unix_nano=START + 150_000, name="retry", attributes=key_values({"attempt": 2}))
    create.links.add(trace_id=trace_id(0xDEF), span_id=span_id(77))
    lookup = call(3, 2, Span.SPAN_KIND_CLIENT, 200, name="sync/GetUser", error="user u-1 does not exist")
    query = call(4, 3, Span.SPAN_KIND_INTERNAL, 250, name="SELECT users", attributes={"db.rows": 0, "cached": False})
    query.dropped_attributes_count = 3
    return [
        batch("sync", query, scope="asyncpg"),
        batch("order", lookup, scope="client"),
        batch("order", create, scope="server"),
        batch("gateway", entry, scope="", zone="a"),
    ]


def test_trace(golden: Golden) -> None:
    golden("jaeger_trace.json", text(jaeger.answer([rendered(*sample(), trace=0xABC)])))


def test_trace_without_its_root(golden: Golden) -> None:
    golden("jaeger_orphan.json", text(jaeger.answer([rendered(*sample()[:2], trace=0xABC)])))


def test_error(golden: Golden) -> None:
    golden("jaeger_not_found.json", text(jaeger.failure(404, "trace not found")))


def test_order_of_arrival_does_not_show() -> None:
    assert rendered(*sample(), trace=0xABC) == rendered(*reversed(sample()), trace=0xABC)


@pytest.mark.parametrize(
    ("value", "kind", "shown"),
    [
        ("text", "string", "text"),
        ("", "string", ""),
        (True, "bool", True),
        (-5, "int64", -5),
        (2**53 - 1, "int64", 2**53 - 1),
        (2**53, "int64", "9007199254740992"),
        (1.5, "float64", 1.5),
        (float("nan"), "float64", "nan"),
        (float("-inf"), "float64", "-inf"),
        (b"\x00\xff", "binary", "AP8="),
        ([1, "é", [True, float("inf")], b"\x00"], "string", '[1, "é", [true, "inf"], "AA=="]'),
        ({"a": {"b": 1.0}}, "string", '{"a": {"b": 1.0}}'),
    ],
)
def test_attribute_values(value: Value, kind: str, shown: object) -> None:
    tree = rendered(batch("order", span(1, 1, attributes={"key": value})))
    assert tree["spans"][0]["tags"][0] == {"key": "key", "type": kind, "value": shown}


def test_attribute_without_a_value_is_empty_text() -> None:
    one = span(1, 1)
    one.attributes.add(key="key")
    assert rendered(batch("order", one))["spans"][0]["tags"][0] == {"key": "key", "type": "string", "value": ""}


def test_own_error_attribute_is_not_doubled() -> None:
    tree = rendered(batch("order", span(1, 1, error="no", attributes={"error": True})))
    assert [tag["key"] for tag in tree["spans"][0]["tags"]].count("error") == 1


def test_attribute_event_wins_over_the_name_of_the_event() -> None:
    one = span(1, 1)
    one.events.add(name="ours", attributes=key_values({"event": "theirs"}))
    fields = rendered(batch("order", one))["spans"][0]["logs"][0]["fields"]
    assert fields == [{"key": "event", "type": "string", "value": "theirs"}]


def test_end_before_start_is_zero_and_warned_of() -> None:
    shown = rendered(batch("order", span(1, 1, duration=-5)))["spans"][0]
    assert shown["duration"] == 0
    assert "ends before it starts" in shown["warnings"][0]


def test_two_instances_of_a_service_are_two_processes() -> None:
    tree = rendered(batch("order", span(1, 1), host="a"), batch("order", span(1, 2), host="b"))
    assert [one["serviceName"] for one in tree["processes"].values()] == ["order", "order"]
    assert [one["processID"] for one in tree["spans"]] == ["p1", "p2"]


def test_text_is_not_changed() -> None:
    name = "<script>alert(1)</script>\u2028 ü 語"
    assert rendered(batch(name, span(1, 1, name=name)))["spans"][0]["operationName"] == name
