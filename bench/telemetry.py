"""What telemetry costs a service: `nox -s bench -- telemetry`.

The same unary call, 16 at once, to servers and from callers that are alike but for their spans, all of which go to a
sink by OTLP; in rounds that take turns. A process in Python is bound by its one core, so that the CPU of a call is what
its throughput follows. GetUser of the sync service, from Valkey, is the cheapest call of a service that is shipped; the
others are 100 bytes to a handler that does nothing, where telemetry is as much of a call as it can be. Aim: with all
calls traced, 0.9 of the throughput.

Then how long calls take when the collector is not there, or takes connections and never answers.
"""

from __future__ import annotations

import asyncio
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from time import process_time
from typing import Any

import grpc

from bench import echo, parts
from bench.figures import milliseconds, quantile, table
from bench.users import GET_USER, users
from mesh import tracing
from mesh.errors import Code
from mesh.ports import free_port
from tests.integration.gateway.harness import Process

ROUNDS = 24
ROUND_SECONDS = 0.5
AT_ONCE = 16
AIM = 0.9
EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"


@dataclass
class Way:
    """A server or a caller whose telemetry is on or off, and the CPU that its rounds took for each call."""

    name: str
    off: Way | None
    process: Process | subprocess.Popen[str]
    caller: subprocess.Popen[str]
    costs: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)

    def round(self, *, warm: bool) -> None:
        """Calls for a while."""
        before = parts.cpu_seconds(self.process.pid)
        said = parts.calls(self.caller, ROUND_SECONDS)
        if warm:
            calls = len(said["latencies"])
            self.costs.append((parts.cpu_seconds(self.process.pid) - before) / calls)
            self.rates.append(calls / said["seconds"])
            self.latencies += said["latencies"]

    @property
    def cost(self) -> float:
        """Seconds of CPU for each call."""
        return statistics.median(self.costs)

    def throughput(self) -> float:
        """In relation to the same without telemetry, by CPU."""
        assert self.off
        return statistics.median(off / on for on, off in zip(self.costs, self.off.costs, strict=True))

    def row(self) -> Sequence[object]:
        """Figures."""
        plain = self.name, f"{statistics.median(self.rates):.0f}/s", f"{self.cost * 1e6:.0f} us"
        if not self.off:
            return *plain, "", ""
        seen = statistics.median(on / off for on, off in zip(self.rates, self.off.rates, strict=True))
        return *plain, f"{self.throughput():.2f}", f"{seen:.2f}"


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/tmp") as name, ExitStack() as stack:
        folder = Path(name)

        def started(kind: str, *argv: str, **environ: str) -> tuple[Process, int]:
            made = stack.enter_context(parts.process(folder, kind, ["-m", *argv], "port ", **environ))
            return made, int(re.findall(r"^port (\d+)$", made.output(), re.MULTILINE)[0])

        _, sink = started("sink", "bench.telemetry", "sink")
        on = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{sink}", "OTEL_BSP_MAX_QUEUE_SIZE": "20000"}
        servers = {
            "grpc.aio": started("bare", "bench.telemetry", "bare"),
            "grpc.aio, opentelemetry-instrumentation-grpc": started("peer", "bench.telemetry", "peer", **on),
            "mesh.server": started("off", "bench.echo"),
            "mesh.server, on": started("on", "bench.echo", **on),
        }
        ways: list[Way] = []
        for title, (process, port) in servers.items():
            caller = stack.enter_context(parts.caller("bare", f"127.0.0.1:{port}", AT_ONCE))
            ways.append(Way(title, ways[-1] if len(ways) % 2 else None, process, caller))
        port = servers["grpc.aio"][1]
        for title, environ in (("mesh.channel", {}), ("mesh.channel, on", on)):
            caller = stack.enter_context(parts.caller("mesh", f"127.0.0.1:{port}", AT_ONCE, **environ))
            ways.append(Way(title, ways[-1] if environ else None, caller, caller))
        made = stack.enter_context(users(folder))
        for title, environ in (("GetUser of the sync service", {}), ("GetUser of the sync service, on", on)):
            process, port = stack.enter_context(made.service(f"users{len(ways)}", **environ))
            method = GET_USER, made.request.hex()
            caller = stack.enter_context(parts.caller("bare", f"127.0.0.1:{port}", AT_ONCE, *method))
            ways.append(Way(title, ways[-1] if environ else None, process, caller))
        _take_turns(ways)
    heads = ("", "calls", "CPU for each", "of off, by CPU", "as seen")
    print(table(heads, [way.row() for way in ways]))
    ours, idle = ways[3], _idle_seconds()
    assert ours.off
    print(f"off, tracing takes {idle * 1e6:.1f} us of a call: {idle / ours.off.cost:.1%}")
    print(f"on / off by CPU: {ways[-1].throughput():.2f} of GetUser, {ours.throughput():.2f} of an empty handler; "
          f"aim {AIM:.2f}\n")
    _collectors()


