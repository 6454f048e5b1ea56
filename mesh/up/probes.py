"""Ways to see that a process is ready: each looks once and answers, and `until` looks again."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from mesh.guard import is_alive
from mesh.recovery import Backoff, Failures

Probe = Callable[[], Awaitable[bool]]
"""Looks once. Cancellable; never raises."""

INTERVAL = Backoff(first_seconds=0.02, limit_seconds=0.25, factor=1.3, jitter=0.1)
_ATTEMPT_SECONDS = 5.0
_POSTGRES_PROTOCOL = 3 << 16


async def until(probe: Probe) -> None:
    """Look until the probe says yes."""
    failures = Failures()
    while not await _once(probe):
        await failures.wait(INTERVAL)


def tcp(port: int, host: str = "127.0.0.1") -> Probe:
    """Somebody listens on a TCP port."""

    async def look() -> bool:
        return await _exchange(asyncio.open_connection(host, port), b"", lambda answer: True)

    return look


def unix(path: Path) -> Probe:
    """Somebody listens on a Unix socket."""

    async def look() -> bool:
        return await _exchange(asyncio.open_unix_connection(path), b"", lambda answer: True)

    return look


def http(port: int, path: str, host: str = "127.0.0.1") -> Probe:
    """`GET path` is answered with a status below 400."""
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()

    async def look() -> bool:
        return await _exchange(asyncio.open_connection(host, port), request, _is_good_status)

    return look


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
        async with asyncio.timeout(_ATTEMPT_SECONDS):
            return await probe()
    return False


_Connection = Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]


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
