"""The SDK's side of telemetry: a provider that batches spans to OTLP. Imported only where spans are exported.

The exporter itself is imported by the thread that exports, when the first spans are there: it is half of what
telemetry costs at start.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider, sampling
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.sdk.trace import ReadableSpan

    from mesh.config import Telemetry


def provider(settings: Telemetry) -> TracerProvider:
    """A provider with one batching processor; the caller shuts it down."""
    made = TracerProvider(resource=resource(settings), sampler=sampler(settings), shutdown_on_exit=False)
    made.add_span_processor(BatchSpanProcessor(
        LateExporter(settings),
        max_queue_size=settings.max_queue_size,
        schedule_delay_millis=settings.schedule_delay_seconds * 1000,
        max_export_batch_size=min(settings.max_batch_size, settings.max_queue_size),
    ))
    return made


def resource(settings: Telemetry) -> Resource:
    """Made without `Resource.create`, whose detectors are searched in the metadata of every installed package."""
    return Resource({
        "telemetry.sdk.language": "python",
        "telemetry.sdk.name": "opentelemetry",
        "telemetry.sdk.version": __version__,
        "service.name": settings.service_name,
        **settings.resource,
    })


def sampler(settings: Telemetry) -> sampling.Sampler:
    """The sampler by its name in OTEL_TRACES_SAMPLER."""
    kind = settings.sampler.removeprefix("parentbased_")
    ratio = sampling.TraceIdRatioBased(settings.sampler_ratio)
    root = {"always_on": sampling.ALWAYS_ON, "always_off": sampling.ALWAYS_OFF}.get(kind, ratio)
    return root if kind == settings.sampler else sampling.ParentBased(root)


class LateExporter(SpanExporter):
    """Imports and makes the real exporter when the first spans come, in the exporting thread."""

    def __init__(self, settings: Telemetry) -> None:
        self._settings = settings
        self._exporter: SpanExporter | None = None

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send spans; the real exporter retries for a bounded time."""
        if self._exporter is None:
            self._exporter = _exporter(self._settings)
        return self._exporter.export(spans)

    def shutdown(self) -> None:
        """Stop; an export in progress gives up."""
        if self._exporter is not None:
            self._exporter.shutdown()


def _exporter(settings: Telemetry) -> SpanExporter:
    return _grpc(settings) if settings.protocol == "grpc" else _http(settings)


def _grpc(settings: Telemetry) -> SpanExporter:
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

    headers = tuple((key.lower(), value) for key, value in settings.headers.items())
    return OTLPSpanExporter(endpoint=settings.endpoint, headers=headers, timeout=settings.timeout_seconds)


def _http(settings: Telemetry) -> SpanExporter:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    headers = dict(settings.headers)
    return OTLPSpanExporter(endpoint=settings.endpoint, headers=headers, timeout=settings.timeout_seconds)
