"""`mesh.server()`: a gRPC server as the mesh expects it, in one `async with`.

Health, reflection, tracing, deadlines, validation, error details, a bounded number of calls and a drain that loses
none, around whatever servicers generated code registers.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import grpc
from grpc_health.v1 import health_pb2_grpc

from mesh import backlog, config, local_sidecar, metrics, metrics_page, reflection, telemetry, tracing, watchdog
from mesh.calls import Calls, abort
from mesh.errors import Code, Error
from mesh.health_service import SERVICE, Serving, Statuses
from mesh.identity_files import service_of
from mesh.load import REPORTS_LOAD, Load
from mesh.recovery import now, sleep
from mesh.server_identity import credentials
from mesh.signals import stopping

if TYPE_CHECKING:
    from types import TracebackType

log = logging.getLogger("mesh.server")

NOTICE_SECONDS = 0.5
"""Time that watchers of our health get to send callers elsewhere, before new calls are refused."""

MAX_METADATA_BYTES = 64 * 1024
"""Largest metadata of a call: more than the edge lets in, so that no caller's cookies are too much here."""

SPARE_STREAMS = 100
"""Streams of one connection beyond the calls that a server has in hand at most: to refuse some, and to tell health.

What a client has beyond those costs the server next to nothing: it waits in the client, and where more comes in a burst
than could be begun meanwhile, gRPC itself refuses it before Python hears of it.
"""

MAX_PENDING = 100_000
"""Calls that have come and not begun: beyond gRPC's own 1,000 it answers CANCELLED, as if the caller had given up.

How many there can be is bounded by the streams of the connections.
"""

STREAM_GRACE_SECONDS = 2.0
"""Time that open response streams get to end by themselves when the server stops."""

KEEPALIVE_SECONDS = 20
"""How often a server pings its clients; clients take any number of pings."""

_OWN = frozenset({SERVICE, *reflection.NAMES})