def _take_turns(ways: Sequence[Way]) -> None:
    for number in range(ROUNDS + 1):
        for way in ways:
            way.round(warm=number > 0)


def _collectors() -> None:
    """Calls, and what became of their spans, by the state that the collector is in."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/tmp") as name, ExitStack() as stack:
        folder = Path(name)
        sink = stack.enter_context(parts.process(folder, "sink", ["-m", "bench.telemetry", "sink"], "port "))
        silent = stack.enter_context(socket.create_server(("127.0.0.1", 0)))  # the kernel takes connections for it
        states = {
            "no telemetry": 0, "a collector": int(sink.output().split()[-1]), "none there": free_port(),
            "one that hangs": silent.getsockname()[1],
        }
        ways, pages = [], []
        for title, to in states.items():
            pages.append(free_port())
            environ = {"METRICS_PORT": str(pages[-1])}
            if to:
                environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = f"http://127.0.0.1:{to}"
            process = stack.enter_context(
                parts.process(folder, title.replace(" ", "-"), ["-m", "bench.echo"], "port ", **environ)
            )
            port = re.findall(r"^port (\d+)$", process.output(), re.MULTILINE)[0]
            caller = stack.enter_context(parts.caller("bare", f"127.0.0.1:{port}", 1))
            ways.append(Way(title, None, process, caller))
        _take_turns(ways)
        rows = [
            (way.name, milliseconds(quantile(way.latencies, 0.5)), milliseconds(quantile(way.latencies, 0.99)),
             *(round(_count(page, name)) for name in ("exported", "dropped")))
            for way, page in zip(ways, pages, strict=True)
        ]  # fmt: skip
        print(table(("collector", "p50", "p99", "spans exported", "dropped and counted"), rows))


def _count(port: int, of: str) -> float:
    """Spans that a process counts so far."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as page:
        text = page.read().decode()
    return sum(map(float, re.findall(rf"^telemetry_spans_{of}_total(?:{{.*}})? (\S+)$", text, re.MULTILINE)))


def _idle_seconds(calls: int = 20_000) -> float:
    """CPU of what `mesh.server` does around a call for its trace when nothing is exported, which no setting removes."""
    source, attributes = tracing.Source(), {"rpc.system.name": "grpc", "rpc.method": "bench.v1.Echo/Unary"}
    begun = process_time()
    for _ in range(calls):
        span = tracing.server_span(source, "bench.v1.Echo/Unary", attributes, tracing.Inbound.of(_METADATA))
        tracing.end_server_span(span, Code.OK)
    return (process_time() - begun) / calls


_METADATA = (("user-agent", "grpc-python-asyncio/1.0"),)


async def serve(kind: str) -> None:
    """A server of gRPC alone: `bare`, with the other instrumentation, or a sink that reads nothing."""
    interceptors = []
    if kind == "peer":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.instrumentation.grpc import aio_server_interceptor
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        provider = TracerProvider()
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        interceptors.append(aio_server_interceptor(tracer_provider=provider))  # type: ignore[no-untyped-call]

    async def unary(request: bytes, context: Any) -> bytes:
        return b"" if kind == "sink" else request

    server = grpc.aio.server(interceptors=interceptors)
    handler: Any = grpc.unary_unary_rpc_method_handler(unary)
    for path in (EXPORT, echo.path("Unary")):
        service, _, method = path.lstrip("/").rpartition("/")
        server.add_registered_method_handlers(service, {method: handler})
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print("port", port, flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1])) if sys.argv[1:] else main()
