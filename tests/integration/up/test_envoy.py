"""Envoy is ready when it answers itself, and passes its port on to the next one."""

from __future__ import annotations

import asyncio
import http.client
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

from mesh.paths import Paths
from mesh.ports import free_port
from mesh.scope import Scope
from mesh.up import probes
from mesh.up.envoy import Envoy, envoy_binary
from mesh.up.lifecycle import State
from mesh.up.parts import parts
from mesh.up.plan import Plan, Ports
from mesh.up.stack import Stack
from mesh.up.supervisor import Supervisor
from mesh.up.unit import Live, Part, Stage, Unit


def no_members(instance: object) -> Live:
    raise AssertionError


def planned(folder: Path) -> Plan:
    paths = Paths.locate({"XDG_RUNTIME_DIR": str(folder)}, folder / "state")
    paths.prepare()
    environ = {**os.environ, "XDG_RUNTIME_DIR": str(folder), "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}
    environ.pop("CONSUL_HTTP_ADDR", None)
    ports = Ports(gateway=free_port(), registry=free_port())
    return Plan.of(Stack(postgres=False, valkey=False), paths, folder, environ, ports)


class Edge:
    """A registry, a control process and an Envoy that drains for a second."""

    def __init__(self, folder: Path) -> None:
        self.plan = planned(folder)
        found = [part for part in parts(self.plan, no_members) if part.name in ("registry", "gateway")]
        binary, environ = envoy_binary(os.environ), self.plan.shared_environ()
        self.envoy = Envoy(binary, self.plan.paths, self.plan.ports.gateway, environ, drain_seconds=1)
        self.log = self.plan.paths.log("envoy")
        part = Part(name="envoy", live=self.envoy.live, log=self.log, stage=Stage.EDGE, surges=self.envoy.can_surge)
        self.supervisor = Supervisor([*found, part])

    @property
    def unit(self) -> Unit:
        return self.supervisor.units["envoy"]

    @asynccontextmanager
    async def up(self) -> AsyncIterator[None]:
        async with asyncio.timeout(50), Scope() as scope:
            running = scope.start(self.supervisor.run())
            await self.supervisor.ready()
            yield
            await self.supervisor.stop()
            await running

    @contextmanager
    def connection(self) -> Iterator[http.client.HTTPConnection]:
        connection = http.client.HTTPConnection("127.0.0.1", self.plan.ports.gateway, timeout=10)
        try:
            yield connection
        finally:
            connection.close()

    async def serves(self) -> bool:
        """Whether a new connection is answered, and kept."""
        with suppress(OSError, http.client.HTTPException), self.connection() as connection:
            return await asyncio.to_thread(ask, connection) is None
        return False

    async def until(self, condition: Callable[[], bool]) -> None:
        async def look() -> bool:
            return condition()

        await probes.until(look)


def ask(connection: http.client.HTTPConnection, path: str = "/healthz") -> str | None:
    """One request; what the answer says of the connection."""
    connection.request("GET", path)
    answer = connection.getresponse()
    answer.read()
    assert answer.status == 200
    return answer.getheader("connection")


async def test_a_stranger_on_its_port_does_not_make_it_ready(short_tmp: Path) -> None:
    plan = planned(short_tmp)
    envoy = next(part for part in parts(plan, no_members) if part.name == "envoy")
    looked = asyncio.Semaphore(0)

    async def stranger(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
        writer.close()
        looked.release()

    server = await asyncio.start_server(stranger, "127.0.0.1", plan.ports.gateway)
    async with asyncio.timeout(30), server, Scope() as scope:
        supervisor = Supervisor([envoy])
        running = scope.start(supervisor.run())
        for _ in range(3):
            await looked.acquire()
        assert not supervisor.units["envoy"].was_ready.is_set()
        await supervisor.stop()
        await running


async def test_a_new_one_takes_the_port_over_and_the_old_one_drains(short_tmp: Path) -> None:
    edge = Edge(short_tmp)
    async with edge.up():
        old = edge.unit.status.value.pid
        with edge.connection() as kept, edge.connection() as idle:
            assert await asyncio.to_thread(ask, kept) is None
            await asyncio.to_thread(ask, idle)
            restarting = asyncio.ensure_future(edge.unit.restart())
            await edge.until(lambda: edge.unit.status.value.pid != old)
            assert await asyncio.to_thread(ask, kept) == "close"
            assert await asyncio.to_thread(ask, kept) is None
            await restarting
            assert await asyncio.to_thread(ask, kept) is None
        await probes.until(probes.gone(old))


async def test_a_new_control_process_takes_its_sockets_over(short_tmp: Path) -> None:
    edge = Edge(short_tmp)
    async with edge.up(), Scope() as scope:
        old = edge.supervisor.units["gateway"].status.value.pid
        with edge.connection() as connection:
            restarting = scope.start(edge.supervisor.units["gateway"].restart())
            while not restarting.done():
                await asyncio.to_thread(ask, connection, "/docs")
            assert restarting.result(), "both were there for a while"
            await probes.until(probes.gone(old))
            await asyncio.to_thread(ask, connection, "/docs")


async def test_a_successor_that_is_not_ready_changes_nothing(short_tmp: Path) -> None:
    """Without the control process it knows nothing. Envoy lets no other one take over after it, so that replaces."""
    edge = Edge(short_tmp)
    async with edge.up():
        old, control = edge.unit.status.value.pid, edge.supervisor.units["gateway"].status.value.pid
        os.kill(control, signal.SIGSTOP)
        async with Scope() as scope:
            scope.start(edge.unit.restart())
            await edge.until(lambda: "admin due to child startup" in edge.log.read_text())
        await probes.until(edge.serves)
        assert edge.unit.status.value.pid == old
        os.kill(control, signal.SIGCONT)
        await edge.until(lambda: not edge.envoy.can_surge())
        await edge.unit.restart()
        await probes.until(probes.gone(old))
        assert edge.envoy.can_surge()


async def test_after_a_death_it_starts_anew(short_tmp: Path) -> None:
    edge = Edge(short_tmp)
    async with edge.up():
        await edge.unit.restart()
        os.kill(edge.unit.status.value.pid, signal.SIGKILL)
        await edge.until(lambda: edge.unit.status.value.restarts == 1)
        await edge.until(lambda: edge.unit.status.value.state is State.READY)
        await edge.unit.restart()
        with edge.connection() as connection:
            await asyncio.to_thread(ask, connection)
    assert not list(Path("/dev/shm").glob(f"envoy_shared_memory_{edge.envoy.base_id}*"))
