"""Where ended spans go: a bounded queue, and a thread that exports them by OTLP, never in the way of a call.

What the queue has no room for is dropped and counted. The transports are OpenTelemetry's own exporters, with their
settings for TLS and compression; they are imported by the thread, when the first spans are there, as they are half of
what telemetry costs at start.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from opentelemetry import trace

from mesh import metrics, span_bytes, spans
from mesh.recovery import now

if TYPE_CHECKING:
    from mesh.config import Telemetry
    from mesh.spans import LiveSpan, Scope

_log = logging.getLogger(__name__)

Send = Callable[[bytes], bool]
"""Sends one export, for a bounded time; whether it arrived."""


class Provider(trace.TracerProvider):
    """Tracers whose sampled spans are exported; the caller shuts it down."""

    def __init__(self, settings: Telemetry) -> None:
        self._queue = Queue(settings)
        self._samples = spans.sampler(settings.sampler, settings.sampler_ratio)

    def get_tracer(
        self, instrumenting_module_name: str, instrumenting_library_version: str | None = None,
        schema_url: str | None = None, attributes: Any = None,
    ) -> spans.Tracer:  # fmt: skip
        """A tracer."""
        scope = spans.Scope(instrumenting_module_name, instrumenting_library_version or "")
        return spans.Tracer(scope, self._samples, self._queue.put)

    def force_flush(self, timeout_millis: int = 2000) -> bool:
        """Export what is waiting; whether that was done in time, but for the export that time ran out in."""
        return self._queue.flush(timeout_millis / 1000)

    def shutdown(self) -> None:
        """Export what is waiting, and no more after that."""
        self._queue.close()


class Queue:
    """Ended spans until they are exported."""

    def __init__(self, settings: Telemetry) -> None:
        self._settings = settings
        self._spans: deque[tuple[Scope, bytes]] = deque()
        self._batch = min(settings.max_batch_size, settings.max_queue_size)
        self._wake = threading.Event()
        self._sending = threading.Lock()
        self._closed = False
        self._send: Send | None = None
        self._resource = span_bytes.resource(resource(settings))
        threading.Thread(target=self._run, name="mesh-telemetry", daemon=True).start()

    def put(self, span: LiveSpan) -> None:
        """Take an ended span, or drop it; never waits.

        It is encoded at once, as a thread that does so for many keeps the event loop from running meanwhile.
        """
        waiting = len(self._spans)
        if waiting >= self._settings.max_queue_size or self._closed:
            metrics.SPANS_DROPPED.labels("queue full").inc()
            return
        self._spans.append((span.scope, span_bytes.one(span)))
        if waiting + 1 == self._batch:
            self._wake.set()

    def flush(self, seconds: float) -> bool:
        """Export what is waiting, and begin no export after so many seconds."""
        until = now() + seconds
        with self._sending:
            while self._spans and now() < until:
                self._export()
        return not self._spans

    def close(self) -> None:
        """Export what is waiting, then nothing more."""
        self.flush(self._settings.timeout_seconds)
        self._closed = True
        self._wake.set()

    def _run(self) -> None:
        while not self._closed:
            self._wake.wait(self._settings.schedule_delay_seconds)
            self._wake.clear()
            with self._sending:
                full = True
                while self._spans and full:
                    full = len(self._spans) > self._batch
                    self._export()

    def _export(self) -> None:
        """One batch, which is gone then, wherever to."""
        batch = [self._spans.popleft() for _ in range(min(self._batch, len(self._spans)))]
        try:
            self._send = self._send or _sender(self._settings)
            arrived = self._send(span_bytes.export(self._resource, batch))
        except Exception:
            _log.exception("spans cannot be exported")
            arrived = False
        (metrics.SPANS_EXPORTED if arrived else metrics.SPANS_DROPPED.labels("export failed")).inc(len(batch))


def resource(settings: Telemetry) -> dict[str, str]:
    """What all spans of the process say of it."""
    return {
        "telemetry.sdk.language": "python",
        "telemetry.sdk.name": "meshwright",
        "telemetry.sdk.version": version("meshwright"),
        "service.name": settings.service_name,
        **settings.resource,
    }


def _sender(settings: Telemetry) -> Send:
    return _grpc(settings) if settings.protocol == "grpc" else _http(settings)


def _grpc(settings: Telemetry) -> Send:
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
    from opentelemetry.sdk.trace.export import SpanExportResult

    class Exporter(OTLPSpanExporter):
        """Takes what is encoded already."""

        def _translate_data(self, data: Any) -> ExportTraceServiceRequest:
            return ExportTraceServiceRequest.FromString(data)

    headers = tuple((key.lower(), value) for key, value in settings.headers.items())
    exporter = Exporter(endpoint=settings.endpoint, headers=headers, timeout=settings.timeout_seconds)
    return lambda body: exporter.export(body) is SpanExportResult.SUCCESS  # type: ignore[arg-type]


def _http(settings: Telemetry) -> Send:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    headers = dict(settings.headers)
    exporter = OTLPSpanExporter(endpoint=settings.endpoint, headers=headers, timeout=settings.timeout_seconds)
    return lambda body: exporter._client.export(body).success
