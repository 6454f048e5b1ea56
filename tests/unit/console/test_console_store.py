"""The span store: what it keeps, what it drops first, and that its books balance."""

from __future__ import annotations

import gc
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from console.store import UNKNOWN_SERVICE, Limits, Outcome, Store
from console.store import Span as StoredSpan
from tests.fixtures.otlp import Value, batch, export, span, span_id, trace_id


def ids(store: Store, trace: int) -> list[int]:
    """Numbers of the stored spans of a trace; empty if the trace is not there."""
    found = store.trace(trace_id(trace))
    return [int.from_bytes(one.span_id, "big") for one in found.spans] if found else []


def test_spans_of_one_trace_from_several_processes_are_merged() -> None:
    store = Store()
    store.add([batch("order", span(1, 1)), batch("sync", span(1, 2, parent=1))])
    store.add([batch("gateway", span(1, 3), span(2, 4))])
    assert ids(store, 1) == [1, 2, 3]
    assert store.services() == ["gateway", "order", "sync"]
    assert [one.trace_id for one in store.traces_of("sync")] == [trace_id(1)]
    assert len(store.traces_of("gateway")) == 2


def test_retried_export_is_stored_once() -> None:
    store = Store()
    store.add([batch("order", span(1, 1), span(1, 2))])
    size = store.byte_count
    outcome = store.add([batch("order", span(1, 1), span(1, 2), span(1, 3))])
    assert outcome == Outcome(stored=1, duplicates=2, refused=0, reason="")
    assert ids(store, 1) == [1, 2, 3]
    assert size < store.byte_count < 2 * size


def test_same_span_id_in_another_trace_is_another_span() -> None:
    store = Store()
    store.add([batch("order", span(1, 1), span(2, 1))])
    assert store.span_count == 2


@pytest.mark.parametrize(
    ("bad", "word"),
    [
        (Span(span_id=span_id(1)), "trace_id"),
        (Span(trace_id=bytes(16), span_id=span_id(1)), "trace_id"),
        (Span(trace_id=b"short", span_id=span_id(1)), "trace_id"),
        (Span(trace_id=trace_id(1), span_id=bytes(8)), "span_id"),
        (Span(trace_id=trace_id(1), span_id=b"123456789"), "span_id"),
        (Span(trace_id=trace_id(1), span_id=span_id(1), parent_span_id=b"x"), "parent_span_id"),
    ],
)
def test_span_with_invalid_id_is_refused_and_the_others_are_kept(bad: Span, word: str) -> None:
    store = Store()
    outcome = store.add([batch("order", bad, span(1, 7))])
    assert (outcome.stored, outcome.refused) == (1, 1)
    assert outcome.reason.startswith(word)
    assert ids(store, 1) == [7]


def test_all_zero_parent_means_root() -> None:
    store = Store()
    root = span(1, 1)
    root.parent_span_id = bytes(8)
    store.add([batch("order", root)])
    found = store.trace(trace_id(1))
    assert found is not None
    assert found.spans[0].parent_id == b""


def test_trace_added_to_least_recently_goes_first_and_whole() -> None:
    store = Store(Limits(max_spans=4))
    store.add([batch("order", span(1, 1), span(1, 2), span(2, 3))])
    store.add([batch("late", span(1, 4))])
    store.add([batch("order", span(3, 5))])
    assert ids(store, 2) == []
    assert ids(store, 1) == [1, 2, 4]
    store.add([batch("order", span(4, 6))])
    assert ids(store, 1) == []
    assert (store.span_count, store.counts.dropped_spans, store.counts.dropped_traces) == (2, 4, 2)


def test_dropped_trace_leaves_no_service_behind() -> None:
    store = Store(Limits(max_spans=1))
    store.add([batch("old", span(1, 1))])
    store.add([batch("new", span(2, 2))])
    assert store.services() == ["new"]
    assert store.traces_of("old") == []
    assert store.counts.dropped_traces == 1


def test_byte_bound_holds_with_large_spans() -> None:
    store = Store(Limits(max_bytes=50_000))
    for number in range(1, 40):
        store.add([batch("order", span(number, number, attributes={"text": "x" * 5_000}))])
        assert store.byte_count <= 50_000
    assert 5 < store.span_count < 12
    assert ids(store, 39) == [39]


def test_span_larger_than_the_store_is_dropped_and_counted() -> None:
    store = Store(Limits(max_bytes=50_000))
    store.add([batch("order", span(1, 1, attributes={"text": "x" * 60_000}))])
    assert (store.span_count, store.trace_count, store.byte_count) == (0, 0, 0)
    assert store.counts.dropped_spans == 1


