"""What happens after a failure: the one module that sleeps, backs off and reads the clock.

Recovery is an argument: a loop that may fail takes a `Recovery`, a function that looks at the error and either
answers with the back-off to use or raises the same error again. The loop counts with a `Failures` of its own.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime


@dataclass(frozen=True, kw_only=True)
class Backoff:
    """Exponential, bounded, jittered delays between attempts."""

    first_seconds: float = 0.1
    limit_seconds: float = 10.0
    factor: float = 2.0

    jitter: float = 0.5
    """Share of each delay that chance decides: 0 makes delays exact, 1 spreads them down to nothing."""

    def delay(self, failures: int, chance: float) -> float:
        """Seconds to wait after so many failures in a row (1 or more); `chance` lies in [0, 1)."""
        exponent = min(max(failures, 1) - 1, 64)
        longest = min(self.limit_seconds, self.first_seconds * self.factor**exponent)
        return longest * (1 - self.jitter * chance)


Recovery = Callable[[Exception], Backoff]
"""Error in; back-off out, or the same error raised again when no wait can mend it."""


@dataclass
class Failures:
    """Counts failures in a row of one thing, and waits after each."""

    chance: Callable[[], float] = random.random
    count: int = field(default=0, init=False)

    def next(self, backoff: Backoff) -> float:
        """Count one more; seconds to wait before the next attempt."""
        self.count += 1
        return backoff.delay(self.count, self.chance())

    def reset(self) -> None:
        """It worked: the next failure starts from the first delay."""
        self.count = 0

    async def wait(self, backoff: Backoff) -> None:
        """Count one more and sleep. Cancellation goes on at once."""
        await sleep(self.next(backoff))


async def sleep(seconds: float) -> None:
    """Sleep on the event loop."""
    await asyncio.sleep(seconds)


def now() -> float:
    """Seconds on the monotonic clock; only differences mean something."""
    return time.monotonic()


nanoseconds: Callable[[], int] = time.time_ns
"""Nanoseconds since 1970, which may be set forth and back. For each call of a process: the bare function."""


def time_of_day() -> datetime:
    """The date and time, UTC; may be set forth and back."""
    return datetime.now(UTC)
