"""`/metrics` of a process, and how Prometheus gets to know where it is."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
import urllib.error
from collections.abc import Iterable
from contextlib import closing, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import create_server
from typing import Any

import grpc
import pytest
from opentelemetry.trace import SpanKind
from prometheus_client import REGISTRY, Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

import mesh
from mesh import announced, metrics, pages
from mesh.announced import announce
from mesh.errors import Code
from mesh.findings import bad
from mesh.findings.programs import programs
from mesh.metrics_page import NOWHERE, listed, of_process, serving
from mesh.paths import Paths
from mesh.ports import free_port, with_port
from mesh.registry import MESH_TAG, Instance, Registry, connect
from mesh.targets import Target, keep, text
from tests.fixtures.echo import SERVICE, dialled, failure, path, served, unary_unary
from tests.fixtures.prometheus import own, scraped, told, value
from tests.fixtures.prometheus import text as page_of
from tests.fixtures.shop import Host, eventually, until
from tests.fixtures.spans import Spans

pytestmark = pytest.mark.timeout(60)

SERVED, SENT = "rpc_server_call_duration_seconds", "rpc_client_call_duration_seconds"


async def answer(request: bytes, context: Any) -> bytes:
    if request == b"fail":
        raise mesh.Error(Code.NOT_FOUND, "nothing there", reason="NOTHING")
    return request


async def test_each_call_is_a_duration_with_its_status_on_both_sides(spans: Spans) -> None:
    method = f"Measured{free_port()}"
    async with served({method: unary_unary(answer)}) as server, dialled(server) as channel:
        call = channel.unary_unary(path(method))
        for request in (b"x", b"x", b"fail"):
            await asyncio.gather(call(request), return_exceptions=True)
        with serving() as port:
            found = await asyncio.to_thread(scraped, f"127.0.0.1:{port}", examples=True)
    name = f"{SERVICE}/{method}"
    for family, more in ((SERVED, {}), (SENT, {"server_address": "echo"})):
        count = f"{family}_count"
        assert value(found, count, rpc_method=name, rpc_response_status_code="OK", **more) == 2
        assert value(found, count, rpc_method=name, rpc_response_status_code="NOT_FOUND", **more) == 1
    sent = {f"{span.context.trace_id:032x}" for span in spans.ended(SpanKind.CLIENT) if span.context}
    examples = {sample.exemplar.labels["trace_id"] for sample in found[SENT].samples if sample.exemplar}
    assert sent & examples


async def test_made_up_methods_are_one() -> None:
    before = _others()
    async with served({}) as server, dialled(server) as channel:
        for name in ("One", "Two"):
            assert (await failure(channel.unary_unary(path(name))(b""))).code() is grpc.StatusCode.UNIMPLEMENTED
    assert _others() == before + 2


def _others() -> float:
    return value(own(), f"{SERVED}_count", rpc_method=metrics.OTHER)


async def test_the_page_answers_while_the_loop_is_blocked() -> None:
    port = free_port()
    async with served({}, metrics_port=port):
        command = [sys.executable, "-c", f"import urllib.request as u; u.urlopen('http://127.0.0.1:{port}/metrics')"]
        subprocess.run(command, check=True, timeout=30)  # this is the loop's own thread
    with pytest.raises(urllib.error.URLError):
        page_of(f"127.0.0.1:{port}")


async def test_a_port_that_is_taken_costs_the_metrics_alone(caplog: pytest.LogCaptureFixture) -> None:
    with closing(create_server(("127.0.0.1", 0))) as other:
        port = other.getsockname()[1]
        async with served({"It": unary_unary(answer)}, metrics_port=port) as server, dialled(server) as channel:
            assert await channel.unary_unary(path("It"))(b"x") == b"x"
    assert f"no metrics: cannot listen on 127.0.0.1:{port}" in caplog.text


async def test_who_serves_metrics_is_registered_with_the_port_and_told_to_prometheus(
    mesh_host: Host, service: str
) -> None:
    run = mesh_host.socket.parent
    with serving() as port:
        has = await mesh_host.shop(service, meta={"metrics-port": str(port)}, zone="a")
        lacks = await mesh_host.shop(service, meta={"metrics-port": str(free_port())})
        async with connect(mesh_host.registry) as registry:
            found = {one.id: one.meta.get("metrics-port") for one in await registry.instances(service)}
        assert found == {has.id: str(port), lacks.id: None}
        await asyncio.to_thread(eventually, lambda: told(run) == {service: [f"127.0.0.1:{port}"]})
        await has.leave()
        await asyncio.to_thread(eventually, lambda: told(run) == {})


async def test_the_age_of_what_the_registry_told_is_shown(mesh_host: Host, service: str) -> None:
    await mesh_host.shop(service)
    await until(_snapshot_is_young)


async def _snapshot_is_young() -> bool:
    return 0 < value(own(), "mesh_snapshot_age_seconds") < 60


async def test_a_part_of_the_mesh_is_told_of_until_it_ends_or_is_killed(tmp_path: Path) -> None:
    killed = tmp_path / "targets-gateway-1.json"
    killed.write_text(text([Target(address="127.0.0.1:1", labels={"job": "gateway"})]))
    with listed(tmp_path, "sidecar"):
        keeping = asyncio.create_task(keep(tmp_path, list))
        await asyncio.to_thread(eventually, lambda: told(tmp_path).keys() == {"sidecar"})
        keeping.cancel()
        (address,) = told(tmp_path)["sidecar"]
        assert "process_start_time_seconds" in await asyncio.to_thread(scraped, address)
    assert told(tmp_path) == {}
    with listed(tmp_path, "sidecar", NOWHERE):
        assert told(tmp_path) == {}


async def test_a_part_of_the_mesh_shows_its_metrics_where_it_is_told(short_tmp: Path) -> None:
    port = free_port()
    environ = {"METRICS_HOST": "127.0.0.2", "METRICS_PORT": str(port), "MESH_DIR": str(short_tmp)}
    run = Paths.locate(environ).run
    run.mkdir(parents=True)
    with of_process("gateway", environ):
        await asyncio.to_thread(eventually, lambda: told(run) == {"gateway": [f"127.0.0.2:{port}"]})
        assert "process_start_time_seconds" in await asyncio.to_thread(scraped, f"127.0.0.2:{port}")
        with pytest.raises(urllib.error.URLError):
            await asyncio.to_thread(page_of, f"127.0.0.1:{port}")
    with pytest.raises(mesh.InvalidConfig, match="METRICS_PORT"):
        of_process("gateway", environ | {"METRICS_PORT": "much"})


class Asking(Collector):
    """A program that has something for an operator to see to."""

    def describe(self) -> Iterable[Metric]:
        """Nothing: services in the same process show the same name."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Two kinds."""
        asked = GaugeMetricFamily("mesh_attention", "Of a test.", labels=("what", "remedy"))
        asked.add_metric(("broken things", 'mend "all"  # soon'), 3)
        asked.add_metric(("other things", "mend others"), 0)
        yield asked


