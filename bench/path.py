"""What a path costs: `nox -s bench -- path`.

The same unary call of 100 bytes, directly and over each path that a mesh may take, with TLS and without, in rounds
that take turns. CPU is that of the client, the server and all proxies in between. Aim: `mesh.channel` at 0.9 of a bare
channel with the same balancing.
"""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import parts
from bench.figures import milliseconds, quantile, table
from mesh.paths import Paths
from mesh.ports import free_port
from tests.integration.gateway.harness import ENVOY, Process, eventually

ROUNDS = 12
ROUND_SECONDS = 0.4
AT_ONCE = 16
AIM = 0.9


@dataclass
class Way:
    """One way to the server, and what its rounds said."""

    name: str
    kind: str
    address: str
    others: Sequence[int]
    """Process ids of the server and of all proxies."""

    paths: Paths
    """Of the sidecar that its client asks."""

    rates: list[float] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    cpu: float = 0.0

    def row(self, other: Way) -> Sequence[object]:
        """Figures, the throughput in relation to another's round by round."""
        ratio = statistics.median(mine / its for mine, its in zip(self.rates, other.rates, strict=True))
        p50, p99 = (milliseconds(quantile(self.latencies, share)) for share in (0.5, 0.99))
        cost = self.cpu / len(self.latencies) * 1e6
        return self.name, f"{statistics.median(self.rates):.0f}/s", f"{ratio:.2f}", p50, p99, f"{cost:.0f} us"


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/tmp") as name, ExitStack() as stack:
        folder = Path(name)
        consul = stack.enter_context(parts.registry(folder))
        server, port = stack.enter_context(parts.backend(folder, "backend"))
        _, paths = stack.enter_context(parts.sidecar(folder, consul))
        parts.published(consul, "bench", [port])
        edge = stack.enter_context(parts.edge(folder, consul.address))
        first, first_port = stack.enter_context(_envoy(folder, "outbound", port_of_next := free_port()))
        second, _ = stack.enter_context(_envoy(folder, "inbound", port, port_of_next))
        ways = [
            Way("direct", "bare", f"127.0.0.1:{port}", [server.pid], paths),
            Way("xds:///, bare channel", "bare", "xds:///bench", [server.pid], paths),
            Way("xds:///, mesh.channel", "mesh", "xds:///bench", [server.pid], paths),
            Way("gateway", "bare", f"127.0.0.1:{edge.port}", [server.pid, edge.envoy.pid], paths),
            Way(
                "two Envoys, as sidecars", "bare", f"127.0.0.1:{first_port}", [server.pid, first.pid, second.pid], paths
            ),
            *_secured(folder / "tls", stack),
        ]
        callers = [stack.enter_context(_caller(way)) for way in ways]
        for number in range(ROUNDS + 1):
            for way, caller in zip(ways, callers, strict=True):
                _round(way, caller, warm=number > 0)
    print(table(("", "calls", "of direct", "p50", "p99", "CPU per call"), [way.row(ways[0]) for way in ways]))
    ratio = statistics.median(mine / bare for mine, bare in zip(ways[2].rates, ways[1].rates, strict=True))
    print(f"mesh.channel / bare channel, both over xds:///: {ratio:.2f}; aim {AIM:.2f}")
    for with_tls, without in ((ways[5], ways[2]), (ways[6], ways[3])):
        ratio = statistics.median(mine / its for mine, its in zip(with_tls.rates, without.rates, strict=True))
        print(f"{with_tls.name} / {without.name}: {ratio:.2f}")


def _secured(folder: Path, stack: ExitStack) -> Iterator[Way]:
    """The ways of a mesh that speaks TLS, with a registry of its own."""
    folder.mkdir()
    consul = stack.enter_context(parts.registry(folder))
    _, paths = stack.enter_context(parts.sidecar(folder, consul, mtls=True))
    server = stack.enter_context(parts.joined(folder, consul, "bench"))
    edge = stack.enter_context(parts.edge(folder / "edge", consul.address, MESH_MTLS="true"))
    yield Way("xds:///, mesh.channel, TLS", "mesh", "xds:///bench", [server], paths)
    yield Way("gateway, TLS", "bare", f"127.0.0.1:{edge.port}", [server, edge.envoy.pid], paths)


def _caller(way: Way) -> AbstractContextManager[subprocess.Popen[str]]:
    return parts.caller(way.kind, way.address, AT_ONCE, GRPC_XDS_BOOTSTRAP=str(way.paths.bootstrap))


def _round(way: Way, caller: subprocess.Popen[str], *, warm: bool) -> None:
    before = sum(map(parts.cpu_seconds, way.others))
    said = parts.calls(caller, ROUND_SECONDS)
    if warm:
        way.rates.append(len(said["latencies"]) / said["seconds"])
        way.latencies += said["latencies"]
        way.cpu += said["cpu"] + sum(map(parts.cpu_seconds, way.others)) - before


@contextmanager
def _envoy(folder: Path, name: str, upstream: int, port: int = 0) -> Iterator[tuple[Process, int]]:
    """An Envoy that passes HTTP/2 on to a port, as a sidecar of a mesh does."""
    port = port or free_port()
    config = folder / f"{name}.json"
    config.write_text(json.dumps(_config(port, upstream)))
    argv = [ENVOY, "-c", str(config), "--use-dynamic-base-id", "--concurrency", "2", "--log-level", "info"]
    made = Process(argv, folder / f"{name}.log")
    made.start()
    try:
        eventually(lambda: bool(re.search("all dependencies initialized", made.output())), name, made.output)
        yield made, port
    finally:
        made.kill()


def _config(port: int, upstream: int) -> Mapping[str, Any]:
    kinds = "type.googleapis.com/envoy.extensions."
    http = {
        "@type": f"{kinds}filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "all", "codec_type": "HTTP2",
        "route_config": {"virtual_hosts": [{
            "name": "all", "domains": ["*"],
            "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "next", "timeout": "0s"}}],
        }]},
        "http_filters": [{"name": "router", "typed_config": {"@type": f"{kinds}filters.http.router.v3.Router"}}],
    }  # fmt: skip
    options = {
        "@type": f"{kinds}upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
    return {"static_resources": {
        "listeners": [{
            "address": _address(port),
            "filter_chains": [{"filters": [{"name": "http", "typed_config": http}]}],
        }],
        "clusters": [{
            "name": "next", "type": "STATIC",
            "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options},
            "load_assignment": {
                "cluster_name": "next",
                "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(upstream)}}]}],
            },
        }],
    }}  # fmt: skip


def _address(port: int) -> Mapping[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


if __name__ == "__main__":
    main()
