"""Statements, Redis commands and requests by HTTP show as spans below the work that sent them, by the conventions."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import asyncpg
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode

from services.database import Database
from services.settings import RedisSettings
from services.sync.provider import ProviderFailed, connect
from services.sync.provider_settings import ProviderSettings
from tests.fixtures.services import database_settings, stored
from tests.fixtures.spans import Spans

__all__ = ["database_settings", "stored"]

SECRET = "a secret"


@pytest.fixture
def work(spans: Spans) -> Iterator[trace.Span]:
    """The span of the work in hand."""
    with trace.get_tracer("test").start_as_current_span("work") as span:
        yield span


def said(span: ReadableSpan) -> Mapping[str, Any]:
    """A span's attributes, without any value that was sent."""
    assert span.attributes is not None
    assert SECRET not in f"{span.name} {dict(span.attributes)} {span.status.description}"
    return span.attributes


def only(spans: Spans, work: trace.Span) -> ReadableSpan:
    """The one span below the work."""
    (span,) = spans.ended(SpanKind.CLIENT)
    assert span.parent is not None
    assert span.parent.span_id == work.get_span_context().span_id
    return span


async def test_a_statement(stored: Database, spans: Spans, work: trace.Span) -> None:
    await stored.fetch("SELECT $1::text FROM pg_catalog.pg_class LIMIT 1", SECRET)
    span = only(spans, work)
    assert span.name == "SELECT pg_catalog.pg_class"
    assert said(span)["db.system.name"] == "postgresql"
    assert said(span)["db.query.summary"] == span.name
    assert said(span)["db.query.text"] == "SELECT $1::text FROM pg_catalog.pg_class LIMIT 1"
    assert said(span)["db.namespace"]
    assert said(span)["server.address"]


async def test_a_statement_that_fails_says_how_and_quotes_nothing(
    stored: Database, spans: Spans, work: trace.Span
) -> None:
    with pytest.raises(asyncpg.InvalidTextRepresentationError):
        await stored.fetch("SELECT $1::text::int", SECRET)
    span = only(spans, work)
    assert span.status.status_code is StatusCode.ERROR
    assert said(span)["error.type"] == said(span)["db.response.status_code"] == "22P02"


async def test_all_of_a_transaction(stored: Database, spans: Spans, work: trace.Span) -> None:
    async with stored.transaction() as connection:
        await connection.execute("CREATE TEMPORARY TABLE copied (a text) ON COMMIT DROP")
        await connection.copy_records_to_table("copied", records=[(SECRET,)])
        await connection.executemany("INSERT INTO copied VALUES ($1)", [(SECRET,)])
    names = ["BEGIN", "CREATE", "COPY copied", "INSERT copied", "COMMIT"]
    assert [span.name for span in spans.ended(SpanKind.CLIENT)] == names
    assert all(said(span) for span in spans.ended(SpanKind.CLIENT))


async def test_a_cancelled_statement_ends_its_span(stored: Database, spans: Spans, work: trace.Span) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await stored.fetch("SELECT pg_sleep(60)")
    assert said(only(spans, work))["error.type"] == "CancelledError"


async def test_commands_of_redis(valkey_url: str, spans: Spans, work: trace.Span) -> None:
    async with RedisSettings(url=valkey_url).client() as redis:
        await redis.set(SECRET, SECRET)
        pipeline = redis.pipeline()
        for command in (pipeline.get, pipeline.get, pipeline.delete):
            command(SECRET)
        await pipeline.execute()
    one, several = spans.ended(SpanKind.CLIENT)
    assert (one.name, several.name) == ("SET", "PIPELINE GET DEL")
    assert said(one)["db.system.name"] == "redis"
    assert said(one)["db.operation.name"] == "SET"
    assert said(one)["server.address"]
    assert "db.operation.batch.size" not in said(one)
    assert said(several)["db.operation.batch.size"] == 3


async def test_a_script_that_redis_has_yet_to_learn_is_no_error(
    valkey_url: str, spans: Spans, work: trace.Span
) -> None:
    async with RedisSettings(url=valkey_url).client() as redis:
        assert await redis.register_script(f"return '{uuid.uuid4()}'")()
    found = spans.ended(SpanKind.CLIENT)
    assert [span.name for span in found] == ["EVALSHA", "SCRIPT LOAD", "EVALSHA"]
    assert {span.status.status_code for span in found} == {StatusCode.UNSET}
    assert not [span for span in found if "error.type" in said(span)]


async def test_a_request_to_a_provider_carries_its_context(spans: Spans, work: trace.Span) -> None:
    headers: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        headers.append(request.headers["traceparent"])
        return web.json_response({"totalResults": 0}, status=200 if len(headers) == 1 else 404)

    application = web.Application()
    application.router.add_get("/Users", answer)
    async with TestServer(application) as server:
        url = f"http://127.0.0.1:{server.port}"
        settings = ProviderSettings(name="test", url=url, token=SECRET)
        async with connect(settings) as users:
            await users.fetch(1, 10)
            with pytest.raises(ProviderFailed):
                await users.fetch(11, 10)
    good, bad = spans.ended(SpanKind.CLIENT)
    assert [header.split("-")[2] for header in headers] == [f"{span.context.span_id:016x}" for span in (good, bad)]
    assert good.name == said(good)["http.request.method"] == "GET"
    assert said(good)["http.response.status_code"] == 200
    assert (said(good)["server.address"], said(good)["server.port"]) == ("127.0.0.1", int(url.rpartition(":")[2]))
    assert said(good)["url.full"] == f"{url}/Users?startIndex=1&count=10"
    assert good.status.status_code is StatusCode.UNSET
    assert said(bad)["error.type"] == "404"
    assert bad.status.status_code is StatusCode.ERROR


async def test_what_is_part_of_no_work_has_no_span(stored: Database, valkey_url: str, spans: Spans) -> None:
    await stored.fetch("SELECT 1")
    async with RedisSettings(url=valkey_url).client() as redis:
        await redis.ping()
    assert spans.get_finished_spans() == ()
