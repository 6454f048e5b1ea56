"""Envoy is ready when it answers itself, not when somebody else has its port."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from mesh.paths import Paths
from mesh.ports import free_port
from mesh.scope import Scope
from mesh.up.parts import parts
from mesh.up.plan import Plan, Ports
from mesh.up.stack import Stack
from mesh.up.supervisor import Supervisor
from mesh.up.unit import Live


def no_members(instance: object) -> Live:
    raise AssertionError


async def test_a_stranger_on_its_port_does_not_make_it_ready(short_tmp: Path) -> None:
    paths = Paths.locate({"XDG_RUNTIME_DIR": str(short_tmp)}, short_tmp / "state")
    paths.prepare()
    environ = {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}
    plan = Plan.of(Stack(postgres=False, valkey=False), paths, short_tmp, environ, Ports(gateway=free_port()))
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
