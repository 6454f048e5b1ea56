"""How fast the calls of one method end, and whether one more would end in time. Pure.

A server that takes in more than it can do has each call wait behind all others until it is done too late: it works as
hard as ever, and for nobody. So one more is refused at once when those in hand would keep it for too long. By Little's
law that is how many are in hand, divided by the rate at which they end. The rate is measured while many are in hand,
as only then it says what a server can do; with fewer, nothing is refused, and what calls take is what they take by
themselves. Those that take long by themselves, waiting for something else, are no sign of too much work.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, inf

MANY = 32
"""Calls in hand from which on there may be too many."""

SHARE = 0.5
"""How much of what a call has left those before it may take: the rest is for its way back, and for a wrong guess."""

QUEUED = 2.0
"""Calls that take so many times what they take by themselves wait for each other."""

CALLS = 100
"""How many calls make up the mean of what they take by themselves."""

KNOWN_SECONDS = 0.05
"""What is measured for a shorter time says nothing yet."""

MEMORY_SECONDS = 1.0
"""After so long under pressure what was before counts e times less."""

FORGET_SECONDS = 10.0
"""After so long without pressure nothing is known any more."""


@dataclass(slots=True)
class Pace:
    """Calls of one method. Times are in seconds, on any clock that only goes forward."""

    in_hand: int = 0
    _known: bool = False
    """Whether a call has ended under pressure: before that, long calls that have only begun look like a standstill."""
    _seconds: float = 0.0
    _done: float = 0.0
    _at: float = 0.0
    _alone: float = 0.0
    """Mean seconds of calls while few were in hand."""

    def begin(self, now: float) -> None:
        """A call began."""
        self.in_hand += 1
        if self.in_hand == MANY:
            self._known = self._known and now - self._at < FORGET_SECONDS
            self._at = now

    def end(self, now: float, *, took_seconds: float, in_time: bool) -> None:
        """A call ended, while somebody still waited for it or not."""
        if self.in_hand < MANY:
            self._alone += (took_seconds - self._alone) / CALLS
        if self.in_hand >= MANY:
            if self._known:
                rest = exp((self._at - now) / MEMORY_SECONDS)
                self._seconds = (self._seconds + now - self._at) * rest
                self._done = (self._done + in_time) * rest
            else:
                self._known, self._seconds, self._done = True, 0.0, 0.0
            self._at = now
        self.in_hand -= 1

    def takes(self, now: float, left_seconds: float | None) -> bool:
        """Whether one more would end in time; always, for one without a deadline."""
        if self.in_hand < MANY or left_seconds is None:
            return True
        return self._wait(now) <= min(left_seconds, max(SHARE * left_seconds, QUEUED * self._alone))

    def _wait(self, now: float) -> float:
        seconds = self._seconds + now - self._at
        if not self._known or seconds < KNOWN_SECONDS:
            return now - self._at
        return self.in_hand * seconds / self._done if self._done else inf
