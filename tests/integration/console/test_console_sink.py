"""The OTLP sink as exporters see it: gRPC and HTTP, protobuf and JSON, and every kind of bad export."""

from __future__ import annotations

import asyncio
import gzip
import io
import json

import aiohttp
import grpc.aio
import pytest
from google.rpc.status_pb2 import Status as RpcStatus
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter
from opentelemetry.trace import Status, StatusCode

from console import jaeger
from tests.fixtures.otlp import batch, export, span, span_id, trace_id
from tests.integration.console.conftest import MAX_REQUEST_BYTES, Console

PROTOBUF = {"Content-Type": "application/x-protobuf"}
JSON = {"Content-Type": "application/json"}
EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"


async def call(console: Console, body: bytes, method: str = EXPORT, gzipped: bool = False) -> bytes:
    """One call over gRPC, as bytes."""
    async with grpc.aio.insecure_channel(console.at.otlp_grpc) as channel:
        compression = grpc.Compression.Gzip if gzipped else None
        export: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(method)
        return await export(body, timeout=20, compression=compression)


def send_with_sdk(exporter: SpanExporter) -> bytes:
    """Two nested spans by the real SDK; answers their trace id. Blocks."""
    provider = TracerProvider(resource=Resource({"service.name": "shop"}))
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("test", "1.0")
    with tracer.start_as_current_span("outer", attributes={"n": 1}) as outer:
        with tracer.start_as_current_span("inner") as inner:
            inner.add_event("tick", {"x": "y"})
            inner.set_status(Status(StatusCode.ERROR, "no"))
        found = outer.get_span_context().trace_id
    provider.shutdown()
    return found.to_bytes(16, "big")


