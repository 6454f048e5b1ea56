"""`bench.v1.Echo`: the service that is called. As a program it serves on a free port and prints that.

`python -m bench.echo [SECONDS]`: each answer takes so long.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

import grpc
from google.protobuf.descriptor_pb2 import FileDescriptorProto, MethodOptions

import mesh
from mesh.contract import Contract

SERVICE = "bench.v1.Echo"
PLAIN = "bench.v1.Plain"
"""The same under another name, so that a gateway can tell a service in plaintext from one that is not."""

METHODS = ("Unary", "Hang50", "Hang500", "Hang3000", "Open50", "Open500", "Open3000")
"""The number in a name is the deadline in milliseconds; those that are open answer with a stream."""


def path(method: str, service: str = SERVICE) -> str:
    """Full path of a method."""
    return f"/{service}/{method}"


def service_config() -> str:
    """The deadlines by name, as a gRPC service config."""
    timed = {name: int(name[4:]) for name in METHODS if name[4:].isdecimal()}
    return json.dumps({"methodConfig": [
        {"name": [{"service": SERVICE, "method": name}], "timeout": f"{value / 1000:g}s"}
        for name, value in timed.items()
    ]})  # fmt: skip


def contract(config: str = "", service: str = SERVICE) -> Contract:
    """What the service publishes."""
    package, _, name = service.rpartition(".")
    file = FileDescriptorProto(name=f"{name.lower()}.proto", package=package)
    file.message_type.add(name=f"{name}Any")
    described = file.service.add(name=name)
    for method in METHODS:
        message = f".{package}.{name}Any"
        made = described.method.add(name=method, input_type=message, output_type=message)
        made.server_streaming = method.startswith("Open")
        made.options.idempotency_level = MethodOptions.NO_SIDE_EFFECTS
    return Contract.of([service], [file], config)


WHO = b"who"
"""A request that is answered with the port of who answers."""

TAKE = b"take "
"""Begin of a request after which each answer takes as many seconds as it says."""

LEFT = b"left"
"""A request that is answered with the seconds that the call has left, or None."""

WORK = b"work"
"""A request that keeps the core for `WORK_SECONDS`."""

WORK_SECONDS = 0.0015


def handlers(server: mesh.Server, seconds: float) -> Mapping[str, Any]:
    """The methods."""

    async def unary(request: bytes, context: Any) -> bytes:
        nonlocal seconds
        if request.startswith(TAKE):
            seconds = float(request.removeprefix(TAKE))
        if seconds:
            await asyncio.sleep(seconds)
        if request == WORK:
            _keep_busy(WORK_SECONDS)
        if request == LEFT:
            return repr(context.time_remaining()).encode()
        return str(server.port).encode() if request == WHO else request

    async def hang(request: bytes, context: Any) -> bytes:
        await asyncio.sleep(60)
        return request

    async def stay_open(request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield request
        await asyncio.sleep(60)

    made: dict[str, Any] = {name: grpc.unary_unary_rpc_method_handler(hang) for name in METHODS if "Hang" in name}
    made |= {name: grpc.unary_stream_rpc_method_handler(stay_open) for name in METHODS if "Open" in name}
    made["Unary"] = grpc.unary_unary_rpc_method_handler(unary)
    return made


def _keep_busy(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


async def main(seconds: float) -> None:
    """Serve until killed."""
    async with mesh.server() as server:
        methods = handlers(server, seconds)
        for service in (SERVICE, PLAIN):
            server.add_registered_method_handlers(service, methods)
        await server.start()
        print("port", server.port, flush=True)
        await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1]) if len(sys.argv) > 1 else 0.0))
