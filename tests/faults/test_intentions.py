"""An intention is changed while calls and streams run, straight and through the gateway, with mutual TLS and without.

The rest of it is in tests/integration/test_intentions.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest

import mesh
from mesh.errors import Code
from meshwright.sidecar.v1 import sidecar_service_pb2 as pb
from tests.fixtures.echo import unary_stream, unary_unary
from tests.fixtures.secured import WATCH, SecuredHost, secured_host
from tests.fixtures.shop import joined, shop_descriptors, until
from tests.integration.gateway.harness import Edge
from tests.integration.test_intentions import calling, ended, intended, outcome, until_code

if TYPE_CHECKING:
    from tests.fixtures.consul import RegistryProcess

pytestmark = pytest.mark.timeout(120)

PATIENT: dict[str, Any] = {"methodConfig": [{"name": [{}], "timeout": "100s"}]}


@pytest.fixture
async def made(own_registry: RegistryProcess, short_tmp: Path) -> AsyncIterator[SecuredHost]:
    """On the dev registry, and on a real Consul."""
    async with secured_host(short_tmp, own_registry.address) as found:
        yield found


@pytest.fixture
async def gateway(own_registry: RegistryProcess, tmp_path: Path) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to a gateway in front of it."""
    edge = Edge(tmp_path, own_registry.address, {"MESH_MTLS": "true"})
    try:
        await asyncio.to_thread(edge.start)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{edge.port}") as channel:
            yield channel
    finally:
        await asyncio.to_thread(edge.stop)


async def test_a_flip_holds_for_new_calls_and_ends_open_streams_straight_and_through_the_gateway(
    own_registry: RegistryProcess, made: SecuredHost, gateway: grpc.aio.Channel
) -> None:
    own_registry.ask("PUT", "/v1/kv/mesh/service-config/order", PATIENT)
    async with made.serving("order"), calling(made, "mesh", "order") as straight:
        for _ in range(3):
            streams = [await opened(channel) for channel in (straight, gateway)]
            with intended(own_registry) as intend:
                intend("*", "order", "deny")
                assert [(await ended(stream)).code for stream in streams] == [Code.PERMISSION_DENIED] * 2
                for channel in (straight, gateway):
                    await until_code(channel, Code.PERMISSION_DENIED)
            for channel in (straight, gateway):
                await until(lambda channel=channel: answers(channel))  # type: ignore[misc]


async def test_a_flip_about_a_service_in_plaintext_holds_at_the_gateway_for_new_calls_and_ends_open_streams(
    own_registry: RegistryProcess, made: SecuredHost, gateway: grpc.aio.Channel
) -> None:
    """Envoy looks when a call begins, and is told of a stream that is open: that was answered, so it is reset."""
    own_registry.ask("PUT", "/v1/kv/mesh/service-config/order", {**PATIENT, "mutualTlsMode": "permissive"})
    async def get(request: bytes, context: Any) -> bytes:
        return b""

    async def watch(request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield b"1"
        await asyncio.Event().wait()

    async with mesh.server(mesh.Settings(host="127.0.0.1")) as server:
        methods = {"Get": unary_unary(get), "Watch": unary_stream(watch)}
        server.add_registered_method_handlers("shop.v1.Shop", methods)
        await server.start()
        call = await joined(made.plain, pb.Workload(
            service="order", id="order", address="127.0.0.1", port=server.port, descriptors=shop_descriptors()
        ))  # fmt: skip
        for _ in range(3):
            stream = await opened(gateway)
            with intended(own_registry) as intend:
                intend("gateway", "order", "deny")
                await until_code(gateway, Code.PERMISSION_DENIED)
                assert (await ended(stream)).code is Code.INTERNAL
            await until(lambda: answers(gateway))
        call.cancel()


async def opened(channel: Any) -> Any:
    """A stream that has begun, as soon as calls are answered."""
    await until(lambda: answers(channel))
    stream = channel.unary_stream(WATCH)(b"", timeout=100)
    assert await stream.read()
    return stream


async def answers(channel: Any) -> bool:
    return await outcome(channel) is None
