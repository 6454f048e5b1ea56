"""Paths to instances that demand mutual TLS: handshakes that never end or take long, and a path that is swallowed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

import grpc
import pytest

import mesh
from mesh.registry import MESH_TAG, Health, Registration, connect
from meshwright.sidecar.v1 import sidecar_service_pb2 as pb
from tests.faults.test_swallowed_paths import answer
from tests.fixtures.consul import RegistryProcess
from tests.fixtures.forged import as_server, forged
from tests.fixtures.secured import SecuredHost, secured_host
from tests.fixtures.shop import BUY, GET, Shop, joined, shop_descriptors, until
from tests.fixtures.tcp_path import TcpPath, tcp_path
from tests.integration.gateway.harness import Edge
from tests.integration.test_identity import registered

pytestmark = pytest.mark.timeout(120)

AT_ONCE = 15
"""Calls of each of two methods. Half of all wait for the one that does not answer, as the retry budget has room for."""


@dataclass
class Scene:
    """A service of one instance that counts, at the end of a path, on a host that demands mutual TLS; and an edge."""

    host: SecuredHost
    shop: Shop
    path: TcpPath
    edge: Edge

    async def ask(self, channel: Any, path: str) -> str:
        """Who answered a call. Raises AioRpcError."""
        answer: bytes = await channel.unary_unary(path)(b"", timeout=10)
        return answer.decode()

    async def answers(self) -> bool:
        """Whether the edge has an answer to a call on a new connection."""
        async with grpc.aio.insecure_channel(f"127.0.0.1:{self.edge.port}") as channel:
            with suppress(grpc.aio.AioRpcError):
                return await self.ask(channel, GET) == self.shop.name
        return False

    async def account(self, page: str) -> str:
        """What Envoy says of itself."""
        return await asyncio.to_thread(self.edge.account, page)

    async def timeouts(self) -> int:
        """How many of Envoy's connections were not there in time."""
        return int((await self.account("/stats?filter=^cluster.order.upstream_cx_connect_timeout$")).split()[1])

    async def all_are_answered(self, channel: Any) -> None:
        """Calls of both methods at once, and exactly one attempt of each reaches a server."""
        before = self.shop.calls
        asked = [self.ask(channel, path) for path in (GET, BUY) * AT_ONCE]
        assert set(await asyncio.gather(*asked)) == {self.shop.name}
        assert self.shop.calls == before + len(asked)


@pytest.fixture
async def scene(own_dev: RegistryProcess, short_tmp: Path, tmp_path: Path) -> AsyncIterator[Scene]:
    """With an edge that is not started yet."""
    edge = Edge(tmp_path, own_dev.address, {"MESH_MTLS": "true"})
    async with AsyncExitStack() as stack:
        stack.push_async_callback(asyncio.to_thread, edge.stop)
        host = await stack.enter_async_context(secured_host(short_tmp, own_dev.address))
        shop = await stack.enter_async_context(Shop("order-1").running(as_server(forged(own_dev, "order"))))
        path = await stack.enter_async_context(tcp_path(shop.port))
        await joined(host.plain, pb.Workload(
            service="order", id=shop.name, address="127.0.0.1", port=path.port, meta={"tls": "mutual"},
            descriptors=shop_descriptors(),
        ))  # fmt: skip
        yield Scene(host, shop, path, edge)


async def test_no_call_of_the_edge_is_lost_to_a_handshake_that_never_ends(scene: Scene) -> None:
    """Nor does one reach a server twice that must not: what waited for a connection was sent to nobody."""
    await asyncio.to_thread(scene.edge.start)
    await until(scene.answers)
    async with tcp_path(0, inf) as hung, registered(scene.host, "order", hung.port):

        async def is_known() -> bool:
            return f":{hung.port}::" in await scene.account("/clusters")

        await until(is_known)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{scene.edge.port}") as channel:
            await scene.all_are_answered(channel)
        assert await scene.timeouts() >= 1


async def test_a_slow_handshake_is_no_fault_within_the_time_that_an_operator_sets(
    scene: Scene, own_dev: RegistryProcess
) -> None:
    """The default has room for what a busy machine takes."""
    scene.path.pause_seconds = 0.1
    await asyncio.to_thread(scene.edge.start)
    await until(scene.answers)
    entry = {"Kind": "service-resolver", "Name": "order", "ConnectTimeout": "8s"}
    own_dev.ask("PUT", "/v1/config", entry)

    async def is_in_force() -> bool:
        return '"connect_timeout": "8s"' in await scene.account("/config_dump?resource=dynamic_active_clusters")

    await until(is_in_force)
    scene.path.pause_seconds = 1.5
    await asyncio.to_thread(scene.edge.envoy.kill)
    scene.edge.envoy.start()
    await until(scene.answers)
    assert await scene.timeouts() == 0


@pytest.mark.parametrize("balancing", ["round_robin", "weighted_round_robin"])
async def test_no_proxyless_call_waits_for_a_handshake_that_never_ends(
    scene: Scene, own_dev: RegistryProcess, balancing: str
) -> None:
    """gRPC gives calls to those that it is connected to, and tries the other one meanwhile."""
    own_dev.ask("PUT", "/v1/kv/mesh/service-config/order", {"loadBalancingConfig": [{balancing: {}}]})
    async with (
        tcp_path(0, inf) as hung,
        registered(scene.host, "order", hung.port),
        mesh.channel("order", scene.host.settings("order")) as channel,
    ):
        for _ in range(3):
            await scene.all_are_answered(channel)


async def test_a_swallowed_path_is_noticed_under_tls_too(scene: Scene, own_dev: RegistryProcess) -> None:
    """By what TCP waits for at most: the instance at its end is registered past the sidecar, which would notice."""
    own_dev.ask("PUT", "/v1/kv/mesh/service-config/order", {"outlierDetection": {}})
    async with (
        Shop("order-far").running(as_server(forged(own_dev, "order"))) as far,
        tcp_path(far.port) as path,
        connect(scene.host.plain.registry) as registry,
        mesh.channel("order", scene.host.settings("order")) as channel,
        grpc.aio.insecure_channel(f"127.0.0.1:{scene.edge.port}") as through,
    ):
        await asyncio.to_thread(scene.edge.start)
        await registry.register(Registration(
            service="order", id=far.name, address="127.0.0.1", port=path.port, tags=(MESH_TAG,),
            meta={"protocol": "grpc", "tls": "mutual"}, ttl_seconds=600,
        ))  # fmt: skip
        await registry.report(far.name, Health.PASSING)
        for one in (channel, through):
            await until(partial(answer, one, scene.shop.name, far.name), seconds=60)
        await path.swallow()
        await asyncio.gather(*(
            until(partial(answer, one, scene.shop.name), seconds=90) for one in (channel, through)
        ))  # fmt: skip
