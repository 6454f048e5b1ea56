"""Streams to a service that cannot tell who calls end once an intention denies them."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING, Any

import aiohttp
import grpc
import pytest
from google.api import annotations_pb2
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from tests.fixtures.secured import SEND, WATCH
from tests.fixtures.shop import Shop, host, shop_descriptors, until
from tests.integration.gateway.harness import Edge
from tests.integration.gateway.test_identity import answered, is_refused
from tests.unit.gateway.contracts import ANNOTATIONS, google_files

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from tests.fixtures.consul import RegistryProcess

LISTEN = "/shop.v1.Shop/Listen"
"""Streams as `Watch` does, and is in no contract."""

EVENTS = {"accept": "text/event-stream"}
pytestmark = pytest.mark.timeout(90)


class Streaming(Shop):
    """A shop that streams as well."""

    def methods(self) -> dict[str, Any]:
        """Those of a shop, one that answers once and stays open, and one that takes and does not answer before."""
        watch: Any = grpc.unary_stream_rpc_method_handler(self._watch)
        send: Any = grpc.stream_unary_rpc_method_handler(self._take)
        return {**super().methods(), "Watch": watch, "Listen": watch, "Send": send}

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
    files.file[0].dependency.append(ANNOTATIONS)
    service = files.file[0].service[0]
    watch = service.method.add(
        name="Watch", input_type=".shop.v1.Any", output_type=".shop.v1.Any", server_streaming=True
    )
    watch.options.Extensions[annotations_pb2.http].get = "/v1/watch"
    service.method.add(name="Send", input_type=".shop.v1.Any", output_type=".shop.v1.Any", client_streaming=True)
    files.file.extend(google_files())
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
    watch, listen = await watching(channel, WATCH), await watching(channel, LISTEN)
    send, done = await sending(channel), await sending(channel)
    url, patience = f"http://127.0.0.1:{edge.port}/v1/watch", aiohttp.ClientTimeout(total=30)
    async with aiohttp.ClientSession(timeout=patience) as web, web.get(url, headers=EVENTS) as rest:
        assert await rest.content.readline() == b"data: {}\n"
        deny(registry, "other")
        await done.done_writing()
        assert await done == b"ab"
        denied = deny(registry, "order")
        with pytest.raises(aiohttp.ClientPayloadError):
            await rest.read()
    assert [await stream.code() for stream in (watch, listen)] == [grpc.StatusCode.INTERNAL] * 2
    assert await send.code() is grpc.StatusCode.PERMISSION_DENIED
    assert "gateway may not call order any more" in await send.details()
    assert await is_refused(edge)
    registry.ask("DELETE", f"/v1/connect/intentions/{denied}")
    await until(lambda: answered(edge))


async def go_on_without_the_control_process(channel: grpc.aio.Channel, edge: Edge) -> None:
    """Also while it hangs."""
    before = await sending(channel)
    os.kill(edge.control.pid, signal.SIGSTOP)
    await asyncio.gather(taken(before), taken(await sending(channel)))
    before = await sending(channel)
    edge.control.kill()
    await asyncio.gather(taken(before), taken(await sending(channel)))


async def taken(stream: Any) -> None:
    await stream.done_writing()
    assert await stream == b"ab"


def deny(registry: RegistryProcess, service: str) -> str:
    body = {"SourceName": "gateway", "DestinationName": service, "SourceType": "consul", "Action": "deny"}
    return str(registry.ask("POST", "/v1/connect/intentions", body)["ID"])


async def watching(channel: grpc.aio.Channel, path: str) -> Any:
    method: Callable[..., Any] = channel.unary_stream(path)
    stream = method(b"")
    assert await stream.read() == b""
    return stream


async def sending(channel: grpc.aio.Channel) -> Any:
    method: Callable[..., Any] = channel.stream_unary(SEND)
    stream = method()
    for part in (b"a", b"b"):
        await stream.write(part)
    return stream
