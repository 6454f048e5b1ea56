"""A whole stack under load, once on the dev registry and once on a real Consul, and what one sees of it meanwhile."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from mesh.latest import Latest
from mesh.paths import Paths
from mesh.registry import RegistrySettings, connect
from mesh.registry.model import Health
from mesh.scope import Scope
from mesh.up import client
from mesh.up.service import state_of
from meshwright.launcher.v1 import launcher_service_pb2 as pb
from tests.e2e.conftest import ROOT, Stack, stack_in
from tests.faults.observer import Envoy, XdsClient, envoy
from tests.fixtures.consul import RegistryProcess, consul_process

RATE = 100
"""Calls in a second on each of the two paths."""


@dataclass
class Load:
    """The load generator, and what it has told so far."""

    process: asyncio.subprocess.Process
    totals: Latest[dict[str, Any]] = field(default_factory=lambda: Latest({}))
    failures: list[dict[str, Any]] = field(default_factory=list)

    async def read(self) -> None:
        """Follow what it tells until it ends."""
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            told = json.loads(line)
            if "error" in told:
                self.failures.append(told)
            else:
                self.totals.set(told)

    async def more(self, calls: int) -> None:
        """Until so many more calls have ended on each path."""
        before = {name: path["done"] for name, path in self.totals.value.items()}
        async for totals in self.totals.changes():
            if totals and all(path["done"] >= before.get(name, 0) + calls for name, path in totals.items()):
                return

    async def in_time(self) -> None:
        """Until less than half a second's calls wait for their answers on each path."""
        async for totals in self.totals.changes():
            if totals and all(path["begun"] - path["done"] < RATE / 2 for path in totals.values()):
                return

    async def end(self) -> None:
        """Stop, and wait for the calls in hand."""
        self.process.send_signal(signal.SIGTERM)
        await self.process.wait()

    def failed(self, path: str) -> list[dict[str, Any]]:
        """Failures on one path."""
        return [failure for failure in self.failures if failure["path"] == path]


@dataclass
class Site:
    """A stack that is up, and everything a test needs to hurt it."""

    stack: Stack
    consul: RegistryProcess | None
    paths: Paths
    registry: str
    """Address of the registry."""

    async def processes(self) -> dict[str, pb.Process]:
        """By name."""
        return {process.name: process for process in await client.processes(self.paths)}

    async def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> pb.Process:
        """Send a signal to a process of the stack; the process as it was."""
        process = (await self.processes())[name]
        os.kill(process.pid, number)
        return process

    async def until_all_ready(self, *names: str) -> None:
        """Until every process, or these, are ready."""

        async def are() -> bool:
            found = await self.processes()
            return all(state_of(found[name]) == "ready" for name in names or found)

        await until(are, seconds=60)

    async def registered(self, service: str) -> frozenset[str]:
        """Where the registry says that the healthy instances of a service are. Raises `Error` while it is away."""
        async with connect(RegistrySettings(address=self.registry)) as registry:
            found = await registry.instances(service)
        return frozenset(f"{i.address}:{i.port}" for i in found if i.health is not Health.CRITICAL)

    async def orders(self) -> frozenset[str]:
        """Where the instances of order listen."""
        found = await self.processes()
        return frozenset(found[name].address for name in ("order-1", "order-2"))


@dataclass
class Watch:
    """A site under load, as its clients see it."""

    site: Site
    load: Load
    client: XdsClient
    envoy: Envoy

    async def held(self) -> tuple[frozenset[str], frozenset[str]]:
        """Addresses of order that a proxyless client and the edge hold."""
        return self.client.addresses, await self.envoy.addresses("order")

    async def pushes(self) -> dict[str, int]:
        """What a proxyless client and the edge were sent so far, by what it was."""
        return {"proxyless": self.client.pushes, **await self.envoy.pushes()}

    async def pushed_since(self, before: dict[str, int]) -> dict[str, int]:
        """What they were sent since then."""
        return {name: count - before.get(name, 0) for name, count in (await self.pushes()).items()
                if count != before.get(name, 0)}  # fmt: skip

    async def until_dropped(self, address: str, *, seconds: float) -> float:
        """Until nobody holds an address; how long that took."""

        async def is_dropped() -> bool:
            return all(address not in addresses for addresses in await self.held())

        return await until(is_dropped, seconds=seconds)

    async def until_settled(self, *, seconds: float = 60) -> float:
        """Until all is ready, and everybody holds just the two instances of order that run."""

        async def is_settled() -> bool:
            orders = await self.site.orders()
            return all(addresses == orders for addresses in await self.held())

        began = time.monotonic()
        await self.site.until_all_ready()
        await until(is_settled, seconds=seconds)
        return time.monotonic() - began


async def until(condition: Callable[[], Awaitable[bool]], *, seconds: float) -> float:
    """Look until it holds, for so long at most; how long that took."""
    began = time.monotonic()
    try:
        async with asyncio.timeout(seconds):
            while not await condition():  # noqa: ASYNC110 (it is a matter of other processes)
                await asyncio.sleep(0.02)
    except TimeoutError:
        pytest.fail(f"did not come true within {seconds} s: {condition.__qualname__}")
    return time.monotonic() - began


@pytest.fixture(scope="module", params=["dev", "consul"])
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    """A stack for all tests of a module."""
    with tempfile.TemporaryDirectory(prefix="mesh-faults-") as name, ExitStack() as ending:
        folder = Path(name)
        consul = None
        if request.param == "consul":
            consul = consul_process(folder, lasting=True)
            ending.callback(consul.stop)
            consul.start()
        stack = stack_in(folder / "state", consul)
        ending.callback(stack.mesh, "down", check=False)
        stack.up()
        registry = consul.address if consul else f"http://127.0.0.1:{stack.flags[3]}"
        yield Site(stack, consul, Paths.locate(os.environ, stack.state), registry)


@pytest.fixture
async def watch(site: Site) -> AsyncIterator[Watch]:
    """The stack with load on it, warm and settled."""
    xds = XdsClient("order")
    async with Scope() as scope, loaded(site) as load, envoy(site.paths.envoy_admin_socket) as edge:
        scope.start(load.read())
        scope.start(xds.follow(site.paths.sidecar_socket))
        made = Watch(site, load, xds, edge)
        await made.until_settled()
        await load.more(RATE)
        yield made


@asynccontextmanager
async def loaded(site: Site) -> AsyncIterator[Load]:
    """Load, for as long as the context is open."""
    environ = {**site.stack.environ, "GRPC_XDS_BOOTSTRAP": str(site.paths.bootstrap)}
    async with started(environ, "tests.faults.load", str(site.stack.gateway_port), str(RATE)) as load:
        yield load


@asynccontextmanager
async def started(environ: Mapping[str, str], *arguments: str) -> AsyncIterator[Load]:
    """A load generator, for as long as the context is open."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", *arguments, cwd=ROOT, env=dict(environ), stdout=asyncio.subprocess.PIPE
    )
    try:
        yield Load(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
