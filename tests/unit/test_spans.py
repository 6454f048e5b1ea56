"""Spans of the mesh's own tracer, as OTLP has them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1 import trace_pb2
from opentelemetry.trace import (
    INVALID_SPAN_CONTEXT,
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    TraceState,
    get_current_span,
    set_span_in_context,
)

from mesh import span_bytes
from mesh.spans import MOST, LiveSpan, Scope, Tracer, sampler

SAMPLED = SpanContext(1 << 100 | 7, 1 << 60 | 5, True, TraceFlags(1), TraceState([("a", "1")]))
UNSAMPLED = SpanContext(7, 5, True, TraceFlags(0))


class Made:
    """A tracer, and the spans of it that have ended."""

    def __init__(self, samples: str = "parentbased_always_on") -> None:
        self.spans: list[LiveSpan] = []
        self.tracer = Tracer(Scope("test", "1"), sampler(samples, 1.0), self.spans.append)

    def encoded(self) -> list[trace_pb2.Span]:
        """Those, as who receives them reads them."""
        body = span_bytes.export(span_bytes.resource({"service.name": "x"}), [span_bytes.together(self.spans)])
        (batch,) = ExportTraceServiceRequest.FromString(body).resource_spans
        assert batch.resource.attributes[0].value.string_value == "x"
        (scope,) = batch.scope_spans
        assert (scope.scope.name, scope.scope.version) == ("test", "1")
        return list(scope.spans)

    def one(self) -> trace_pb2.Span:
        """The only one."""
        (span,) = self.encoded()
        return span


def test_a_span_is_encoded_whole() -> None:
    made = Made()
    parent = set_span_in_context(NonRecordingSpan(SAMPLED))
    span = made.tracer.start_span(
        "name", parent, SpanKind.CLIENT, {"text": "ü", "number": 3}, [Link(UNSAMPLED, {"why": "so"})], start_time=11
    )
    span.set_attributes({"yes": True, "share": 0.5, "list": ["a", "b"]})
    span.add_event("happened", {"a": 1}, timestamp=12)
    span.set_status(StatusCode.ERROR, "bad")
    span.end(13)
    span.end(14)
    span.set_attribute("late", 1)
    got = made.one()
    assert (got.trace_id.hex(), got.parent_span_id.hex()) == (f"{SAMPLED.trace_id:032x}", f"{SAMPLED.span_id:016x}")
    assert got.span_id == span.get_span_context().span_id.to_bytes(8, "big")
    assert (got.name, got.kind, got.trace_state) == ("name", trace_pb2.Span.SPAN_KIND_CLIENT, "a=1")
    assert (got.start_time_unix_nano, got.end_time_unix_nano, got.flags) == (11, 13, 0x301)
    assert [one.key for one in got.attributes] == ["text", "number", "yes", "share", "list"]
    values = [one.value for one in got.attributes]
    assert (values[0].string_value, values[1].int_value, values[2].bool_value) == ("ü", 3, True)
    assert values[3].double_value == 0.5
    assert [one.string_value for one in values[4].array_value.values] == ["a", "b"]
    assert (got.events[0].name, got.events[0].time_unix_nano) == ("happened", 12)
    assert got.links[0].span_id == UNSAMPLED.span_id.to_bytes(8, "big")
    assert (got.status.code, got.status.message) == (trace_pb2.Status.STATUS_CODE_ERROR, "bad")


_TEXT = st.text(st.characters(categories=["Cs", "Lu"]), max_size=5)
_SIMPLE = st.one_of(_TEXT, st.integers(), st.floats(), st.booleans(), st.none(), st.binary(max_size=5))


@given(st.dictionaries(_TEXT, _SIMPLE | st.lists(_SIMPLE, max_size=3), max_size=3))
def test_whatever_a_program_records_can_be_sent(attributes: dict[str, Any]) -> None:
    made = Made()
    span = made.tracer.start_span("\ud800", attributes=attributes)
    span.add_event("\udfff", attributes)
    span.end()
    assert len(made.one().attributes) == len(attributes)


def test_what_is_too_much_is_counted() -> None:
    made = Made()
    span = made.tracer.start_span("name", links=[Link(SAMPLED)] * (MOST + 3))
    for number in range(MOST + 1):
        span.set_attribute(str(number), number)
        span.add_event("event")
    span.end()
    got = made.one()
    assert (len(got.attributes), len(got.events), len(got.links)) == (MOST, MOST, MOST)
    assert (got.dropped_attributes_count, got.dropped_events_count, got.dropped_links_count) == (1, 1, 3)


@pytest.mark.parametrize(
    ("name", "parent", "samples"),
    [
        ("always_on", UNSAMPLED, True), ("always_off", SAMPLED, False),
        ("traceidratio", UNSAMPLED, True), ("parentbased_always_on", INVALID_SPAN_CONTEXT, True),
        ("parentbased_always_on", UNSAMPLED, False), ("parentbased_always_off", SAMPLED, True),
        ("parentbased_always_off", INVALID_SPAN_CONTEXT, False), ("parentbased_traceidratio", SAMPLED, True),
        ("parentbased_traceidratio", INVALID_SPAN_CONTEXT, True),
    ],
)  # fmt: skip
def test_samplers_by_their_standard_names(name: str, parent: SpanContext, samples: bool) -> None:
    assert sampler(name, 0.5)(1 << 62, parent) is samples


def test_a_ratio_is_of_the_trace_ids_lower_half() -> None:
    quarter = sampler("traceidratio", 0.25)
    kept = [quarter((1 << 127) + (eighth << 61), INVALID_SPAN_CONTEXT) for eighth in range(8)]
    assert kept == [True] * 2 + [False] * 6


def test_who_is_not_sampled_is_not_recorded_and_goes_on_as_such() -> None:
    made = Made("always_off")
    with made.tracer.start_as_current_span("name") as span:
        assert not get_current_span().is_recording()
        assert span.get_span_context().is_valid
        assert not span.get_span_context().trace_flags.sampled
    assert made.spans == []


def test_an_error_is_on_the_span_that_it_ends() -> None:
    made = Made()
    with pytest.raises(ZeroDivisionError), made.tracer.start_as_current_span("name"):
        raise ZeroDivisionError("by zero")
    got = made.one()
    assert got.status.message == "ZeroDivisionError: by zero"
    assert {one.key: one.value.string_value for one in got.events[0].attributes}["exception.message"] == "by zero"


class Mute(Exception):
    """Has no text."""

    def __str__(self) -> str:
        raise ZeroDivisionError


def test_an_error_without_a_text_is_on_its_span_and_goes_on() -> None:
    made = Made()
    with pytest.raises(Mute), made.tracer.start_as_current_span("current"):
        raise Mute
    with pytest.raises(Mute), made.tracer.start_span("plain"):
        raise Mute
    failed = "<exception Mute.__str__() failed>"
    for got in made.encoded():
        assert got.status.message == f"Mute: {failed}"
        assert {one.key: one.value.string_value for one in got.events[0].attributes}["exception.message"] == failed


async def test_a_cancelled_block_ends_its_span() -> None:
    made = Made()

    @made.tracer.start_as_current_span("name")
    async def wait() -> None:
        await asyncio.Event().wait()

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [span.name for span in made.spans] == ["name"]
