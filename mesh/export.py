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
from contextlib import suppress
from importlib.metadata import version
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from opentelemetry import trace

from mesh import metrics, span_bytes, spans
from mesh.recovery import now

if TYPE_CHECKING:
    from mesh.config import Telemetry
    from mesh.spans import LiveSpan

_log = logging.getLogger(__name__)

TOGETHER = 32
"""So many spans are encoded at once: amid a call, what does so is never in the processor's caches.

With more, a call would wait for longer than a tenth of a millisecond for the spans of others.
"""

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
        self._ended: deque[LiveSpan] = deque()
        self._parts: deque[tuple[bytes, int]] = deque()
        """Encoded spans, and how many."""
        self._waiting = 0
        """How many spans those are together."""
        self._batch = min(settings.max_batch_size, settings.max_queue_size)
        self._together = min(TOGETHER, self._batch)
        self._lock = threading.RLock()
        """Of all above: held while so many are encoded, in which the collector of garbage may end another."""
        self._wake = threading.Event()
        self._sending = threading.Lock()
        self._closed = False
        self._send: Send | None = None
        self._resource = span_bytes.resource(resource(settings))
        threading.Thread(target=self._run, name="mesh-telemetry", daemon=True).start()

    def put(self, span: LiveSpan) -> None:
        """Take an ended span, or drop it; never waits for an export.

        They are encoded here, as a thread that does so for many keeps the event loop from running meanwhile.
        """
        self._ended.append(span)
        if len(self._ended) >= self._together:
            self._encode()
            if self._waiting >= self._batch:
                self._wake.set()

    def _encode(self) -> None:
        """Those that have ended, as far as there is room."""
        with self._lock:
            ended = [self._ended.popleft() for _ in range(len(self._ended))]
            taken = ended[: 0 if self._closed else self._settings.max_queue_size - self._waiting]
            part, bad = _encoded(taken)
            if good := len(taken) - len(bad):
                self._parts.append((part, good))
                self._waiting += good
        if len(taken) < len(ended):
            metrics.SPANS_DROPPED.labels("queue full").inc(len(ended) - len(taken))
        if bad:
            metrics.SPANS_DROPPED.labels("cannot be encoded").inc(len(bad))
            _log.error("a span cannot be encoded", exc_info=bad[0])

    def _next(self) -> tuple[list[bytes], int]:
        """What makes a batch, and of how many spans it is; taken out of the queue."""
        parts: list[bytes] = []
        count = 0
        with self._lock:
            while self._parts and (not parts or count + self._parts[0][1] <= self._batch):
                part, spans = self._parts.popleft()
                parts.append(part)
                count += spans
            self._waiting -= count
        return parts, count

    def flush(self, seconds: float) -> bool:
        """Export what is waiting, and begin no export after so many seconds."""
        until = now() + seconds
        with self._sending:
            self._encode()
            while self._waiting and now() < until:
                self._export()
        return not self._waiting

    def close(self) -> None:
        """Export what is waiting, then nothing more."""
        self.flush(self._settings.timeout_seconds)
        self._closed, self._together = True, 1
        self._wake.set()

    def _run(self) -> None:
        while not self._closed:
            self._wake.wait(self._settings.schedule_delay_seconds)
            self._wake.clear()
            with self._sending:
                self._encode()
                full = True
                while self._waiting and full:
                    full = self._waiting > self._batch
                    self._export()

    def _export(self) -> None:
        """One batch, which is gone then, wherever to."""
        parts, count = self._next()
        try:
            self._send = self._send or _sender(self._settings)
            arrived = self._send(span_bytes.export(self._resource, parts))
        except Exception:
            _log.exception("spans cannot be exported")
            arrived = False
        (metrics.SPANS_EXPORTED if arrived else metrics.SPANS_DROPPED.labels("export failed")).inc(count)


def _encoded(spans: list[LiveSpan]) -> tuple[bytes, list[Exception]]:
    """Spans as a part of an export, and why some are not in it: one that a program made badly costs no other."""
    with suppress(Exception):
        return span_bytes.together(spans), []
    parts: list[bytes] = []
    bad: list[Exception] = []
    for span in spans:
        try:
            parts.append(span_bytes.together([span]))
        except Exception as error:
            bad.append(error)
    return b"".join(parts), bad


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


_EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"


def _grpc(settings: Telemetry) -> Send:
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import SpanExportResult

    class Exporter(OTLPSpanExporter):
        """Takes what is encoded already, and reads nothing from the answer."""

        def _initialize_channel_and_stub(self) -> None:
            super()._initialize_channel_and_stub()  # type: ignore[no-untyped-call]
            channel: Any = self._channel
            self._client: Any = SimpleNamespace(Export=channel.unary_unary(_EXPORT))

        def _translate_data(self, data: Any) -> Any:
            return data

    headers = tuple((key.lower(), value) for key, value in settings.headers.items())
    exporter = Exporter(endpoint=settings.endpoint, headers=headers, timeout=settings.timeout_seconds)
    return lambda body: exporter.export(body) is SpanExportResult.SUCCESS  # type: ignore[arg-type]


def _http(settings: Telemetry) -> Send:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    headers = dict(settings.headers)
    exporter = OTLPSpanExporter(endpoint=settings.endpoint, headers=headers, timeout=settings.timeout_seconds)
    return lambda body: exporter._client.export(body).success