async def test_what_programs_ask_of_somebody_is_found_once_on_their_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever proxy this process is to use for others."""
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    REGISTRY.register(asking := Asking())
    try:
        with serving() as port:
            addresses = [f"127.0.0.1:{port}", f"127.0.0.1:{free_port()}", "127.0.0.1:no", f"127.0.0.1:{port}"]
            targets = [Target(address=one, labels={"job": "shop"}) for one in addresses]
            (tmp_path / "targets.json").write_text(text(targets))
            found = list(programs(await asyncio.to_thread(pages.of_programs, tmp_path)))
    finally:
        REGISTRY.unregister(asking)
    ours = [one for one in found if "things" in one.text]
    assert ours == [bad("processes", "broken things: 3", 'mend "all"  # soon')]
    assert pages.of_programs(tmp_path / "nowhere") == []


class Endless(BaseHTTPRequestHandler):
    """A page that is as long as its reader likes."""

    def do_GET(self) -> None:
        """Lines without an end."""
        self.send_response(200)
        self.end_headers()
        with suppress(OSError):
            while self.wfile.write(b'mesh_attention{what="things",remedy="none"} 1\n' * 10_000):
                pass

    def log_message(self, *_: Any) -> None:
        """Nothing."""


def test_a_page_without_an_end_is_none(tmp_path: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Endless) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        target = Target(address=f"127.0.0.1:{server.server_port}", labels={"job": "shop"})
        (tmp_path / "targets.json").write_text(text([target]))
        assert pages.of_programs(tmp_path) == [""]
        server.shutdown()
        thread.join()


def test_what_is_on_a_page_may_be_anything() -> None:
    assert list(programs(["mesh_attention{what= 3"])) == []


async def test_a_part_of_the_mesh_is_in_the_registry_as_no_instance_of_the_mesh(
    registry: Registry, tmp_path: Path
) -> None:
    named = f"part{free_port()}"
    announcing = asyncio.create_task(announce(tmp_path, registry))

    async def there() -> list[Instance]:
        return [one for one in await registry.instances(announced.SERVICE) if one.meta["job"] == named]

    async def is_there() -> bool:
        return bool(await there())

    async def is_gone() -> bool:
        return not await there()

    (tmp_path / "targets-mine.json").write_text('[{"labels": {"job": "mine"}, "targets": ["localhost"]}]')
    with listed(tmp_path, named):
        await until(is_there)
        (one,) = await there()
        assert [with_port(one.address, int(one.meta["metrics-port"]))] == told(tmp_path)[named]
        assert MESH_TAG not in (await registry.services())[announced.SERVICE]
    await until(is_gone)
    with listed(tmp_path, named):
        await until(is_there)
        announcing.cancel()
        await until(is_gone)


async def test_a_blocked_loop_shows_while_it_is_blocked_and_afterwards() -> None:
    with serving():
        before = value(own(), "event_loop_lag_seconds_sum")
        time.sleep(0.6)
        assert value(own(), "event_loop_stall_seconds") >= 0.3
        await until(lambda: _lag_of(before + 0.3))


async def _lag_of(seconds: float) -> bool:
    return value(own(), "event_loop_lag_seconds_sum") >= seconds
