"""Statements and Redis commands show as spans below the work that sent them, with the stable names of attributes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from services import process
from services.database import Database
from services.settings import RedisSettings


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """What was exported; the instrumentation ends with the test."""
    from opentelemetry.instrumentation.asyncpg import AsyncPGInstrumentor
    from opentelemetry.instrumentation.redis import RedisInstrumentor

    monkeypatch.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", process.STABLE_CONVENTIONS)
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    process.instrument(provider)
    yield exporter
    for instrumentor in (AsyncPGInstrumentor(), RedisInstrumentor()):  # type: ignore[no-untyped-call]
        instrumentor.uninstrument()


def only(exporter: InMemorySpanExporter) -> ReadableSpan:
    (span,) = exporter.get_finished_spans()
    return span


async def test_a_statement_is_a_child_span_without_its_values(stored: Database, spans: InMemorySpanExporter) -> None:
    with TracerProvider(shutdown_on_exit=False).get_tracer("test").start_as_current_span("parent") as parent:
        await stored.fetch("SELECT $1::text", "a secret")
    span = only(spans)
    assert span.parent is not None
    assert span.parent.span_id == parent.get_span_context().span_id
    assert span.name == "SELECT"
    assert span.attributes is not None
    assert span.attributes["db.system.name"] == "postgresql"
    assert span.attributes["db.query.text"] == "SELECT $1::text"
    assert "a secret" not in str(dict(span.attributes))


async def test_a_redis_command_is_a_child_span_without_its_values(valkey_url: str, spans: InMemorySpanExporter) -> None:
    async with RedisSettings(url=valkey_url).client() as redis:
        with TracerProvider(shutdown_on_exit=False).get_tracer("test").start_as_current_span("parent") as parent:
            await redis.set("key", "a secret")
    span = only(spans)
    assert span.parent is not None
    assert span.parent.span_id == parent.get_span_context().span_id
    assert span.attributes is not None
    assert span.attributes["db.system.name"] == "redis"
    assert "a secret" not in str(dict(span.attributes))


