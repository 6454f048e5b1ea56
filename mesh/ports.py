"""TCP ports: finding a free one, and saying who has a busy one."""

from __future__ import annotations

import errno
import os
import random
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from mesh.errors import Code, Error

_FIRST, _LAST = 20000, 32000
"""Below Linux's ephemeral range, so that no outgoing connection takes a port between its choice and its use."""

LOOPBACK = "127.0.0.1"
_LISTEN = "0A"
_given: set[int] = set()


@dataclass(frozen=True, kw_only=True)
class Owner:
    """Who listens on a port."""

    pid: int
    """0 when it is another user's process and cannot be seen."""

    command: str

    def __str__(self) -> str:
        return f"{self.command} (pid {self.pid})" if self.pid else "a process of another user"


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listens on and that this process has not given out before, if there still is one.

    Raises `Error` (RESOURCE_EXHAUSTED) when there is none.
    """
    ports = range(_FIRST, _LAST)
    first = random.randrange(len(ports) + 1)
    for port in chain(ports[first:], ports[:first]):
        if port not in _given and is_free(port, host):
            _given.add(port)
            return port
    if _given:  # all of them, by now: most were given up long ago
        _given.clear()
        return free_port(host)
    raise Error(Code.RESOURCE_EXHAUSTED, f"no port from {_FIRST} to {_LAST - 1} is free", reason="NO_FREE_PORT")


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a listener without SO_REUSEPORT could be opened there now; true where there is no such address."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    if family == socket.AF_INET6 and not socket.has_dualstack_ipv6():
        return True
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError as error:
            return error.errno == errno.EADDRNOTAVAIL
    return True


def is_here(host: str) -> bool:
    """Whether an IP address is one of this host, so that something can listen there."""
    with suppress(OSError), socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return True
    return False


def with_port(host: str, port: int) -> str:
    """`host:port`, with the brackets that IPv6 needs."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def problem(port: int, purpose: str, flag: str, host: str = "127.0.0.1") -> str | None:
    """One line for people when the port is busy: who has it, and the flag that chooses another."""
    hosts = (host, "::1") if host == "127.0.0.1" else (host,)  # for both are called localhost
    if all(is_free(port, each) for each in hosts):
        return None
    holder = owner(port) or "its owner is gone by now"
    return f"port {port} ({purpose}) is busy: {holder}; choose another with {flag} PORT"


def owner(port: int) -> Owner | None:
    """The process that listens on a TCP port of any address; None when nobody does. Source: proc(5)."""
    inodes = set(_listening(port))
    if not inodes:
        return None
    for process in Path("/proc").glob("[0-9]*"):
        if inodes & set(_sockets(process)):
            return Owner(pid=int(process.name), command=_command(process))
    return Owner(pid=0, command="")


def _listening(port: int) -> Iterator[str]:
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTEN and int(fields[1].rsplit(":", 1)[1], 16) == port:
                    yield fields[9]


def _sockets(process: Path) -> Iterator[str]:
    with suppress(OSError):
        for descriptor in (process / "fd").iterdir():
            with suppress(OSError):
                target = os.readlink(descriptor)  # noqa: PTH115
                if target.startswith("socket:["):
                    yield target[len("socket:[") : -1]


def _command(process: Path) -> str:
    with suppress(OSError):
        words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
        shown = " ".join(" ".join((Path(words[0]).name, *words[1:])).split())
        return shown if len(shown) <= 60 else shown[:57] + "..."
    return "?"
