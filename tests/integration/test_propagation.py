"""How long a client is behind the registry, as its sidecar measures it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest
from envoy.service.discovery.v3.ads_pb2_grpc import add_AggregatedDiscoveryServiceServicer_to_server

from mesh.catalog_watcher import CatalogWatcher
from mesh.recovery import now
from mesh.registry import MESH_TAG, Health, Registration, Registry, connect
from mesh.scope import Scope
from mesh.xds.proxyless import ProxylessSource
from mesh.xds.server import AdsServicer
from mesh.xds.snapshot import ENDPOINT
from tests.fixtures.ads import AdsClient
from tests.fixtures.consul import RegistryProcess
from tests.fixtures.shop import until

WHY = "not like this"


@dataclass
class Served:
    """A service with one instance, a client of it, and what was measured."""

    registry: Registry
    service: str
    client: AdsClient = field(default_factory=AdsClient)
    measured: asyncio.Queue[float] = field(default_factory=asyncio.Queue)
    ads: AdsServicer = field(init=False)

    async def figure(self) -> float:
        """The next one that is measured."""
        async with asyncio.timeout(30):
            return await self.measured.get()

    async def join(self, port: int) -> None:
        """One more healthy instance."""
        name = f"{self.service}-{port}"
        where = Registration(service=self.service, id=name, address="127.0.0.1", port=port, tags=(MESH_TAG,))
        await self.registry.register(where)
        await self.registry.report(name, Health.PASSING)


@pytest.fixture
async def served(dev_registry: RegistryProcess, service: str, short_tmp: Path) -> AsyncIterator[Served]:
    """The client holds all of the service."""
    socket = short_tmp / "ads.sock"
    async with AsyncExitStack() as stack:
        registry = await stack.enter_async_context(connect(dev_registry.settings()))
        made = Served(registry, service)
        await made.join(1)
        catalog = await stack.enter_async_context(CatalogWatcher(registry))
        server = grpc.aio.server()
        made.ads = AdsServicer(ProxylessSource(catalog), made.measured.put_nowait)
        add_AggregatedDiscoveryServiceServicer_to_server(made.ads, server)
        server.add_insecure_port(f"unix:{socket}")
        await server.start()
        stack.push_async_callback(server.stop, None)
        await stack.enter_async_context(made.client.connected(socket))
        await made.client.hold(service)
        await made.figure()  # of the registry's first answer
        yield made


async def test_a_change_is_measured_until_the_client_has_taken_it(served: Served) -> None:
    began = now()
    await served.join(2)
    response = await served.client.receive()
    assert (response.type_url, served.measured.empty()) == (ENDPOINT, True), "it has not said yes yet"
    served.client.held[ENDPOINT].version = response.version_info
    await served.client.ask(ENDPOINT)
    assert 0 < await served.figure() < now() - began
    assert served.measured.empty()


async def test_what_a_client_refuses_is_not_measured(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    async def is_refused() -> bool:
        return WHY in caplog.text

    await served.join(2)
    await served.client.receive()
    await served.client.ask(ENDPOINT, refusal=WHY)
    await until(is_refused)
    began = now()
    await served.join(3)
    await served.client.take()
    assert await served.figure() < now() - began


async def test_a_change_is_taken_once_the_client_has_agreed_to_it(served: Served) -> None:
    await served.ads.taken(ENDPOINT)
    await served.join(2)
    response = await served.client.receive()
    async with Scope() as scope:
        taken = scope.start(served.ads.taken(ENDPOINT))
        await served.client.ask(ENDPOINT, refusal=WHY)
        await served.join(3)
        newer = await served.client.receive()
        assert (response.type_url, newer.type_url, taken.done()) == (ENDPOINT, ENDPOINT, False)
        served.client.held[ENDPOINT].version = newer.version_info
        await served.client.ask(ENDPOINT)
        async with asyncio.timeout(30):
            await taken
