"""Why a thread woke late: native code kept the interpreter to itself, or the machine had others to serve."""

from __future__ import annotations

import resource
import sys
import time
from typing import NamedTuple

from mesh.recovery import now

LONG_SECONDS = 1.0
"""A stall of this length is told whatever the cause, and again when it is over, with its length."""

WORKED = 0.8
"""The share of the lost time in which the process must have worked to have been held up."""

WAITED = 0.5
"""The share of the lost time in which the thread must have waited for the interpreter."""


class Used(NamedTuple):
    """Seconds, of which only differences mean something."""

    at: float
    worked: float
    """Processor time of the process."""
    waited: float
    """How long this thread waited for the interpreter, about, or somewhat longer."""


def used() -> Used:
    """By the thread that asks, up to now. One that waits for the interpreter wakes each time when it may ask for it."""
    wakes = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
    return Used(now(), time.process_time(), wakes * sys.getswitchinterval())


def is_held_up(lost: float, began: Used, ended: Used, alive_at: float) -> bool:
    """Whether something held the process up for the last `lost` seconds between two readings.

    Not if the process did not work meanwhile, this thread slept on though it had the interpreter for the asking, or the
    event loop gave a sign of life at `alive_at`: then the machine had others to serve.
    """
    if lost >= LONG_SECONDS:
        return True
    worked, waited = ended.worked - began.worked, ended.waited - began.waited
    return alive_at < ended.at - lost and worked >= WORKED * lost and waited >= WAITED * lost
