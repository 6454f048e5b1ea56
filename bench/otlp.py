"""Spans that the console's sink takes a second: `nox -s bench -- otlp`.

Exports of 512 spans, as services send them, from a client in a process of its own (this one), over each transport, in
rounds that take turns; the console stores them and folds them into its figures. Aim: 20,000 a second.
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import random
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import grpc
from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from bench import parts
from bench.figures import table
from bench.telemetry import EXPORT
from mesh.ports import free_port
from tests.fixtures.otlp import batch, export, span

BATCH = 512
ROUNDS = 4
EXPORTS = 12
AT_ONCE = 4
AIM = 20_000

Send = Callable[[bytes], Awaitable[None]]
PROTOBUF = {"Content-Type": "application/x-protobuf"}
JSON = {"Content-Type": "application/json"}
GZIP = {"Content-Encoding": "gzip"}


async def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/tmp") as name:
        grpc_port, http_port, port = free_port(), free_port(), free_port()
        flags = ("--otlp-grpc-port", str(grpc_port), "--otlp-http-port", str(http_port), "--port", str(port))
        argv = ["-m", "console", "--dir", name, *flags]
        with parts.process(Path(name), "console", argv, "") as console:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{grpc_port}") as channel, aiohttp.ClientSession() as http:
                await asyncio.wait_for(channel.channel_ready(), 20)
                await _measure(console.pid, channel, http, f"http://127.0.0.1:{http_port}/v1/traces")


async def _measure(pid: int, channel: grpc.aio.Channel, http: aiohttp.ClientSession, url: str) -> None:
    call: Any = channel.unary_unary(EXPORT)

    async def by_grpc(body: bytes) -> None:
        await call(body, timeout=20)

    def by_http(headers: dict[str, str]) -> Send:
        async def send(body: bytes) -> None:
            async with http.post(url, data=body, headers=headers) as response:
                response.raise_for_status()

        return send

    ways: Sequence[tuple[str, Send, Callable[[], bytes]]] = (
        ("gRPC", by_grpc, _protobuf),
        ("HTTP, protobuf", by_http(PROTOBUF), _protobuf),
        ("HTTP, protobuf, gzip", by_http(PROTOBUF | GZIP), lambda: gzip.compress(_protobuf(), 1)),
        ("HTTP, JSON", by_http(JSON), _json),
        ("HTTP, JSON, gzip", by_http(JSON | GZIP), lambda: gzip.compress(_json(), 1)),
    )
    rates: dict[str, list[float]] = {name: [] for name, *_ in ways}
    costs: dict[str, list[float]] = {name: [] for name, *_ in ways}
    for number in range(ROUNDS + 1):
        for name, send, make in ways:
            rate, cost = await _round(pid, send, [make() for _ in range(EXPORTS)])
            if number:
                rates[name].append(rate)
                costs[name].append(cost)
    rows = [
        (name, f"{statistics.median(rates[name]):,.0f}/s", f"{statistics.median(costs[name]) * 1e6:.1f} us",
         f"{statistics.median(rates[name]) / AIM:.2f}", f"{1 / statistics.median(costs[name]):,.0f}/s")
        for name in rates
    ]  # fmt: skip
    print(table(("", "spans", "CPU for each", "of the aim", "with a core to itself"), rows))


async def _round(pid: int, send: Send, bodies: list[bytes]) -> tuple[float, float]:
    """Spans a second, and seconds of the console's CPU for each."""
    began, cpu, count = time.monotonic(), parts.cpu_seconds(pid), len(bodies)

    async def work() -> None:
        while bodies:
            await send(bodies.pop())

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(work())
    spans = count * BATCH
    return spans / (time.monotonic() - began), (parts.cpu_seconds(pid) - cpu) / spans


def _made() -> ExportTraceServiceRequest:
    """Calls of four spans each: a server's, a statement, a client's, a command."""
    spans: list[Span] = []
    for _ in range(BATCH // 4):
        trace, first = random.getrandbits(128), random.getrandbits(62)
        start = time.time_ns() - 10**9
        rpc = {"rpc.system.name": "grpc", "rpc.method": "shop.v1.Shop/Get", "rpc.response.status_code": "OK"}
        sql = {"db.system.name": "postgresql", "db.namespace": "shop", "db.query.summary": "SELECT shop.items",
               "db.query.text": "SELECT * FROM shop.items WHERE id = $1", "server.address": "127.0.0.1"}
        spans += [
            span(trace, first, parent=first + 9, name="shop.v1.Shop/Get", start=start,
                 attributes={**rpc, "network.peer.address": "127.0.0.1", "meshwright.deadline_seconds": 4.9}),
            span(trace, first + 1, parent=first, name="SELECT shop.items", kind=Span.SPAN_KIND_CLIENT, start=start,
                 attributes=sql),
            span(trace, first + 2, parent=first, name="shop.v1.Shop/Buy", kind=Span.SPAN_KIND_CLIENT, start=start,
                 attributes={**rpc, "server.address": "stock"}),
            span(trace, first + 3, parent=first, name="GET", kind=Span.SPAN_KIND_CLIENT, start=start,
                 attributes={"db.system.name": "redis", "db.operation.name": "GET", "server.address": "127.0.0.1"}),
        ]  # fmt: skip
    return export(batch(f"service-{random.randrange(5)}", *spans))


def _protobuf() -> bytes:
    return _made().SerializeToString()


def _json() -> bytes:
    """OTLP's own form: ids are hex there."""
    made = _made()
    tree = json_format.MessageToDict(made, use_integers_for_enums=True)
    for one in tree["resourceSpans"][0]["scopeSpans"][0]["spans"]:
        one |= {key: base64.b64decode(one[key]).hex() for key in ("traceId", "spanId", "parentSpanId") if key in one}
    return json.dumps(tree).encode()


if __name__ == "__main__":
    asyncio.run(main())
