"""`mesh up`: one process that starts a whole stack, keeps it running, and stops it."""

from __future__ import annotations

import asyncio
import fcntl
import importlib
import json
import os
import shutil
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mesh import run
from mesh.bootstrap import write as replace_file
from mesh.errors import Code, Error
from mesh.guard import guarded
from mesh.metrics_page import place_of
from mesh.paths import Paths
from mesh.ports import problem
from mesh.scope import Scope
from mesh.signals import stopping
from mesh.up.parts import parts
from mesh.up.plan import Plan
from mesh.up.routed import routed
from mesh.up.supervisor import Supervisor
from mesh.up.unit import Live

if TYPE_CHECKING:
    from mesh.run import Attach, Instance, Observer

STOPPING = "stopping; another Ctrl-C kills what is left"
_KEPT_BY_FRESH = frozenset({"lock", "guard.lock", "logs", "run"})


async def launch(plan: Plan, announce: Callable[[], None], waiting: Callable[[str], None]) -> None:
    """Start all parts, `announce` when every one is ready, and keep them until SIGTERM, SIGINT or `mesh down`.

    `waiting` is told now and then what a start takes so long for, and when all is to stop. A second signal kills
    them. Raises `Error` when a part does not start, after all others have stopped.
    """
    members = _Members(plan.paths)
    supervisor = Supervisor(parts(plan, members))
    with stopping(signal.SIGHUP, cancels=True) as asked:
        async with Scope() as scope:
            running = scope.start(supervisor.run(), name="parts")
            await _import_grpc()
            async with members.attaching(), _service(supervisor, asked, plan), _provided(plan):
                try:
                    await _ready_or_stopping(_all_ready(supervisor, plan, waiting), asked, announce)
                    await asked.wait()
                    waiting(STOPPING)
                finally:
                    await supervisor.stop()
                    await running


@contextmanager
def locked(paths: Paths) -> Iterator[None]:
    """Hold the stack's lock, and have a guard that ends what a killed launcher leaves.

    Waits for the guard of one that was killed. Raises `Error` (FAILED_PRECONDITION) when a launcher has the lock.
    """
    descriptor = _opened(paths.lock)
    try:
        _lock(descriptor, paths)
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        with _guard_locked(paths) as guard_lock, guarded(guard_lock):
            yield
    finally:
        os.close(descriptor)


def prove_free(paths: Paths) -> None:
    """Raises `Error` (FAILED_PRECONDITION) when a launcher has the stack's lock."""
    descriptor = _opened(paths.lock)
    try:
        _lock(descriptor, paths, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, paths: Paths, kind: int = fcntl.LOCK_EX) -> None:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = paths.lock.read_text().strip() or "unknown"
        raise Error(
            Code.FAILED_PRECONDITION,
            f"a stack is already up in {paths.state} (launcher pid {holder}): `mesh ps` shows it, `mesh down` stops it",
            reason="ALREADY_UP",
        ) from None


@contextmanager
def _guard_locked(paths: Paths) -> Iterator[int]:
    """A descriptor with a lock that a guard holds until all that was started is gone."""
    descriptor = _opened(paths.guard_lock)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def _opened(lock: Path) -> int:
    return os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)


async def until_unlocked(paths: Paths) -> None:
    """Wait until no launcher holds the stack's lock any more."""

    def wait() -> None:
        with paths.lock.open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH)

    await asyncio.to_thread(wait)


def wipe(paths: Paths) -> None:
    """Remove all data but the logs. Only with the lock held."""
    for entry in paths.state.iterdir():
        if entry.name not in _KEPT_BY_FRESH:
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()


def check_ports(plan: Plan) -> None:
    """Raises `Error` (FAILED_PRECONDITION) with a line for each busy port."""
    problems = [found for port in plan.fixed_ports() if (found := problem(*port))]
    if problems:
        raise Error(Code.FAILED_PRECONDITION, "\n".join(problems), reason="PORT_BUSY")


class _Members:
    """How services live: they wait until the launcher can attach them."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._attach: asyncio.Future[Attach] = asyncio.get_running_loop().create_future()

    def __call__(self, instance: Instance) -> Live:
        async def live(observer: Observer, stop: asyncio.Event) -> int:
            return await run.live(instance, await asyncio.shield(self._attach), observer, stop)

        return live

    @asynccontextmanager
    async def attaching(self) -> AsyncIterator[None]:
        from mesh.attach import attaching

        async with attaching(self._paths.sidecar_socket) as attach:
            self._attach.set_result(attach)
            yield


async def _import_grpc() -> None:
    """The costly imports happen after the first processes have been started."""
    await asyncio.to_thread(importlib.import_module, "mesh.up.service")
    await asyncio.to_thread(importlib.import_module, "mesh.attach")
    await asyncio.to_thread(importlib.import_module, "mesh.up.metrics")


@asynccontextmanager
async def _service(supervisor: Supervisor, stopping: asyncio.Event, plan: Plan) -> AsyncIterator[None]:
    """Answer `mesh ps` and the like, and Prometheus."""
    import grpc

    from mesh.up.metrics import shown
    from mesh.up.service import LauncherServicer, add_to_server

    socket = plan.paths.launcher_socket
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    add_to_server(LauncherServicer(supervisor, stopping), server)
    socket.unlink(missing_ok=True)
    server.add_insecure_port(f"unix:{socket}")
    socket.chmod(0o600)
    await server.start()
    try:
        with shown(supervisor.units, plan.paths.run, place_of(plan.shared_environ())):
            yield
    finally:
        await server.stop(10.0)  # no longer than the callers of StopStack take to hear of the last process


@asynccontextmanager
async def _provided(plan: Plan) -> AsyncIterator[None]:
    """Tell `mesh run` what this stack provides, for as long as it runs."""
    file = plan.paths.environ
    replace_file(file, json.dumps(plan.provided(), indent=2) + "\n")
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


async def _all_ready(supervisor: Supervisor, plan: Plan, waiting: Callable[[str], None]) -> None:
    """Every part is, and Envoy leads calls to every service that it may call without a word of the operator."""
    await supervisor.ready(waiting)
    services = {service.name for service in plan.stack.services if service.speaks_tls or not plan.is_secured}
    await routed(plan.paths.envoy_admin_socket, services)


async def _ready_or_stopping(
    getting_ready: Coroutine[Any, Any, None], stopping: asyncio.Event, announce: Callable[[], None]
) -> None:
    async with Scope() as scope:
        ready = scope.start(getting_ready)
        asked = scope.start(stopping.wait())
        await asyncio.wait((ready, asked), return_when=asyncio.FIRST_COMPLETED)
        if ready.done():
            await ready
            announce()
