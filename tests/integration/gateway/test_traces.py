"""Spans of the edge: exported by OTLP, named like the RPC, one for each attempt, in the caller's trace."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from mesh.ports import free_port
from tests.fixtures.consul import RegistryProcess
from tests.integration.gateway.harness import Edge, eventually
from tests.integration.gateway.probe import SERVICE, contract
from tests.integration.gateway.test_rest import THINGS

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Collector(TraceServiceServicer):
    """Keeps what it is sent."""

    def __init__(self) -> None:
        self.spans: asyncio.Queue[tuple[str, Span]] = asyncio.Queue()

    async def Export(
        self, request: ExportTraceServiceRequest, context: Any
    ) -> ExportTraceServiceResponse:
        """Take spans."""
        for part in request.resource_spans:
            names = {a.key: a.value.string_value for a in part.resource.attributes}
            for scope in part.scope_spans:
                for span in scope.spans:
                    self.spans.put_nowait((names["service.name"], span))
        return ExportTraceServiceResponse()

    async def of_trace(self, count: int, trace: str = TRACE) -> list[tuple[str, Span]]:
        """So many spans of one trace."""
        found: list[tuple[str, Span]] = []
        async with asyncio.timeout(20):
            while len(found) < count:
                name, span = await self.spans.get()
                if span.trace_id.hex() == trace:
                    found.append((name, span))
        return found


@pytest.fixture
async def traced(
    dev_registry: RegistryProcess, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[Edge, Collector]]:
    """An edge that exports to a collector of its own."""
    collector, port, server = Collector(), free_port(), grpc.aio.server()
    add_TraceServiceServicer_to_server(collector, server)  # type: ignore[no-untyped-call]
    server.add_insecure_port(f"127.0.0.1:{port}")
    environ = {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}"}
    edge = Edge(tmp_path_factory.mktemp("edge"), dev_registry.address, environ)
    try:
        await server.start()
        await asyncio.to_thread(_start, edge)
        yield edge, collector
    finally:
        await asyncio.to_thread(edge.stop)
        await server.stop(None)


def _start(edge: Edge) -> None:
    _, port = edge.probe("probe-1")
    edge.join("probe", "probe-1", port, contract())
    edge.start()
    eventually(lambda: edge.get(f"{THINGS}/a").status == 200, "the probe answers", edge.logs)


async def test_each_attempt_is_a_span_in_the_callers_trace(traced: tuple[Edge, Collector]) -> None:
    edge, collector = traced
    caller = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
    assert (await asyncio.to_thread(edge.get, f"{THINGS}/down", **caller)).status == 503
    spans = await collector.of_trace(4)
    assert {name for name, _ in spans} == {"gateway"}
    (server,) = [span for _, span in spans if span.kind == Span.SPAN_KIND_SERVER]
    attempts = [span for _, span in spans if span.kind == Span.SPAN_KIND_CLIENT]
    assert (server.name, server.parent_span_id.hex()) == ("probe.v1.ProbeService/GetThing", PARENT)
    assert [span.name for span in attempts] == ["probe.v1.ProbeService/GetThing"] * 3
    assert {span.parent_span_id for span in attempts} == {server.span_id}
    said = attributes(server)
    assert said["http.request.method"] == "GET"
    assert said["url.path"] == f"{THINGS}/down"


def attributes(span: Span) -> dict[str, str]:
    """What Envoy says is all text."""
    return {one.key: one.value.string_value for one in span.attributes}


async def spans_of(traced: tuple[Edge, Collector], path: str, count: int) -> list[dict[str, str]]:
    """Attributes of the spans of one request, the whole request's last; a method's path is a gRPC call."""
    edge, collector = traced
    trace = secrets.token_hex(16)
    caller = {"traceparent": f"00-{trace}-{PARENT}-01"}
    if path.startswith(f"/{SERVICE}"):
        async with grpc.aio.insecure_channel(f"127.0.0.1:{edge.port}") as channel:
            with suppress(grpc.aio.AioRpcError):
                call: Any = channel.unary_unary(path)
                await call(b"", metadata=tuple(caller.items()))
    else:
        await asyncio.to_thread(edge.get, path, **caller)
    found = await collector.of_trace(count, trace)
    return [attributes(one) for _, one in sorted(found, key=lambda each: -each[1].kind)]


async def test_spans_say_which_rpc_it_was_and_how_it_ended_by_the_conventions(traced: tuple[Edge, Collector]) -> None:
    for path, method, status, http_status in (
        (f"{THINGS}/a", "GetThing", "OK", "200"),
        (f"{THINGS}/missing", "GetThing", "NOT_FOUND", "404"),  # which of HTTP alone would be UNIMPLEMENTED
        (f"{THINGS}/plain", "GetThing", "ABORTED", "409"),
        (f"/{SERVICE}/GetThing", "GetThing", "OK", "200"),
        (f"/{SERVICE}/Nothing", "Nothing", "UNIMPLEMENTED", "200"),
    ):
        attempt, request = await spans_of(traced, path, 2)
        rpc = {"rpc.system.name": "grpc", "rpc.method": f"{SERVICE}/{method}"}
        assert {**rpc, "server.address": "probe"}.items() <= attempt.items()
        assert not {"rpc.response.status_code", "http.response.status_code"} & attempt.keys()
        ended = {"rpc.response.status_code": status, "http.response.status_code": http_status}
        assert {**rpc, **ended, "server.address": "127.0.0.1"}.items() <= request.items(), path
    (request,) = await spans_of(traced, "/nowhere", 1)
    assert request["http.response.status_code"] == "404"
    assert not [key for key in request if key.startswith("rpc.")]
