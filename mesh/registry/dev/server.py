"""The built-in registry as a process part: bind, serve, stop."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from aiohttp import web

from mesh import ports
from mesh.errors import Code, Error
from mesh.recovery import sleep
from mesh.registry.dev.agent_routes import AgentRoutes
from mesh.registry.dev.authority import LEAF_SECONDS
from mesh.registry.dev.catalog_routes import CatalogRoutes
from mesh.registry.dev.connect_routes import ConnectRoutes
from mesh.registry.dev.core import Core
from mesh.registry.dev.disk import Disk
from mesh.registry.dev.exact_routes import ExactRoutes
from mesh.registry.dev.rejected import Rejected
from mesh.registry.dev.shapes import Node
from mesh.registry.dev.store_routes import StoreRoutes

if TYPE_CHECKING:
    from types import TracebackType

    from aiohttp.typedefs import Handler, Middleware

log = logging.getLogger("mesh.registry.dev")

TICK_SECONDS = 0.25
"""How late the end of a TTL may be noticed."""

MAX_BODY_BYTES = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class DevSettings:
    """Where the built-in registry listens and keeps its data."""

    data: Path
    host: str = "127.0.0.1"
    port: int = 8500
    """0 takes any free one."""

    leaf_seconds: float = LEAF_SECONDS
    """How long certificates of services are valid."""


class DevRegistry:
    """A running built-in registry, as `async with`; leaving it answers held queries and closes the port.

    Raises Error (FAILED_PRECONDITION) naming who has the port or that another registry has the data, and OSError
    when the data folder cannot be used.
    """

    def __init__(self, settings: DevSettings) -> None:
        self.settings = settings
        self.port = settings.port

    @property
    def address(self) -> str:
        """What CONSUL_HTTP_ADDR is to be; valid once entered."""
        host = f"[{self.settings.host}]" if ":" in self.settings.host else self.settings.host
        return f"http://{host}:{self.port}"

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            listener = stack.enter_context(closing(_listen(self.settings.host, self.settings.port)))
            self.port = listener.getsockname()[1]
            disk = Disk(self.settings.data)
            stack.callback(os.close, disk.lock())
            self._core = await stack.enter_async_context(await asyncio.to_thread(self._load, disk))
            runner = web.AppRunner(
                _application(self._core), handler_cancellation=True, access_log=None, shutdown_timeout=1.0
            )
            stack.push_async_callback(runner.cleanup)
            await runner.setup()
            await web.SockSite(runner, listener).start()
            self._running = stack.pop_all()
        log.info("the built-in registry serves Consul's API at %s, data in %s", self.address, self.settings.data)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._core.stop()
        await self._running.aclose()

    async def run(self) -> None:
        """Let checks expire, for ever."""
        while True:
            await sleep(TICK_SECONDS)
            self._core.advance()

    def _load(self, disk: Disk) -> Core:
        disk.prepare()
        # Numbers start at the clock: above those of every earlier run, so that who still waits with one of those
        # is answered at once.
        return Core(disk, self._node, int(time.time() * 1000), self.settings.leaf_seconds)

    def _node(self, index: int) -> Node:
        return Node(name=socket.gethostname(), address=self.settings.host, port=self.port, index=index)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(1024)
    except OSError as error:
        listener.close()
        problem = ports.problem(port, "registry", "--port", host) or f"cannot listen on {host}:{port}: {error}"
        raise Error(Code.FAILED_PRECONDITION, problem, reason="PORT_BUSY") from error
    return listener


def _application(core: Core) -> web.Application:
    application = web.Application(middlewares=[_answer_errors, _announcer(core)], client_max_size=MAX_BODY_BYTES)
    for part in (AgentRoutes(core), CatalogRoutes(core), StoreRoutes(core), ExactRoutes(core), ConnectRoutes(core)):
        application.add_routes(part.routes())
    return application


def _announcer(core: Core) -> Middleware:
    @web.middleware
    async def announce(request: web.Request, handler: Handler) -> web.StreamResponse:
        """Wake held queries after every change, also after one whose writer is gone."""
        try:
            return await handler(request)
        finally:
            core.announce()

    return announce


@web.middleware
async def _answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Consul's way of saying no: a status and one line of text."""
    try:
        return await handler(request)
    except Rejected as rejected:
        return web.Response(status=rejected.status, text=rejected.text)
    except web.HTTPMethodNotAllowed as error:
        allow = ",".join(sorted({"OPTIONS", *error.allowed_methods}))
        return web.Response(status=405, text=f"method {request.method} not allowed", headers={"Allow": allow})
    except web.HTTPNotFound:
        return _not_here(request)
    except OSError as error:
        log.error("cannot write to disk: %s", error)
        return web.Response(status=500, text=f"the built-in registry cannot write to disk: {error}")


def _not_here(request: web.Request) -> web.Response:
    if not request.path.startswith("/v1/"):
        return web.Response(status=404, text="this is the built-in registry of a mesh; Consul's API starts at /v1/")
    text = f"{request.path} is not supported by the built-in registry; set CONSUL_HTTP_ADDR to a real Consul"
    return web.Response(status=501, text=text)
