"""A path that is swallowed, with all connections on it still open, is noticed by whoever calls; calls go elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any

import grpc
import pytest

import mesh
from mesh import server_identity
from mesh.registry import MESH_TAG, Health, Registration, connect
from mesh.registry.model import MUTUAL_TLS, TLS_META
from tests.fixtures.consul import RegistryProcess, dev_process, running
from tests.fixtures.echo import failure
from tests.fixtures.operator import Operator
from tests.fixtures.shop import BUY, Attached, Host, Shop, until
from tests.fixtures.tcp_path import TcpPath, tcp_path
from tests.integration.gateway.harness import Edge

pytestmark = pytest.mark.timeout(150)

MUCH = b"x" * 50_000
"""More than the end of a path takes in while nobody reads there."""


@pytest.fixture(scope="module")
def dev_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryProcess]:
    """One in which nobody else offers the same methods: an edge leads calls to the first service that does."""
    yield from running(dev_process(tmp_path_factory.mktemp("dev")))


@pytest.fixture
async def near(dev_host: Host, service: str) -> Attached:
    """An instance on the mesh as others are."""
    return await dev_host.shop(service)


@pytest.fixture
async def far(dev_host: Host, service: str, near: Attached) -> AsyncIterator[tuple[Shop, TcpPath]]:
    """An instance at the end of a path, on the mesh without a sidecar that would notice; of the same identity."""
    credentials = await server_identity.credentials(dev_host.identity(service))
    async with (
        Shop(f"{service}-far").running(credentials) as shop,
        tcp_path(shop.port) as path,
        connect(dev_host.registry) as registry,
    ):
        await registry.register(Registration(
            service=service, id=shop.name, address="127.0.0.1", port=path.port, tags=(MESH_TAG,), ttl_seconds=600,
            meta={TLS_META: MUTUAL_TLS},
        ))  # fmt: skip
        await registry.report(shop.name, Health.PASSING)
        yield shop, path
        await registry.deregister(shop.name)


async def test_a_swallowed_path_is_noticed_and_calls_go_elsewhere(
    dev_host: Host, edge: Edge, operator: Operator, service: str, near: Attached, far: tuple[Shop, TcpPath]
) -> None:
    """By what TCP waits for at most, not by outlier detection; with a method that is not sent again."""
    shop, path = far
    await operator.config(service, outlierDetection={})
    settings = mesh.Settings(bootstrap=dev_host.bootstrap.read_text())
    edge_target = f"127.0.0.1:{edge.port}"
    async with mesh.channel(service, settings) as channel, grpc.aio.insecure_channel(edge_target) as through:
        for one in (channel, through):
            await until(partial(answer, one, near.id, shop.name), seconds=60)
        await path.swallow()
        await asyncio.gather(*(until(partial(answer, one, near.id), seconds=90) for one in (channel, through)))


async def test_a_call_that_only_waits_ends_when_its_path_is_swallowed() -> None:
    """TCP has nothing to wait for there: it is gRPC's pings that are not answered."""
    began = asyncio.Event()

    async def hang(context: Any) -> bytes:
        began.set()
        await asyncio.Event().wait()
        return b""

    settings = mesh.Settings(keepalive_seconds=1, keepalive_timeout_seconds=1)
    async with (
        Shop("hangs", hang).running() as shop,
        tcp_path(shop.port) as path,
        mesh.channel("hangs", settings, target=f"127.0.0.1:{path.port}") as channel,
    ):
        call = channel.unary_unary(BUY)(b"", timeout=100)
        await began.wait()
        await path.swallow()
        assert (await failure(call)).code() is grpc.StatusCode.UNAVAILABLE


async def answer(channel: Any, *names: str) -> bool:
    """Whether these instances answer, and no call fails."""
    asked = [channel.unary_unary(BUY)(MUCH, timeout=5) for _ in range(10)]
    answers = await asyncio.gather(*asked, return_exceptions=True)
    return {one.decode() if isinstance(one, bytes) else "" for one in answers} == set(names)
