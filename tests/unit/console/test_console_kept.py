"""What became of spans, as metrics."""

from __future__ import annotations

from opentelemetry.proto.trace.v1.trace_pb2 import Span

from console.kept import Kept
from console.store import Limits, Store
from tests.fixtures.otlp import batch, span


def test_each_fate_of_a_span_is_counted() -> None:
    store = Store(Limits(max_spans=2))
    kept = Kept(store.counts)
    store.add([batch("order", span(1, 1), span(2, 1), span(3, 1), Span(name="nameless"))])
    samples = {sample.name: sample.value for family in kept.collect() for sample in family.samples}
    assert samples == {
        "console_spans_stored_total": 3,
        "console_spans_dropped_total": 1,
        "console_spans_refused_total": 1,
    }
