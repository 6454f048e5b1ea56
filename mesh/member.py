"""The process `mesh run`: one program on the mesh, with a sidecar of its own where none runs."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mesh.errors import InvalidConfig
from mesh.lock_file import claimed
from mesh.paths import Paths
from mesh.ports import is_free, owner
from mesh.process import Child, ended
from mesh.recovery import Backoff, Failures, now, sleep
from mesh.registry import RegistrySettings
from mesh.registry.model import is_ip
from mesh.run import Instance, Membership, live
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

_SERVICE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_log = logging.getLogger("mesh.run")


@dataclass(frozen=True, kw_only=True)
class MemberSettings:
    """What `mesh run` was told."""

    instance: Instance
    registry: RegistrySettings
    """Where the registry is, for the sidecar that this process may be."""


def settings(
    options: Mapping[str, Any], command: tuple[str, ...], paths: Paths, environ: Mapping[str, str]
) -> MemberSettings:
    """Check what was given on the command line. Raises `InvalidConfig` with every problem.

    What a running stack provides completes the environment.
    """
    problems: list[str] = []
    environ = {**_provided(paths), **environ}
    membership = Membership(
        service=_service(options["service"], problems),
        address=_address(options["address"], problems),
        port=_port(options["port"] or 0, problems),
        zone=options["zone"],
        tags=tuple(options["tags"]),
        meta=_meta(options["meta"], problems),
        protocol=options["protocol"],
        http_prefixes=_prefixes(options["http_prefixes"], problems),
        descriptors=_read(options["descriptors"], "--descriptors", problems),
        service_config=_json(options["service_config"], problems),
    )
    registry = _registry(environ, problems)
    if problems:
        raise InvalidConfig.of(problems)
    return MemberSettings(
        instance=Instance(membership=membership, argv=command, environ=environ, paths=paths), registry=registry
    )


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
            why = self._reason or "its sidecar has not answered"
            port = self._address.rpartition(":")[2]
            _log.warning("%s is not on the mesh yet: %s; it finds its port, %s, in PORT", self._service, why, port)

    def running(self, pid: int, address: str) -> None:
        self._address = address
        _log.info("%s started: pid %d, address %s", self._service, pid, address)

    def waiting(self, reason: str) -> None:
        self._reason = reason

    def ready(self) -> None:
        self._was_ready.set()
        _log.info("%s is on the mesh at %s", self._service, self._address)

    def unready(self) -> None:
        _log.warning("%s is out of rotation: its health check fails", self._service)

    def draining(self) -> None:
        _log.info("%s leaves the mesh", self._service)


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
    zone = settings.instance.membership.zone
    async with Sidecar(SidecarSettings.at(paths, registry, zone)):
        while not await _answers(paths.launcher_socket):
            await sleep(_LOOK_SECONDS)
    _log.info("`mesh up` runs in %s now, so its sidecar takes over", paths.state)


async def _answers(path: Path) -> bool:
    with suppress(OSError):
        _, writer = await asyncio.open_unix_connection(path)
        writer.close()
        return True
    return False


def _address(text: str, problems: list[str]) -> str:
    if not is_ip(text):
        problems.append(f"--address {text!r} must be an IP address: gRPC takes no host names from xDS")
    return text


@contextmanager
def _handing_on(child: Child) -> Iterator[None]:
    """Hand the signals on that mean nothing to `mesh run` itself; the child has no terminal to get them from."""
    with handled(_HANDED_ON, child.send), handled((signal.SIGTSTP,), lambda _: _suspend(child)):
        yield


def _suspend(child: Child) -> None:
    """SIGSTOP, as the kernel drops SIGTSTP for a session without a terminal; SIGCONT is handed on."""
    child.send(signal.SIGSTOP)
    os.kill(os.getpid(), signal.SIGSTOP)


def registry_of(paths: Paths, environ: Mapping[str, str]) -> RegistrySettings:
    """The registry that the environment names, else that of the running stack. Raises `InvalidConfig`."""
    return RegistrySettings.from_env({**_provided(paths), **environ})


def _provided(paths: Paths) -> dict[str, str]:
    with suppress(OSError, ValueError):
        if not paths.are_in_use():
            return {}
        found = json.loads(paths.environ.read_text(encoding="utf-8"))
        return {str(name): str(value) for name, value in found.items()}
    return {}


def _registry(environ: Mapping[str, str], problems: list[str]) -> RegistrySettings:
    try:
        return RegistrySettings.from_env(environ)
    except InvalidConfig as error:
        problems.extend(error.message.splitlines())
        return RegistrySettings()


def _service(name: str, problems: list[str]) -> str:
    if not _SERVICE.fullmatch(name):
        problems.append(f"--service {name!r} must be letters, digits and hyphens, as it is a name in DNS too")
    return name


def _port(port: int, problems: list[str]) -> int:
    if port and not is_free(port):
        problems.append(f"--port {port} is busy: {owner(port) or 'its owner is gone by now'}; choose another")
    return port


def _meta(pairs: tuple[str, ...], problems: list[str]) -> dict[str, str]:
    found = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key or not equals:
            problems.append(f"--meta {pair!r} is not KEY=VALUE")
        found[key] = value
    return found


def _prefixes(prefixes: tuple[str, ...], problems: list[str]) -> tuple[str, ...]:
    problems.extend(
        f"--http-prefix {prefix!r} must begin with a slash and have no blanks"
        for prefix in prefixes
        if not prefix.startswith("/") or len(prefix.split()) != 1
    )
    return prefixes


def _read(file: Path | None, flag: str, problems: list[str]) -> bytes:
    try:
        return file.read_bytes() if file else b""
    except OSError as error:
        problems.append(f"{flag} {file} cannot be read: {error.strerror}")
        return b""


def _json(file: Path | None, problems: list[str]) -> str:
    text = _read(file, "--service-config", problems).decode(errors="replace")
    try:
        if text:
            json.loads(text)
    except ValueError as error:
        problems.append(f"--service-config {file} is not JSON: {error}")
    return text
