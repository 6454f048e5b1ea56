"""Spans leave the process by OTLP, and an endpoint that is not there costs nothing."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

import grpc
import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as otlp
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc

from mesh.ports import free_port

pytestmark = pytest.mark.timeout(40)

PROGRAM = """
import asyncio, grpc, logging, mesh
logging.basicConfig()

async def echo(request, context):
    return request

async def main():
    async with mesh.server() as server:
        server.add_registered_method_handlers("test.Echo", {"It": grpc.unary_unary_rpc_method_handler(echo)})
        await server.start()
        async with mesh.channel("echo", target=server.address) as channel:
            for _ in range(20):
                await channel.unary_unary("/test.Echo/It")(b"x")
                await asyncio.sleep(0.05)
    print("ended", flush=True)

asyncio.run(main())
"""


async def run(program: str = PROGRAM, /, **environment: str) -> tuple[str, str, float]:
    """Output, errors and seconds of a program that makes 20 calls to itself within at least a second."""
    begun = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, env={"OTEL_SERVICE_NAME": "echo", **environment},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )
    out, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return out.decode(), errors.decode(), time.monotonic() - begun


class Sink:
    """Receives spans by gRPC."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.metadata: list[dict[str, str]] = []

    async def Export(self, request: Any, context: Any) -> Any:
        self.requests.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        return otlp.ExportTraceServiceResponse()

    def check(self) -> None:
        """All spans are there, from the right process, joined in traces."""
        resources = [spans.resource for request in self.requests for spans in request.resource_spans]
        named = {pair.key: pair.value.string_value for pair in resources[0].attributes}
        assert (named["service.name"], named["service.instance.id"]) == ("echo", "echo-1")
        assert (named["telemetry.sdk.name"], named["telemetry.sdk.version"]) == ("meshwright", version("meshwright"))
        spans = [
            span for request in self.requests for each in request.resource_spans
            for scope in each.scope_spans for span in scope.spans
        ]
        assert len(spans) == 40
        assert {span.name for span in spans} == {"test.Echo/It"}
        assert len({span.trace_id for span in spans}) == 20


@asynccontextmanager
async def grpc_sink(sink: Sink) -> AsyncIterator[str]:
    server = grpc.aio.server()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(sink, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await server.stop(0)


@asynccontextmanager
async def http_sink(sink: Sink) -> AsyncIterator[str]:
    async def export(request: web.Request) -> web.Response:
        sink.requests.append(otlp.ExportTraceServiceRequest.FromString(await request.read()))
        sink.metadata.append({key.lower(): value for key, value in request.headers.items()})
        return web.Response(body=b"", content_type="application/x-protobuf")

    application = web.Application()
    application.router.add_post("/v1/traces", export)
    runner = web.AppRunner(application)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
async def test_spans_are_exported_before_the_process_ends(protocol: str) -> None:
    sink = Sink()
    async with (grpc_sink if protocol == "grpc" else http_sink)(sink) as endpoint:
        out, _, _ = await run(
            OTEL_EXPORTER_OTLP_ENDPOINT=endpoint, OTEL_EXPORTER_OTLP_PROTOCOL=protocol,
            OTEL_RESOURCE_ATTRIBUTES="service.instance.id=echo-1", OTEL_EXPORTER_OTLP_HEADERS="X-Token=a%20b",
        )
    assert out == "ended\n"
    assert sink.metadata[0]["x-token"] == "a b"
    sink.check()


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
async def test_a_dead_endpoint_neither_holds_the_process_nor_fills_the_log(protocol: str) -> None:
    out, errors, seconds = await run(
        OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{free_port()}", OTEL_EXPORTER_OTLP_PROTOCOL=protocol,
        OTEL_BSP_SCHEDULE_DELAY="100",
    )
    assert out == "ended\n"
    assert seconds < 10
    complaints = [line for line in errors.splitlines() if line.partition(":")[2].startswith("opentelemetry")]
    assert len(complaints) == 1, errors
    assert "Traceback" not in errors


async def test_sampling_off_exports_nothing() -> None:
    sink = Sink()
    async with grpc_sink(sink) as endpoint:
        await run(OTEL_EXPORTER_OTLP_ENDPOINT=endpoint, OTEL_TRACES_SAMPLER="always_off")
    assert sink.requests == []


FLOOD = """
import asyncio, grpc, mesh, time
from prometheus_client import REGISTRY

async def echo(request, context):
    return request

async def main():
    async with mesh.server() as server:
        server.add_registered_method_handlers("test.Echo", {"It": grpc.unary_unary_rpc_method_handler(echo)})
        await server.start()
        async with mesh.channel("echo", target=server.address) as channel:
            for _ in range(300):
                await channel.unary_unary("/test.Echo/It")(b"x", timeout=5)
        print(REGISTRY.get_sample_value("telemetry_spans_dropped_total", {"reason": "queue full"}), flush=True)

asyncio.run(main())
"""


async def test_an_endpoint_that_never_answers_costs_dropped_spans_that_are_counted_and_no_call() -> None:
    """300 calls have 600 spans; 100 wait, 50 are on their way, and more of those where an export was given up."""
    silent = await asyncio.start_server(_swallow, "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    async with silent:
        out, _, seconds = await run(
            FLOOD, OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{port}", OTEL_BSP_MAX_QUEUE_SIZE="100",
            OTEL_BSP_MAX_EXPORT_BATCH_SIZE="50",
        )
    assert 300 <= float(out) <= 500
    assert seconds < 20


async def _swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while await reader.read(65536):
        pass
    writer.close()
