"""The states of a process: which moves there are, and what each does to the pid and the count of restarts."""

from __future__ import annotations

import itertools

import pytest

from mesh.up.lifecycle import IllegalMove, Lifecycle, State

LEGAL = {
    (State.STARTING, State.READY),
    (State.STARTING, State.DRAINING),
    (State.STARTING, State.BACKING_OFF),
    (State.STARTING, State.STOPPED),
    (State.READY, State.STARTING),
    (State.READY, State.DRAINING),
    (State.READY, State.BACKING_OFF),
    (State.READY, State.STOPPED),
    (State.DRAINING, State.STARTING),
    (State.DRAINING, State.STOPPED),
    (State.BACKING_OFF, State.STARTING),
    (State.BACKING_OFF, State.STOPPED),
    (State.STOPPED, State.STARTING),
}


@pytest.mark.parametrize(("before", "after"), list(itertools.product(State, State)))
def test_only_legal_moves_are_made(before: State, after: State) -> None:
    status = Lifecycle(state=before)
    if before is after or (before, after) in LEGAL:
        assert status.to(after).state is after
    else:
        with pytest.raises(IllegalMove):
            status.to(after)


def test_a_death_clears_the_pid_and_the_next_start_counts() -> None:
    status = Lifecycle().running(7, "here").to(State.READY).to(State.BACKING_OFF)
    assert (status.pid, status.restarts) == (0, 0)
    again = status.to(State.STARTING).running(8, "there").to(State.READY)
    assert (again.pid, again.address, again.restarts) == (8, "there", 1)


def test_a_sick_process_keeps_its_pid_and_a_replaced_one_does_not_count() -> None:
    status = Lifecycle().running(7, "here").to(State.READY)
    assert status.to(State.STARTING).pid == 7
    assert status.to(State.DRAINING).to(State.STARTING).restarts == 0
