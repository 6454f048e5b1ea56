"""The budget of the inbound call being handled, as a context variable.

`mesh.server` sets it from the caller's deadline; `mesh.channel` bounds outbound calls by it. gRPC for Python
propagates no deadline by itself. Tasks started while handling a call inherit it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from mesh.recovery import now

_expiry: ContextVar[float | None] = ContextVar("mesh_deadline", default=None)


def remaining() -> float | None:
    """Seconds left of the call being handled, never negative; None when it has no deadline or there is none."""
    expiry = _expiry.get()
    return None if expiry is None else max(0.0, expiry - now())


def bound(timeout_seconds: float | None) -> float | None:
    """The shorter of a time-out and what remains; None when neither is known."""
    left = remaining()
    if left is None:
        return timeout_seconds
    return left if timeout_seconds is None else min(left, timeout_seconds)


def timeout() -> asyncio.Timeout:
    """Ends an `async with` block when nothing is left of the call in hand; without a deadline, never.

    Raises TimeoutError, at once where nothing is left already: what the block would have sent is not sent.
    """
    left = remaining()
    if left == 0:
        raise TimeoutError("the deadline of the call being handled is over")
    return asyncio.timeout(left)


def begin(seconds: float | None) -> None:
    """Set the budget of the current context; None for none. For whoever starts to handle a call."""
    _expiry.set(None if seconds is None else now() + seconds)


@contextmanager
def limit(seconds: float) -> Iterator[None]:
    """Bound what runs inside by a budget, within the one that holds already."""
    left = bound(seconds)
    token = _expiry.set(None if left is None else now() + left)
    try:
        yield
    finally:
        _expiry.reset(token)
