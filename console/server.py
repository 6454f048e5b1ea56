"""The three listeners of the console around one store."""

from __future__ import annotations

import asyncio
import socket
import time
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiohttp import web

from console.data import Data
from console.digest import Digest
from console.otlp import grpc_server, http_app
from console.store import Store
from console.tap import Tap
from console.web import web_app
from mesh import ports
from mesh.errors import Code, Error
from mesh.scope import Scope

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from opentelemetry.proto.trace.v1 import trace_pb2

    from console.mesh_view import MeshView
    from console.settings import Settings
    from console.store import Span


@dataclass(frozen=True, kw_only=True, slots=True)
class Addresses:
    """Where a running console listens; the HTTP ones as URLs without a path."""

    otlp_grpc: str
    otlp_http: str
    query: str


@asynccontextmanager
async def serve(
    settings: Settings, store: Store | None = None, view: MeshView | None = None
) -> AsyncIterator[Addresses]:
    """Listen while the context is open; on leaving, exports in flight get `grace_seconds`.

    Raises Error (UNAVAILABLE) that names every busy port, its owner and the flag that changes it.
    """
    store = store or Store(settings.limits)
    digest, tap = Digest(store.span), Tap()

    def watch(trace_id: bytes, kept: Span, span: trace_pb2.Span) -> None:
        digest.fold(trace_id, kept, span, time.time_ns())
        tap.take(trace_id, kept, span)

    store.watch = watch
    data = Data(store, digest, tap, view)
    await asyncio.to_thread(_check_ports, settings)
    async with AsyncExitStack() as stack:
        grpc_port = await _serve_grpc(stack, settings, store)
        sink = http_app(store, settings.max_request_bytes)
        # The sink unpacks bodies itself, within its bound.
        sink_port = await _serve_http(stack, settings, sink, settings.otlp_http_port, auto_decompress=False)
        query_port = await _serve_http(stack, settings, web_app(store, digest, data, settings), settings.query_port)
        stack.callback(data.end)
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        async with Scope() as scope:
            for work in data.work():
                scope.start(work)
            yield Addresses(
                otlp_grpc=f"{host}:{grpc_port}",
                otlp_http=f"http://{host}:{sink_port}",
                query=f"http://{host}:{query_port}",
            )


def _check_ports(settings: Settings) -> None:
    wanted = (
        (settings.otlp_grpc_port, "OTLP over gRPC", "--otlp-grpc-port"),
        (settings.otlp_http_port, "OTLP over HTTP", "--otlp-http-port"),
        (settings.query_port, "console", "--port"),
    )
    found = [ports.problem(port, purpose, flag, settings.host) for port, purpose, flag in wanted if port]
    if problems := [problem for problem in found if problem]:
        raise Error(Code.UNAVAILABLE, "\n".join(problems), reason="PORT_BUSY")


async def _serve_grpc(stack: AsyncExitStack, settings: Settings, store: Store) -> int:
    server = grpc_server(store, settings.max_request_bytes)
    wanted = f"{settings.host}:{settings.otlp_grpc_port}"
    try:
        port = server.add_insecure_port(wanted)
    except RuntimeError as error:
        raise Error(Code.UNAVAILABLE, f"cannot listen on {wanted}: {error}", reason="PORT_BUSY") from error
    await server.start()
    stack.push_async_callback(server.stop, settings.grace_seconds)
    return port


async def _serve_http(
    stack: AsyncExitStack, settings: Settings, app: web.Application, port: int, *, auto_decompress: bool = True
) -> int:
    runner = web.AppRunner(
        app, access_log=None, auto_decompress=auto_decompress, shutdown_timeout=settings.grace_seconds
    )
    stack.push_async_callback(runner.cleanup)
    await runner.setup()
    listener = _listen(settings.host, port)
    await web.SockSite(runner, listener).start()
    return int(listener.getsockname()[1])


def _listen(host: str, port: int) -> socket.socket:
    """A socket of our own: never shared by SO_REUSEPORT."""
    try:
        return socket.create_server((host, port), backlog=128)
    except OSError as error:
        raise Error(
            Code.UNAVAILABLE, f"cannot listen on {host}:{port}: {error.strerror}", reason="PORT_BUSY"
        ) from error