def test_runaway_trace_loses_its_own_oldest_spans_and_no_other_trace() -> None:
    store = Store(Limits(max_spans=1_000, max_trace_spans=20))
    store.add([batch("order", span(1, 1))])
    store.add([batch("loop", *(span(2, number) for number in range(1, 501)))])
    assert ids(store, 1) == [1]
    kept = ids(store, 2)
    assert len(kept) <= 20
    assert kept == list(range(501 - len(kept), 501))


def test_service_whose_spans_were_trimmed_takes_part_in_the_trace_no_more() -> None:
    store = Store(Limits(max_trace_spans=20))
    store.add([batch("first", span(1, 1)), batch("other", *(span(1, number) for number in range(2, 23)))])
    assert (store.services(), store.traces_of("first")) == (["other"], [])
    store.add([batch("first", span(1, 99))])
    assert [one.trace_id for one in store.traces_of("first")] == [trace_id(1)]


def test_only_trace_over_the_bound_is_trimmed_not_lost() -> None:
    store = Store(Limits(max_spans=100))
    store.add([batch("loop", *(span(1, number) for number in range(1, 151)))])
    kept = ids(store, 1)
    assert 80 <= len(kept) <= 100
    assert kept[-1] == 150


def test_resource_without_a_name_is_the_unknown_service() -> None:
    store = Store()
    store.add([batch("", span(1, 1)), batch("", span(1, 2), host="a")])
    assert store.services() == [UNKNOWN_SERVICE]


def test_empty_export_leaves_nothing_behind() -> None:
    store = Store()
    assert store.add([batch("order")]) == Outcome(0, 0, 0, "")
    assert (store.services(), store.byte_count) == ([], 0)


@pytest.mark.parametrize("spans_per_trace", [1, 8, 2_000])
def test_byte_count_covers_what_python_really_allocates(spans_per_trace: int) -> None:
    spans = [span(number // spans_per_trace + 1, number + 1, parent=number + 2) for number in range(2_000)]
    data = export(batch("order", *spans)).SerializeToString()
    store = Store()
    gc.collect()
    tracemalloc.start()
    store.add(ExportTraceServiceRequest.FromString(data).resource_spans)
    gc.collect()
    allocated, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert allocated < store.byte_count < 2 * allocated


def test_view_does_not_change_when_spans_arrive() -> None:
    store = Store()
    store.add([batch("order", span(1, 1))])
    before = store.trace(trace_id(1))
    store.add([batch("order", span(1, 2))])
    assert before is not None
    assert len(before.spans) == 1


exports = st.lists(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 6), st.integers(1, 9), st.integers(0, 400)), max_size=12),
    max_size=12,
)


@given(exports=exports, max_spans=st.integers(1, 15), max_trace_spans=st.integers(1, 8), max_bytes=st.integers(1, 9000))
def test_books_balance_whatever_arrives(
    exports: list[list[tuple[str, int, int, int]]], max_spans: int, max_trace_spans: int, max_bytes: int
) -> None:
    store = Store(Limits(max_spans=max_spans, max_bytes=max_bytes, max_trace_spans=max_trace_spans))
    for rows in exports:
        store.add([batch(service, span(trace, number, name="x" * size)) for service, trace, number, size in rows])
        assert store.span_count <= max_spans
        assert store.byte_count <= max_bytes
        assert store.counts.stored - store.counts.dropped_spans == store.span_count
        assert sum(len(ids(store, trace)) for trace in range(1, 7)) == store.span_count
        assert (store.byte_count == 0) == (store.span_count == 0)
        holding = {one.origin.service for trace in range(1, 7) for one in _spans(store, trace)}
        assert set(store.services()) == holding
        assert all(store.traces_of(service) for service in holding)


def _spans(store: Store, trace: int) -> tuple[StoredSpan, ...]:
    found = store.trace(trace_id(trace))
    return found.spans if found else ()


@pytest.mark.parametrize(
    ("value", "failed"), [(True, True), ("true", True), (False, False), ("false", False), ("none", False), (1, False)]
)
def test_a_tag_may_say_that_a_span_failed(value: Value, failed: bool) -> None:
    store = Store()
    store.add([batch("gateway", span(1, 1, attributes={"x": "error", "error": value}))])
    found = store.span(trace_id(1), span_id(1))
    assert found is not None
    assert found.error is failed
