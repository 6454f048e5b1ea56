"""Why a thread woke late: native code kept the interpreter to itself, or the machine had others to serve."""

from __future__ import annotations

import resource
import sys
import time
from typing import NamedTuple

from mesh.recovery import now

LONG_SECONDS = 1.0
"""A stall of this length is told whatever the cause, and again when it is over, with its length."""

WORKED = 0.7
"""The share of the lost time in which the process must have worked to have been held up."""

WAITED = (0.5, 1.5)
"""For how much of the lost time the thread must seem to have waited for the interpreter, at least and at most.

It wakes once in each interval in which nobody gives the interpreter away: less often, and it was not woken; more often,
and a busy loop gave it away often and had it back before this thread came, as it does when it looks for events.
"""


class Used(NamedTuple):
    """Seconds, of which only differences mean something."""

    at: float
    worked: float
    """Processor time of the process."""
    waited: float
    """How long this thread waited for the interpreter, by how often it woke to ask for it."""


def used() -> Used:
    """By the thread that asks, up to now."""
    wakes = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
    return Used(now(), time.process_time(), wakes * sys.getswitchinterval())


def is_held_up(lost: float, began: Used, ended: Used, alive_at: float) -> bool:
    """Whether something held the process up for the last `lost` seconds between two readings.

    Not if the event loop gave a sign of life meanwhile (at `alive_at`), if the process did not work, or if this thread
    did not wait for the interpreter all the while: then the machine had others to serve. Pure.
    """
    if lost >= LONG_SECONDS:
        return True
    worked, waited = ended.worked - began.worked, ended.waited - began.waited
    least, most = WAITED
    return alive_at < ended.at - lost and worked >= WORKED * lost and least <= waited / lost <= most
