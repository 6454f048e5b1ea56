"""Identity and intentions when the registry is lost: the sidecar is restarted meanwhile, or another authority comes."""

from __future__ import annotations

import asyncio
import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest

from mesh.errors import Code
from tests.fixtures.secured import SecuredHost, secured_host
from tests.fixtures.shop import get, until
from tests.integration.gateway.harness import Edge
from tests.integration.test_intentions import calling, outcome, until_code

if TYPE_CHECKING:
    from tests.fixtures.consul import RegistryProcess

pytestmark = pytest.mark.timeout(120)


async def test_a_sidecar_that_starts_without_a_registry_is_who_it_was_and_lets_in_whom_it_let_in(
    short_tmp: Path, own_registry: RegistryProcess
) -> None:
    body = {"SourceName": "sync", "DestinationName": "order", "SourceType": "consul", "Action": "deny"}
    own_registry.ask("POST", "/v1/connect/intentions", body)
    async with secured_host(short_tmp, own_registry.address) as first, first.serving("sync"), first.serving("order"):
        async with calling(first, "sync", "order") as channel:
            await until_code(channel, Code.PERMISSION_DENIED)
        await until(lambda: knows(short_tmp / "catalog.json", "order"))
        own_registry.kill()
        async with secured_host(short_tmp, own_registry.address) as second:
            async with calling(second, "sync", "order") as channel:
                await until_code(channel, Code.PERMISSION_DENIED)
            async with calling(second, "mesh", "order") as channel:
                assert await outcome(channel) is None


async def test_calls_succeed_again_by_themselves_under_another_authority(
    short_tmp: Path, tmp_path: Path, own_registry: RegistryProcess
) -> None:
    """On connections that are made after it came: those that are there go on whatever the registry says."""
    edge = Edge(tmp_path, own_registry.address, {"MESH_MTLS": "true"})
    try:
        async with secured_host(short_tmp, own_registry.address) as made, made.serving("order"):
            before = await made.get("mesh", "order")
            await asyncio.to_thread(edge.start)
            await until(lambda: is_served(edge))
            await asyncio.to_thread(replace_entirely, own_registry)
            await until(lambda: is_called(made, unlike=before))
            edge.envoy.kill()
            edge.envoy.start()
            await until(lambda: is_served(edge))
    finally:
        await asyncio.to_thread(edge.stop)


def replace_entirely(registry: RegistryProcess) -> None:
    """One that knows nothing of what was before, its own authority included."""
    registry.stop()
    if "--data" in registry.command:
        shutil.rmtree(registry.command[registry.command.index("--data") + 1])
    registry.start()


async def is_called(made: SecuredHost, *, unlike: str) -> bool:
    """Whether a call on a new connection is answered, to a caller who is not who it was any more."""
    with suppress(grpc.aio.AioRpcError):
        return await made.get("mesh", "order", seconds=2) != unlike
    return False


async def is_served(edge: Edge) -> bool:
    """Whether a call through the edge is answered."""
    with suppress(grpc.aio.AioRpcError):
        async with grpc.aio.insecure_channel(f"127.0.0.1:{edge.port}") as channel:
            return bool(await get(channel, timeout=2))
    return False


async def knows(catalog: Path, service: str) -> bool:
    """Whether the copy of the catalog, which is written at most once a second, has a service with an instance."""
    held = json.loads(catalog.read_text())["services"]
    return bool(service in held and held[service]["instances"])
