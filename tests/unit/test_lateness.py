"""Who was not served was not held up."""

from __future__ import annotations

import time

import pytest

from mesh.lateness import Used, is_held_up, used

PAUSE = 0.025


@pytest.mark.parametrize(
    ("lost", "worked", "waited", "alive_at", "held_up"),
    [
        (0.5, 0.5, 0.5, 0.0, True),  # native code that works
        (0.5, 0.42, 0.3, 0.0, True),  # that shared the processor a little
        (0.5, 0.5, 0.5, PAUSE / 2, True),  # the loop's sign of life came before
        (0.5, 0.02, 0.01, 0.0, False),  # the process was stopped, whatever line the loop was at
        (0.5, 0.3, 0.5, 0.0, False),  # or shared the processor with many
        (0.5, 0.5, 0.01, 0.0, False),  # the loop ran on, only this thread was not woken
        (0.5, 0.5, 1.2, 0.0, False),  # the loop ran on, and gave the interpreter away often
        (0.5, 0.5, 0.5, 0.3, False),  # a busy loop, which said so
        (1.5, 0.0, 0.0, 0.0, True),  # long
    ],
)
def test_lateness_has_causes(lost: float, worked: float, waited: float, alive_at: float, held_up: bool) -> None:
    began, ended = Used(0.0, 7.0, 3.0), Used(PAUSE + lost, 7.0 + worked, 3.0 + waited)
    assert is_held_up(lost, began, ended, alive_at) is held_up


def test_what_is_read_only_grows() -> None:
    before = used()
    sum(range(100_000))
    time.sleep(0.001)
    after = used()
    assert all(later > earlier for earlier, later in zip(before, after, strict=True))
