"""The states of one process and the moves between them. Pure."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self


class State(enum.StrEnum):
    """What a process does now; the words of `mesh ps`."""

    STARTING = "starting"
    """Runs (or is about to), but is not ready: not yet, or not any more."""

    READY = "ready"
    """Runs and serves."""

    DRAINING = "draining"
    """Has been asked to stop."""

    BACKING_OFF = "backing-off"
    """Died, and is started again after a pause."""

    STOPPED = "stopped"
    """Does not run, and is not going to."""


_MOVES: Mapping[State, frozenset[State]] = {
    State.STARTING: frozenset({State.READY, State.DRAINING, State.BACKING_OFF, State.STOPPED}),
    State.READY: frozenset({State.STARTING, State.DRAINING, State.BACKING_OFF, State.STOPPED}),
    State.DRAINING: frozenset({State.STARTING, State.STOPPED}),
    State.BACKING_OFF: frozenset({State.STARTING, State.STOPPED}),
    State.STOPPED: frozenset({State.STARTING}),
}


class IllegalMove(Exception):
    """A move that no process makes: a fault of the launcher."""


@dataclass(frozen=True, kw_only=True)
class Lifecycle:
    """Where a process is, and how often it was started again after it died."""

    state: State = State.STARTING
    pid: int = 0
    """0 when it is not running."""

    address: str = ""
    restarts: int = 0

    def to(self, state: State) -> Self:
        """The next state; staying is fine. Raises `IllegalMove`."""
        if state is self.state:
            return self
        if state not in _MOVES[self.state]:
            raise IllegalMove(f"{self.state} to {state}")
        again = self.state is State.BACKING_OFF and state is State.STARTING
        runs_on = state in (State.READY, State.DRAINING) or (self.state is State.READY and state is State.STARTING)
        return replace(self, state=state, restarts=self.restarts + again, pid=self.pid if runs_on else 0)

    def running(self, pid: int, address: str) -> Self:
        """It has been started."""
        return replace(self, pid=pid, address=address)
