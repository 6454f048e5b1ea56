"""How a watch follows a value through blocking queries.

The rules are those of https://developer.hashicorp.com/consul/api-docs/features/blocking: an index that goes
backwards starts again from 0, one below 1 counts as 1, and a return is no proof of change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from mesh.recovery import Backoff, Failures, now

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from mesh.recovery import Recovery

T = TypeVar("T")

IDLE = Backoff(first_seconds=0.005, limit_seconds=0.25)
"""Pause after a query that came back early with nothing new: a registry that answers at once must not cost a core."""

EARLY_SECONDS = 1.0


def next_index(asked: int, answered: int) -> int:
    """The index to ask with next; 0 means: answer at once with what there is."""
    answered = max(answered, 1)
    return 0 if answered < asked else answered


async def watch(
    read: Callable[[int], Awaitable[tuple[int, T]]], recover: Recovery, *, idle: Backoff = IDLE
) -> AsyncIterator[T]:
    """Yield the first value that `read(index)` answers, then each that differs from the one before.

    `read` blocks until the registry's index passes the one given, or some time went by; it answers the new
    index and the value. An error goes through `recover`: the watch waits and starts again from index 0,
    because the registry may have restarted with smaller numbers. Ends only by an error that `recover` raises
    or by cancellation, which frees the connection.
    """
    index, seen, last = 0, False, None
    failures, idles = Failures(), Failures()
    while True:
        started = now()
        try:
            answered, value = await read(index)
        except Exception as error:
            index = 0
            await failures.wait(recover(error))
            continue
        failures.reset()
        index = next_index(index, answered)
        if not seen or value != last:
            seen, last = True, value
            idles.reset()
            yield value
        elif now() - started < EARLY_SECONDS:
            await idles.wait(idle)
        else:
            idles.reset()