class Server(grpc.aio.Server):
    """A `grpc.aio.Server` that listens where its settings say, and drains. Use as an async context manager."""

    def __init__(self, settings: config.Settings) -> None:
        self.settings = settings
        self.health = Statuses()
        """Status of each service; all are SERVING from the start. Set `""` to leave or join the rotation."""
        self._names: set[str] = set()
        load = Load(limit=settings.max_concurrent_calls)
        self._calls = Calls(source=tracing.Source(), load=load, most_streams=settings.most_streams)
        self._server, self._backlog = backlog.make(options(settings))
        self._metrics = ExitStack()
        self._port = 0
        self._stopped = False
        self._watched = ExitStack()
        self._group = asyncio.TaskGroup()
        self._following: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        """Port that it listens on; 0 before `start`."""
        return self._port

    @property
    def address(self) -> str:
        """`host:port` that it listens on."""
        return f"{_bracketed(self.settings.host)}:{self._port or self.settings.port}"

    def add_insecure_port(self, address: str) -> int:
        """Listen on one more address, before `start`; its port."""
        return self._server.add_insecure_port(address)

    def add_secure_port(self, address: str, server_credentials: grpc.ServerCredentials) -> int:
        """Listen on one more address with TLS, before `start`; its port."""
        return self._server.add_secure_port(address, server_credentials)

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Take handlers as generated code hands them over; for methods that were not registered by name too."""
        wrapped = tuple(_Generic(handler, self._calls) for handler in generic_rpc_handlers)
        self._server.add_generic_rpc_handlers(wrapped)

    def add_registered_method_handlers(
        self, service_name: str, method_handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]]
    ) -> None:
        """Take the methods of a service. Raises `InvalidConfig` for field rules that cannot be kept."""
        wrapped = {
            name: self._calls.wrap(f"/{service_name}/{name}", handler) for name, handler in method_handlers.items()
        }
        self._names.add(service_name)
        self.health.set(service_name, Serving.SERVING)
        self._server.add_registered_method_handlers(service_name, wrapped)

    async def start(self) -> None:
        """Listen and serve.

        Raises `Error` with code ALREADY_EXISTS and reason PORT_BUSY when the port is taken, and FAILED_PRECONDITION
        outside of `async with` for a server that has to keep to intentions, which change while it serves.
        """
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self._server)  # type: ignore[no-untyped-call]
        reflection.add_reflection(self._server, reflection.of_services(self._services), REPORTS_LOAD)
        self._server.add_generic_rpc_handlers((_Unknown(),))
        await self._follow_intentions()
        self._port = await self._listen()
        if self.settings.metrics_port:
            self._metrics.enter_context(metrics_page.serving(self.settings.host, self.settings.metrics_port))
        await self._server.start()
        log.info("serving %s on %s", ", ".join(sorted(self._names)) or "nothing", self.address)

    async def serve(self) -> None:
        """Start, serve until SIGTERM or SIGINT, drain, return. A second signal ends the process at once."""
        with stopping() as asked:
            await self.start()
            await asked.wait()
            log.info("stopping: %d calls in hand", self._calls.load.in_flight)
            await self.stop()

    async def wait_for_termination(self, timeout: float | None = None) -> bool:
        """Until the server has stopped; true when that took longer than so many seconds."""
        return await self._server.wait_for_termination(timeout)

    async def stop(self, grace: float | None = None) -> None:
        """Say NOT_SERVING, let watchers notice, take no new calls, wait for those in hand for at most the grace.

        Those that have come and were not begun yet count as in hand, and are begun within the grace: see `backlog`.
        The grace is in seconds, that of the settings when None. Response streams that stay open are ended with
        UNAVAILABLE before that, so that callers go elsewhere. Repeating it is harmless.
        """
        if self._stopped:
            return
        self._stopped = True
        grace = self.settings.grace_seconds if grace is None else grace
        watched = self.health.watchers > 0
        self.health.drain()
        if watched:
            await sleep(min(NOTICE_SECONDS, grace))
        end = now() + min(backlog.PATIENCE_SECONDS, grace) + grace
        await self._backlog.empty(self._in_hand, grace)
        async with asyncio.TaskGroup() as group:
            ending = group.create_task(self._end_streams(min(STREAM_GRACE_SECONDS, grace)))
            await self._server.stop(max(0.0, min(grace, end - now())))
            ending.cancel()
        if self._following:
            self._following.cancel()
        self._metrics.close()

    async def __aenter__(self) -> Self:
        self._watched.enter_context(watchdog.watching(self.settings.watch))
        telemetry.begin(self.settings.telemetry)
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.stop(0 if kind else None)
            await self._group.__aexit__(None, None, None)
        finally:
            await telemetry.end()
            self._watched.close()

    def _in_hand(self) -> int:
        return self._calls.load.in_flight + self.health.watchers

    async def _end_streams(self, seconds: float) -> None:
        self.health.end()
        if self._calls.streams:
            await sleep(seconds)
            self._calls.end_streams()

    def _services(self) -> set[str]:
        return self._names | _OWN

    async def _follow_intentions(self) -> None:
        """Keep to the intentions about this service, where callers prove who they are; wait for them, but not long.

        Until they are known its health is NOT_SERVING: calls would be refused, so that callers are to go elsewhere.
        """
        if not self.settings.identity:
            return
        from mesh.access import Access

        service = service_of(Path(self.settings.identity))
        self.health.withhold()
        access = self._calls.access = Access(service, local_sidecar.address_of(self.settings), self.health.release)
        self._following = self._in_group(access.follow(), f"intentions of {service}")
        await access.wait()

    def _in_group(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        try:
            return self._group.create_task(work, name=name)
        except RuntimeError as error:
            work.close()
            raise Error(
                Code.FAILED_PRECONDITION, "start this server within `async with mesh.server() as server:`",
                reason="NOT_ENTERED",
            ) from error

    async def _listen(self) -> int:
        address, identity = f"{_bracketed(self.settings.host)}:{self.settings.port}", self.settings.identity
        try:
            if identity:
                return self._server.add_secure_port(address, await credentials(Path(identity)))
            return self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise Error(
                Code.ALREADY_EXISTS, f"cannot listen on {address}: {error}; set PORT to another one, or 0 for any",
                reason="PORT_BUSY",
            ) from error


class _Generic(grpc.GenericRpcHandler):
    """A generic handler whose methods are wrapped when they are first called."""

    def __init__(self, inner: grpc.GenericRpcHandler, calls: Calls) -> None:
        self._inner = inner
        self._calls = calls
        self._wrapped: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        path = handler_call_details.method
        if path in self._wrapped:
            return self._wrapped[path]
        handler = self._inner.service(handler_call_details)
        if handler is None:
            return None
        return self._wrapped.setdefault(path, self._calls.wrap(path, handler))


class _Unknown(grpc.GenericRpcHandler):
    """Answers the methods that nobody registered, with details as every other error has them."""

    def __init__(self) -> None:
        self._durations = metrics.Durations(metrics.SERVED, metrics.OTHER)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any]:
        method = handler_call_details.method
        error = Error(
            Code.UNIMPLEMENTED, f"{method} is not offered here; reflection tells what is", reason="METHOD_NOT_FOUND"
        )

        async def refuse(requests: Any, context: Any) -> None:
            self._durations.record(error.code, 0.0)
            await abort(context, error)

        return grpc.stream_stream_rpc_method_handler(refuse)


def server(settings: config.Settings | None = None) -> Server:
    """A server for this process; without settings, from its environment (PORT, OTEL_*, MESH_*).

        async with mesh.server() as server:
            add_GreeterServicer_to_server(Greeter(), server)
            await server.serve()
    """
    return Server(config.from_process() if settings is None else settings)


def options(settings: config.Settings) -> tuple[tuple[str, int], ...]:
    """Arguments of the gRPC server. https://github.com/grpc/grpc/blob/master/include/grpc/impl/channel_arg_names.h"""
    return (
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.max_send_message_length", settings.max_message_bytes),
        ("grpc.max_concurrent_streams", settings.max_concurrent_calls + SPARE_STREAMS),
        ("grpc.server.max_pending_requests", MAX_PENDING),
        ("grpc.server.max_pending_requests_hard_limit", MAX_PENDING),
        ("grpc.max_metadata_size", MAX_METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
        ("grpc.keepalive_time_ms", KEEPALIVE_SECONDS * 1000),
        ("grpc.keepalive_timeout_ms", int(settings.keepalive_timeout_seconds * 1000)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.min_ping_interval_without_data_ms", 1000),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 1000),
        ("grpc.http2.max_ping_strikes", 0),
    )


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host