@pytest.mark.parametrize("compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip])
async def test_sdk_over_grpc(console: Console, compression: grpc.Compression) -> None:
    exporter = GrpcExporter(console.at.otlp_grpc, insecure=True, compression=compression)
    check(console, await asyncio.to_thread(send_with_sdk, exporter))


@pytest.mark.parametrize("compression", [Compression.NoCompression, Compression.Gzip])
async def test_sdk_over_http(console: Console, compression: Compression) -> None:
    exporter = HttpExporter(f"{console.at.otlp_http}/v1/traces", compression=compression)
    check(console, await asyncio.to_thread(send_with_sdk, exporter))


def check(console: Console, sent: bytes) -> None:
    """The two spans of `send_with_sdk` are there, as parent and child."""
    found = console.store.trace(sent)
    assert found is not None
    by_name = {one.name: one for one in found.spans}
    assert by_name["inner"].parent_id == by_name["outer"].span_id
    assert (by_name["inner"].error, by_name["outer"].error) == (True, False)
    assert console.store.services() == ["shop"]


async def test_json_by_hand(console: Console, http: aiohttp.ClientSession) -> None:
    one = {"traceId": trace_id(1).hex(), "spanId": span_id(1).hex(), "name": "click", "kind": 3, "new": [1]}
    tree = {"resourceSpans": [{"resource": {}, "scopeSpans": [{"spans": [one]}]}]}
    async with http.post(f"{console.at.otlp_http}/v1/traces", json=tree) as answer:
        assert (answer.status, answer.content_type, await answer.json()) == (200, "application/json", {})
    found = console.store.trace(trace_id(1))
    assert found is not None
    assert (found.spans[0].name, found.spans[0].kind) == ("click", 3)


async def test_protobuf_by_hand_is_answered_in_protobuf(console: Console, http: aiohttp.ClientSession) -> None:
    body = gzip.compress(export(batch("order", span(1, 1))).SerializeToString())
    headers = PROTOBUF | {"Content-Encoding": "gzip"}
    async with http.post(f"{console.at.otlp_http}/v1/traces", data=body, headers=headers) as answer:
        assert (answer.status, answer.content_type) == (200, "application/x-protobuf")
        assert not ExportTraceServiceResponse.FromString(await answer.read()).HasField("partial_success")
    assert console.store.span_count == 1


async def test_refused_spans_are_a_partial_success(console: Console, http: aiohttp.ClientSession) -> None:
    bad = span(0, 2)
    body = export(batch("order", span(1, 1), bad)).SerializeToString()
    over_grpc = ExportTraceServiceResponse.FromString(await call(console, body))
    assert over_grpc.partial_success.rejected_spans == 1
    assert "trace_id" in over_grpc.partial_success.error_message
    tree = {"resourceSpans": [{"scopeSpans": [{"spans": [{"traceId": "00", "spanId": "01"}]}]}]}
    async with http.post(f"{console.at.otlp_http}/v1/traces", json=tree) as answer:
        partial = (await answer.json())["partialSuccess"]
        assert (answer.status, partial["rejectedSpans"]) == (200, "1")
    assert console.store.span_count == 1


@pytest.mark.parametrize("body", [b"\xff", b"plain text", b"\x0a\xff\xff\xff\xff\x0f"])
async def test_garbage_over_grpc_is_invalid_argument(console: Console, body: bytes) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(console, body)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "ExportTraceServiceRequest" in (caught.value.details() or "")


@pytest.mark.parametrize("gzipped", [False, True])
async def test_export_over_the_bound_is_refused_over_grpc(console: Console, gzipped: bool) -> None:
    body = export(batch("x" * 50 * MAX_REQUEST_BYTES, span(1, 1))).SerializeToString()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(console, body, gzipped=gzipped)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert console.store.span_count == 0


@pytest.mark.parametrize("signal", ["metrics", "logs"])
async def test_other_signals_are_unimplemented_and_say_so(
    console: Console, http: aiohttp.ClientSession, signal: str
) -> None:
    method = f"/opentelemetry.proto.collector.{signal}.v1.{signal.title()}Service/Export"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(console, b"", method)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert f"OTEL_{signal.upper()}_EXPORTER=none" in (caught.value.details() or "")
    async with http.post(f"{console.at.otlp_http}/v1/{signal}", data=b"", headers=PROTOBUF) as answer:
        assert answer.status == 404
        assert RpcStatus.FromString(await answer.read()).code == 12


@pytest.mark.parametrize(
    ("body", "headers", "status", "word"),
    [
        (b"{", JSON, 400, "JSON"),
        (b"", JSON, 400, "JSON"),
        (b"{}", {"Content-Type": "text/plain"}, 415, "application/x-protobuf"),
        (b"{}", JSON | {"Content-Encoding": "br"}, 400, "gzip"),
        (b"{}", JSON | {"Content-Encoding": "gzip"}, 400, "not gzip"),
        (gzip.compress(bytes(50 * MAX_REQUEST_BYTES)), JSON | {"Content-Encoding": "gzip"}, 413, "smaller batches"),
        (bytes(MAX_REQUEST_BYTES + 1), JSON, 413, "smaller batches"),
    ],
)
async def test_bad_export_over_http_is_a_4xx_that_says_what_to_do(
    console: Console, http: aiohttp.ClientSession, body: bytes, headers: dict[str, str], status: int, word: str
) -> None:
    async with http.post(f"{console.at.otlp_http}/v1/traces", data=io.BytesIO(body), headers=headers) as answer:
        assert answer.status == status
        assert word in (await answer.json())["message"]


async def test_error_for_protobuf_is_a_status_in_protobuf(console: Console, http: aiohttp.ClientSession) -> None:
    async with http.post(f"{console.at.otlp_http}/v1/traces", data=b"\xff", headers=PROTOBUF) as answer:
        assert (answer.status, answer.content_type) == (400, "application/x-protobuf")
        assert RpcStatus.FromString(await answer.read()).code == 3


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/v1/traces", 405), ("POST", "/v2", 404)])
async def test_wrong_verb_and_path(
    console: Console, http: aiohttp.ClientSession, method: str, path: str, status: int
) -> None:
    async with http.request(method, console.at.otlp_http + path) as answer:
        assert answer.status == status
        assert "/v1/traces" in (await answer.json(content_type="application/json"))["message"]


async def test_many_exporters_at_once_lose_nothing(console: Console, http: aiohttp.ClientSession) -> None:
    async def one(number: int) -> None:
        spans = [span(number % 7 + 1, number * 100 + index + 1) for index in range(50)]
        body = export(batch(f"s{number % 3}", *spans)).SerializeToString()
        if number % 2:
            await call(console, body)
        else:
            async with http.post(f"{console.at.otlp_http}/v1/traces", data=body, headers=PROTOBUF) as answer:
                assert answer.status == 200

    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        for number in range(60):
            tasks.create_task(one(number))
    assert console.store.span_count == 60 * 50
    traces = [console.store.trace(trace_id(number)) for number in range(1, 8)]
    assert sum(len(found.spans) for found in traces if found) == 60 * 50
    assert json.dumps([jaeger.trace(found) for found in traces if found])
