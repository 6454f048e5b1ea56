"""Ways to see that a process is ready: each looks once and answers, and `until` looks again."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from socket import SO_PEERCRED, SOL_SOCKET

from mesh.guard import is_alive
from mesh.recovery import Backoff, Failures, sleep

Probe = Callable[[], Awaitable[bool]]
"""Looks once. Cancellable; never raises."""

ProbeOf = Callable[[int], Probe]
"""A probe of the process with this id."""

INTERVAL = Backoff(first_seconds=0.02, limit_seconds=0.25, factor=1.3, jitter=0.1)
FOLLOW_SECONDS = 5.0
"""How often one that was ready is looked at."""

_STRIKES = 2
ATTEMPT_SECONDS = 5.0
_POSTGRES_PROTOCOL = 3 << 16


async def until(probe: Probe) -> None:
    """Look until the probe says yes."""
    failures = Failures()
    while not await _once(probe):
        await failures.wait(INTERVAL)


async def changes(probe: Probe) -> AsyncIterator[bool]:
    """What the probe says, whenever that has changed; first that it says yes. A no counts when it is said twice."""
    await until(probe)
    well, noes = True, 0
    yield well
    while True:
        await sleep(FOLLOW_SECONDS)
        noes = 0 if await _once(probe) else noes + 1
        if well != (noes < _STRIKES):
            well = not well
            yield well


def anyone(probe: Probe) -> ProbeOf:
    """A probe that is content whichever process answers: for a place that two never have at once."""
    return lambda pid: probe


def tcp(port: int, host: str = "127.0.0.1") -> Probe:
    """Somebody listens on a TCP port."""

    async def look() -> bool:
        return await _exchange(asyncio.open_connection(host, port), b"", lambda answer: True)

    return look


def unix(path: Path) -> ProbeOf:
    """This very process listens on a Unix socket, and not one before it."""

    def of(pid: int) -> Probe:
        async def look() -> bool:
            return await _exchange(_owned(path, pid), b"", lambda answer: True)

        return look

    return of


def http(port: int, path: str, host: str = "127.0.0.1") -> Probe:
    """`GET path` is answered with a status below 400."""

    async def look() -> bool:
        return await _exchange(asyncio.open_connection(host, port), _get(path), _is_good_status)

    return look


def http_unix(socket: Path, path: str) -> ProbeOf:
    """`GET path` on a Unix socket is answered by this very process, with a status below 400."""

    def of(pid: int) -> Probe:
        async def look() -> bool:
            return await _exchange(_owned(socket, pid), _get(path), _is_good_status)

        return look

    return of


def _get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()


def gone(pid: int) -> Probe:
    """A process has ended; a zombie has, even if nobody waits for it, as in a container without an init."""

    async def look() -> bool:
        return not is_alive(pid)

    return look


def postgres(socket: Path, database: str) -> Probe:
    """Postgres lets a connection in, which it refuses while it starts or recovers."""
    parameters = f"user\0{database}\0database\0{database}\0\0".encode()
    packet = struct.pack("!ii", 8 + len(parameters), _POSTGRES_PROTOCOL) + parameters

    async def look() -> bool:
        return await _exchange(asyncio.open_unix_connection(socket), packet, lambda answer: answer.startswith(b"R"))

    return look


def valkey(socket: Path) -> Probe:
    """Valkey answers PING, which it refuses while it loads its data."""

    async def look() -> bool:
        answer = asyncio.open_unix_connection(socket)
        return await _exchange(answer, b"PING\r\n", lambda text: text.startswith(b"+PONG"))

    return look


async def _once(probe: Probe) -> bool:
    with suppress(TimeoutError):
        async with asyncio.timeout(ATTEMPT_SECONDS):
            return await probe()
    return False


_Connection = Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]


async def _owned(path: Path, pid: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to a process that listens on a Unix socket. Raises `OSError` when it is another one that does."""
    reader, writer = await asyncio.open_unix_connection(path)
    credentials = writer.get_extra_info("socket").getsockopt(SOL_SOCKET, SO_PEERCRED, struct.calcsize("3i"))
    if struct.unpack("3i", credentials)[0] != pid:
        writer.close()
        raise ConnectionRefusedError
    return reader, writer


def _is_good_status(answer: bytes) -> bool:
    words = answer.split(b" ", 2)
    return len(words) == 3 and words[0].startswith(b"HTTP/") and b"200" <= words[1] < b"400"


async def _exchange(connection: _Connection, request: bytes, accept: Callable[[bytes], bool]) -> bool:
    try:
        reader, writer = await connection
    except OSError:
        return False
    try:
        writer.write(request)
        return accept(await reader.read(64) if request else b"")
    except OSError:
        return False
    finally:
        writer.close()
