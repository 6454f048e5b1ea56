"""A server that is asked for more than it can do does as much as ever: a simulation, in time of its own."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import pytest

from mesh.pace import CALLS, FORGET_SECONDS, MANY, Pace

CAPACITY = 500


class Open(Pace):
    """Takes all."""

    def takes(self, now: float, left_seconds: float | None) -> bool:
        return True


@dataclass
class Queue:
    """A server that does one call after the other, and all that it began."""

    seconds_each: float = 1 / CAPACITY
    pace: Pace = field(default_factory=Pace)
    in_hand: deque[tuple[float, float, bool]] = field(default_factory=deque)
    free_at: float = 0.0
    in_time: int = 0
    refused: int = 0

    def offer(self, now: float, left_seconds: float | None) -> None:
        """A call comes."""
        self.work_until(now)
        if not self.pace.takes(now, left_seconds):
            self.refused += 1
            return
        self.pace.begin(now)
        self.free_at = max(now, self.free_at) + self.seconds_each
        self.in_hand.append((self.free_at, now, left_seconds is None or self.free_at - now <= left_seconds))

    def work_until(self, now: float) -> None:
        """End what is done by then."""
        while self.in_hand and self.in_hand[0][0] <= now:
            at, begun, in_time = self.in_hand.popleft()
            self.pace.end(at, took_seconds=at - begun, in_time=in_time)
            self.in_time += in_time

    def load(self, rate: float, *, seconds: float, start: float, left_seconds: float | None) -> None:
        """Calls that come evenly."""
        for number in range(round(rate * seconds)):
            self.offer(start + number / rate, left_seconds)


@pytest.mark.parametrize("times", [1.2, 3, 10])
@pytest.mark.parametrize("left_seconds", [0.5, 2.0, 10.0])
def test_goodput_stays_at_what_the_server_can_do(times: float, left_seconds: float) -> None:
    queue = Queue()
    queue.load(times * CAPACITY, seconds=8, start=1, left_seconds=left_seconds)
    assert queue.in_time >= 0.9 * 8 * CAPACITY


def test_without_it_goodput_collapses() -> None:
    queue = Queue(pace=Open())
    queue.load(3 * CAPACITY, seconds=10, start=1, left_seconds=1.0)
    assert queue.in_time < 0.2 * 10 * CAPACITY


@pytest.mark.parametrize("left_seconds", [0.2, None])
def test_nothing_is_refused_below_capacity_or_without_a_deadline(left_seconds: float | None) -> None:
    queue = Queue()
    queue.load(0.95 * CAPACITY if left_seconds else 3 * CAPACITY, seconds=10, start=1, left_seconds=left_seconds)
    assert not queue.refused


def test_a_burst_that_fits_is_taken_whole() -> None:
    queue = Queue()
    queue.load(5 * CAPACITY, seconds=0.1, start=1, left_seconds=2.0)
    queue.load(5 * CAPACITY, seconds=0.1, start=5, left_seconds=2.0)
    assert not queue.refused


@pytest.mark.parametrize("left_seconds", [1.3, 5.0])
def test_calls_that_take_long_without_work_are_taken_as_long_as_they_end_in_time(left_seconds: float) -> None:
    pace, lasts, now = Pace(), 1.0, 1.0
    for _ in range(CALLS):
        pace.begin(now)
        now += lasts
        pace.end(now, took_seconds=lasts, in_time=True)
    in_hand: deque[float] = deque()
    for _ in range(2000):
        now += 1 / 200
        while in_hand and in_hand[0] <= now:
            pace.end(in_hand.popleft(), took_seconds=lasts, in_time=True)
        assert pace.takes(now, left_seconds)
        pace.begin(now)
        in_hand.append(now + lasts)


def test_while_nothing_ends_few_are_taken_and_all_again_once_it_does() -> None:
    pace = Pace()
    for number in range(3 * MANY):
        pace.begin(1 + number / 1000)
    assert not pace.takes(3.0, 2.0)
    for number in range(3 * MANY):
        pace.end(4 + number / 1000, took_seconds=3.0, in_time=True)
    assert pace.takes(4.2, 2.0)


def test_what_was_long_ago_counts_no_more() -> None:
    queue = Queue(seconds_each=1.0)
    queue.load(50, seconds=2, start=1, left_seconds=10.0)
    queue.work_until(1000)
    queue.seconds_each = 1 / CAPACITY
    queue.load(10 * CAPACITY, seconds=0.1, start=1000 + 2 * FORGET_SECONDS, left_seconds=2.0)
    queue.work_until(2000)
    assert queue.in_time >= 10 * CAPACITY * 0.1
