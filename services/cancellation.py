"""Cancellations that a library loses."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def heeded() -> Iterator[None]:
    """Ends with CancelledError whenever the task was cancelled within, however the block itself ends.

    For calls of the Redis client: it uses `asyncio.wait_for`, which before Python 3.12 loses a cancellation that comes
    while its own work is just done (https://github.com/python/cpython/issues/86296). The task would then run for ever.
    """
    try:
        yield
    finally:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise asyncio.CancelledError
