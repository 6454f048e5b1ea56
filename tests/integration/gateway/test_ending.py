"""Streams to a service that cannot tell who calls end once an intention denies them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from tests.fixtures.secured import SEND, WATCH
from tests.fixtures.shop import Shop, host, shop_descriptors, until
from tests.integration.gateway.harness import Edge
from tests.integration.gateway.test_identity import answered, is_refused

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from tests.fixtures.consul import RegistryProcess

pytestmark = pytest.mark.timeout(90)


class Streaming(Shop):
    """A shop that streams as well."""

    def methods(self) -> dict[str, Any]:
        """Those of a shop, one that answers once and stays open, and one that takes and does not answer before."""
        watch: Any = grpc.unary_stream_rpc_method_handler(self._watch)
        return {**super().methods(), "Watch": watch, "Send": grpc.stream_unary_rpc_method_handler(self._take)}

    async def _watch(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield b""
        await asyncio.Event().wait()

    async def _take(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        return b"".join([each async for each in requests])


async def empty(context: Any) -> bytes:
    """An answer without a field."""
    return b""


def contract() -> bytes:
    """Of a shop that streams."""
    files = FileDescriptorSet.FromString(shop_descriptors())
    service = files.file[0].service[0]
    service.method.add(name="Watch", input_type=".shop.v1.Any", output_type=".shop.v1.Any", server_streaming=True)
    service.method.add(name="Send", input_type=".shop.v1.Any", output_type=".shop.v1.Any", client_streaming=True)
    return files.SerializeToString()


async def test_streams_end_when_they_are_denied(own_dev: RegistryProcess, short_tmp: Path, tmp_path: Path) -> None:
    """As far as Envoy can tell: one that was answered cannot be given a status any more."""
    edge = Edge(tmp_path, own_dev.address, {"MESH_MTLS": "true"})
    own_dev.ask("PUT", "/v1/kv/mesh/service-config/order", {"mutualTlsMode": "permissive"})
    try:
        async with host(short_tmp, own_dev.address) as plain, Streaming("order-1", empty).running() as shop:
            await plain.attach(shop, "order", descriptors=contract())
            await asyncio.to_thread(edge.start)
            await until(lambda: answered(edge))
            async with grpc.aio.insecure_channel(f"127.0.0.1:{edge.port}") as channel:
                await end_when_they_are_denied(channel, edge, own_dev)
                await go_on_without_the_control_process(channel, edge)
    finally:
        await asyncio.to_thread(edge.stop)


async def end_when_they_are_denied(channel: grpc.aio.Channel, edge: Edge, registry: RegistryProcess) -> None:
    watch, send, done = await watching(channel), await sending(channel), await sending(channel)
    deny(registry, "other")
    await done.done_writing()
    assert await done == b"ab"
    denied = deny(registry, "order")
    assert await watch.code() is grpc.StatusCode.INTERNAL
    assert await send.code() is grpc.StatusCode.PERMISSION_DENIED
    assert "gateway may not call order any more" in await send.details()
    assert await is_refused(edge)
    registry.ask("DELETE", f"/v1/connect/intentions/{denied}")
    await until(lambda: answered(edge))


async def go_on_without_the_control_process(channel: grpc.aio.Channel, edge: Edge) -> None:
    before = await sending(channel)
    edge.control.kill()
    for stream in (before, await sending(channel)):
        await stream.done_writing()
        assert await stream == b"ab"


def deny(registry: RegistryProcess, service: str) -> str:
    body = {"SourceName": "gateway", "DestinationName": service, "SourceType": "consul", "Action": "deny"}
    return str(registry.ask("POST", "/v1/connect/intentions", body)["ID"])


async def watching(channel: grpc.aio.Channel) -> Any:
    method: Callable[..., Any] = channel.unary_stream(WATCH)
    stream = method(b"")
    assert await stream.read() == b""
    return stream


async def sending(channel: grpc.aio.Channel) -> Any:
    method: Callable[..., Any] = channel.stream_unary(SEND)
    stream = method()
    for part in (b"a", b"b"):
        await stream.write(part)
    return stream
