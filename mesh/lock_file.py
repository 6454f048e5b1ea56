"""Which of several processes is the one: an advisory lock on a file, given back by the kernel whatever happens."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from mesh.recovery import sleep

_LOOK_SECONDS = 0.1


@asynccontextmanager
async def claimed(path: Path, *, patience_seconds: float = 0.0) -> AsyncIterator[bool]:
    """Whether this process has the lock, after waiting for it for so long; it is given back at the end."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield await _is_locked(descriptor, patience_seconds)
    finally:
        os.close(descriptor)


async def _is_locked(descriptor: int, patience_seconds: float) -> bool:
    if _try(descriptor):
        return True
    try:
        async with asyncio.timeout(patience_seconds):
            while not _try(descriptor):
                await sleep(_LOOK_SECONDS)
    except TimeoutError:
        return False
    return True


def _try(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
