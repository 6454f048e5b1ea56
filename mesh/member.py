"""The process `mesh run`: one program on the mesh, with a sidecar of its own where none runs."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mesh.lock_file import claimed
from mesh.member_options import MemberSettings
from mesh.paths import Paths
from mesh.process import Child, ended
from mesh.recovery import Backoff, Failures, now, sleep
from mesh.run import live
from mesh.scope import Scope
from mesh.signals import handled, stopping

_LOOK_SECONDS = 0.5
_SILENT_SECONDS = 3.0
"""A sidecar that does not answer for so long is gone for good, rather than being restarted."""

_HANDED_ON = (
    signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH, signal.SIGCONT,
)  # fmt: skip
PATIENCE = Backoff(first_seconds=5.0, limit_seconds=300.0, jitter=0)
"""How long nothing is said about a program that does not get healthy."""

_AGAIN = Backoff(first_seconds=0.5, limit_seconds=10.0)
"""Between attempts to be the sidecar."""

_log = logging.getLogger("mesh.run")


async def run(settings: MemberSettings) -> int:
    """Run the program until it ends; its exit code.

    SIGTERM and SIGINT drain and stop it, a second one kills it. Other signals are handed on to it: SIGHUP too, which
    many programs take for "reload". One that does not handle it ends by it, as when its terminal closes.
    """
    from mesh.attach import attaching

    instance = settings.instance
    reporter, is_sidecar = Reporter(instance.membership.service), asyncio.Event()
    with stopping(cancels=True) as stop:
        async with Scope() as scope:
            scope.start(_keep_sidecar(settings, is_sidecar), name="sidecar")
            scope.start(reporter.remind(), name="reminders")
            async with attaching(instance.paths.sidecar_socket) as attach:
                code = await live(
                    instance, attach, reporter, stop, sidecar_ends_too=is_sidecar.is_set, beside=_handing_on
                )
        _log.info("%s %s", instance.membership.service, ended(code))
        return code
    raise AssertionError("a scope swallows nothing")


async def sidecar_answers(paths: Paths) -> bool:
    """Whether anything accepts connections on the sidecar's socket."""
    return await _answers(paths.sidecar_socket)


class Reporter:
    """Tells people what becomes of the program."""

    def __init__(self, service: str) -> None:
        self._service = service
        self._address = ""
        self._reason = ""
        self._was_ready = asyncio.Event()

    async def remind(self) -> None:
        """Say now and then why the program is not on the mesh yet, until it is."""
        silences = Failures()
        while not self._was_ready.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(silences.next(PATIENCE)):
                    await self._was_ready.wait()
                    return
            why = self._reason.rstrip(".") or "its sidecar has not answered"
            _log.warning("%s is not on the mesh yet: %s%s", self._service, why, _hint(why, self._address))

    def running(self, pid: int, address: str) -> None:
        self._address = address
        _log.info("%s started: pid %d, address %s", self._service, pid, address)

    def waiting(self, reason: str) -> None:
        self._reason = reason

    def ready(self) -> None:
        self._was_ready.set()
        _log.info("%s is on the mesh at %s", self._service, self._address)

    def unready(self, reason: str) -> None:
        _log.warning("%s is out of rotation: %s", self._service, reason)

    def draining(self) -> None:
        _log.info("%s leaves the mesh", self._service)


def _hint(why: str, address: str) -> str:
    """Where the program learns where to listen, if that may be what is wrong."""
    host, _, port = address.rpartition(":")
    if not why.startswith("nothing listens"):
        return ""
    own = "" if host == "127.0.0.1" else f"its address, {host}, in MESH_HOST, and "
    return f"; it finds {own}its port, {port}, in PORT"


async def _keep_sidecar(settings: MemberSettings, is_sidecar: asyncio.Event) -> None:
    """Be the sidecar whenever there is no other: of several `mesh run` in one folder, one is."""
    paths, heard, failures = settings.instance.paths, now() - _SILENT_SECONDS, Failures()
    while True:
        if await _answers(paths.sidecar_socket) or await _answers(paths.launcher_socket):
            heard = now()
        elif now() - heard >= _SILENT_SECONDS:
            async with claimed(paths.sidecar_lock) as is_ours:
                if is_ours:
                    await _try_sidecar(settings, is_sidecar)
            if is_ours:
                await failures.wait(_AGAIN)
        await sleep(_LOOK_SECONDS)


async def _try_sidecar(settings: MemberSettings, is_sidecar: asyncio.Event) -> None:
    """Be the sidecar until cancelled or it fails: the program runs on without one, and is not what failed."""
    is_sidecar.set()
    try:
        await _be_sidecar(settings)
    except Exception as error:
        _log.exception("the sidecar failed and starts again; until then calls go on as they were", exc_info=error)
    finally:
        is_sidecar.clear()


async def _be_sidecar(settings: MemberSettings) -> None:
    from mesh.sidecar import Sidecar, SidecarSettings

    paths, registry = settings.instance.paths, settings.registry
    _log.warning(
        "no sidecar runs for %s, so this process is it, with the registry at %s;"
        " where a stack runs in another folder, name that with --dir or MESH_DIR",
        paths.state,
        registry.address,
    )
    zone, plaintext = settings.instance.membership.zone, not settings.is_secured
    async with Sidecar(SidecarSettings.at(paths, registry, zone, plaintext=plaintext)):
        while not await _answers(paths.launcher_socket):
            await sleep(_LOOK_SECONDS)
    _log.info("`mesh up` runs in %s now, so its sidecar takes over", paths.state)


async def _answers(path: Path) -> bool:
    with suppress(OSError):
        _, writer = await asyncio.open_unix_connection(path)
        writer.close()
        return True
    return False


@contextmanager
def _handing_on(child: Child) -> Iterator[None]:
    """Hand the signals on that mean nothing to `mesh run` itself; the child has no terminal to get them from."""
    with handled(_HANDED_ON, child.send), handled((signal.SIGTSTP,), lambda _: _suspend(child)):
        yield


def _suspend(child: Child) -> None:
    """SIGSTOP, as the kernel drops SIGTSTP for a session without a terminal; SIGCONT is handed on."""
    child.send(signal.SIGSTOP)
    os.kill(os.getpid(), signal.SIGSTOP)
