"""The exporter of spans: a span that a program made badly costs no other, and what is said about exports that fail."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from prometheus_client import REGISTRY

from mesh import export, telemetry
from mesh.config import Telemetry


class Shy:
    """Says nothing of itself."""

    def __str__(self) -> str:
        raise ValueError("I am shy")


class Sent:
    """A provider, and the names of the spans that it exports."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.provider = export.Provider(Telemetry(service_name="x", schedule_delay_seconds=3600.0))
        self.provider._queue._send = self._take
        self.tracer = self.provider.get_tracer("test")

    def _take(self, body: bytes) -> bool:
        batches = ExportTraceServiceRequest.FromString(body).resource_spans
        self.names += [span.name for batch in batches for scope in batch.scope_spans for span in scope.spans]
        return True

    def end(self, count: int) -> list[str]:
        """Spans, well made; their names."""
        names = [f"well-{number}" for number in range(count)]
        for name in names:
            self.tracer.start_span(name).end()
        return names


def dropped() -> float:
    return REGISTRY.get_sample_value("telemetry_spans_dropped_total", {"reason": "cannot be encoded"}) or 0.0


def by_name(tracer: trace.Tracer) -> None:
    name: Any = 7
    tracer.start_span(name).end()


def by_attribute(tracer: trace.Tracer) -> None:
    odd: Any = {"shy": Shy()}
    tracer.start_span("odd", attributes=odd).end()


def by_event(tracer: trace.Tracer) -> None:
    span = tracer.start_span("odd")
    odd: Any = {"shy": [Shy()]}
    span.add_event("said", odd)
    span.end()


def by_time(tracer: trace.Tracer) -> None:
    tracer.start_span("odd").end(-1)


@pytest.mark.parametrize("badly", [by_name, by_attribute, by_event, by_time])
def test_a_span_that_cannot_be_encoded_is_counted_and_costs_no_other(
    badly: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither those of its batch nor those after it, whether it is in a full batch or in what is flushed."""
    sent, before = Sent(), dropped()
    badly(sent.tracer)
    names = sent.end(export.TOGETHER)  # one of these fills the batch
    badly(sent.tracer)
    assert sent.provider.force_flush()
    names += sent.end(3)
    sent.provider.shutdown()
    assert sent.names == names
    assert dropped() == before + 2
    assert {record.message for record in caplog.records} == {"a span cannot be encoded"}


def test_a_time_with_a_fraction_is_a_time() -> None:
    sent = Sent()
    odd: Any = 1.5
    span = sent.tracer.start_span("odd", start_time=odd)
    span.add_event("said", timestamp=odd)
    span.end(odd)
    sent.tracer.start_span("endless").end(float("inf"))  # type: ignore[arg-type]
    sent.provider.shutdown()
    assert sent.names == ["odd", "endless"]


def test_what_the_exporter_itself_complains_of_is_not_said_each_time(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("mesh.export")
    before = {name: list(logging.getLogger(name).filters) for name in telemetry.EXPORT_LOGS}
    telemetry.quieten(3600.0)
    try:
        for _ in range(3):
            log.error("spans cannot be exported")
    finally:
        for name, filters in before.items():
            logging.getLogger(name).filters[:] = filters
    assert [record.message for record in caplog.records] == ["spans cannot be exported"]
