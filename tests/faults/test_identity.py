"""Identity and intentions when the registry is lost: the sidecar is restarted meanwhile, or another authority comes."""

from __future__ import annotations

import asyncio
import json
import shutil
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import grpc
import pytest
from aiohttp import web
from google.protobuf.wrappers_pb2 import StringValue
from yarl import URL

import mesh
from mesh.errors import Code
from mesh.ports import free_port
from tests.fixtures.secured import GET, WATCH, SecuredHost, secured_host
from tests.fixtures.shop import get, host, shop_descriptors, until
from tests.integration.gateway.harness import Edge
from tests.integration.gateway.test_identity import answered, asked
from tests.integration.test_intentions import calling, outcome, until_code

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

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
    """On new connections, and on a channel that was there, which connects anew. A stream that is open goes on."""
    edge = Edge(tmp_path, own_registry.address, {"MESH_MTLS": "true"})
    try:
        async with (
            secured_host(short_tmp, own_registry.address) as made,
            made.serving("order"),
            mesh.channel("order", made.settings("mesh")) as channel,
        ):
            before = await asked_on(channel)
            stream = channel.unary_stream(WATCH)(b"")
            await stream.read()
            await asyncio.to_thread(edge.start)
            await until(lambda: is_served(edge))
            await asyncio.to_thread(replace_entirely, own_registry)
            await until(lambda: is_called(made, unlike=before))
            await until(lambda: is_answered(channel, unlike=before))
            await until(lambda: is_served(edge))
            assert not stream.done()
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


async def is_answered(channel: mesh.Channel, *, unlike: str) -> bool:
    """Likewise on a channel that was there before."""
    with suppress(grpc.aio.AioRpcError):
        return await asked_on(channel) != unlike
    return False


async def asked_on(channel: mesh.Channel) -> str:
    """Whom the service takes the caller for. Raises AioRpcError."""
    answer: bytes = await channel.unary_unary(GET)(b"", timeout=5)
    return StringValue.FromString(answer).value


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


async def test_a_gateway_that_starts_again_refuses_nothing_before_it_has_read_intentions(
    own_dev: RegistryProcess, short_tmp: Path, tmp_path: Path
) -> None:
    """A registry that tells of services at once and of intentions not at all: then the last known ones hold."""
    own_dev.ask("PUT", "/v1/kv/mesh/service-config/order", {"mutualTlsMode": "permissive"})
    async with in_front_of(own_dev) as (address, tells), host(short_tmp, own_dev.address, mtls=False) as plain:
        edge = Edge(tmp_path, address, {"MESH_MTLS": "true"})
        try:
            await plain.named_shop("order", descriptors=shop_descriptors())
            await asyncio.to_thread(edge.start)
            await until(lambda: answered(edge))
            tells.clear()
            await asyncio.to_thread(edge.control.kill)
            edge.control.start()
            answers = 0
            while edge.control.output().count("gateway.control: serving Envoy on") < 2 or answers < 100:
                assert await asked(edge)
                answers += 1
            assert "intentions hold as last known" in edge.control.output()
        finally:
            tells.set()
            await asyncio.to_thread(edge.stop)


@asynccontextmanager
async def in_front_of(registry: RegistryProcess) -> AsyncIterator[tuple[str, asyncio.Event]]:
    """The address of a way to a registry, which is asked for intentions only while the event is set."""
    tells = asyncio.Event()
    tells.set()
    async with aiohttp.ClientSession(registry.address, auto_decompress=False) as session:

        async def forward(request: web.BaseRequest) -> web.Response:
            if request.path.startswith("/v1/connect/intentions"):
                await tells.wait()
            made = session.request(request.method, URL(request.raw_path, encoded=True), data=await request.read())
            async with made as answer:
                headers = {name: text for name, text in answer.headers.items() if name.startswith("X-Consul-")}
                content_type = answer.content_type
                return web.Response(
                    status=answer.status, body=await answer.read(), headers=headers, content_type=content_type
                )

        runner = web.ServerRunner(web.Server(forward), shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", port := free_port()).start()
            yield f"http://127.0.0.1:{port}", tells
        finally:
            await runner.cleanup()
