"""What a server says of its load."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Sequence
from itertools import count
from math import cbrt
from statistics import median

import pytest
from xds.data.orca.v3.orca_load_report_pb2 import OrcaLoadReport

from mesh.load import ORDINARY_SECONDS, REPORT_KEY, WINDOW_SECONDS, Load


def report(load: Load) -> OrcaLoadReport:
    ((key, value),) = load.trailer
    assert key == REPORT_KEY
    return OrcaLoadReport.FromString(value)


def run(load: Load, *, rate: float, latency: float, seconds: float, failed: bool = False, start: float = 1.0) -> None:
    """Calls that come evenly."""
    begins = [start + i / rate for i in range(round(rate * seconds))]
    steps = sorted([(at, 0) for at in begins] + [(at + latency, 1) for at in begins])
    for at, ends in steps:
        if ends:
            load.end(at, failed=failed)
        else:
            load.begin(at)


@pytest.mark.parametrize("latency", [0.01, 0.1])
def test_utilization_is_calls_in_hand_times_the_cube_root_of_what_one_takes_by_itself(latency: float) -> None:
    load = Load(limit=100)
    run(load, rate=200, latency=latency, seconds=4)
    said, in_hand = report(load), 200 * latency
    assert said.rps_fractional == pytest.approx(200, rel=0.05)
    by_itself = latency / (1 + in_hand)
    assert said.application_utilization == pytest.approx(in_hand / 100 * cbrt(by_itself / ORDINARY_SECONDS), rel=0.1)
    assert said.eps == 0
    assert load.in_flight == 0


def test_streams_fill_a_server_but_weigh_nothing() -> None:
    load = Load(limit=10)
    for _ in range(3):
        load.begin(1.0, unary=False)
    run(load, rate=100, latency=0.001, seconds=2)
    load.end(3.0, failed=True, unary=False)
    assert load.in_flight == 2
    alone = Load(limit=10)
    run(alone, rate=100, latency=0.001, seconds=2)
    assert report(load) == report(alone)


def test_a_server_of_streams_alone_says_nothing() -> None:
    load = Load(limit=10)
    for at in (1.0, 2.0, 3.0):
        load.begin(at, unary=False)
        load.end(at + 0.5, failed=False, unary=False)
    assert load.trailer == ()


def test_faults_of_the_server_are_told() -> None:
    load = Load(limit=10)
    run(load, rate=40, latency=0.01, seconds=2, failed=True)
    assert report(load).eps == pytest.approx(40, rel=0.1)


def test_nothing_is_said_before_there_is_something_to_tell() -> None:
    load = Load(limit=10)
    run(load, rate=100, latency=0.001, seconds=WINDOW_SECONDS / 2)
    assert load.trailer == ()


def test_after_a_pause_a_weight_is_still_that_of_the_latency() -> None:
    load = Load(limit=10)
    run(load, rate=1, latency=0.02, seconds=2)
    before = weight(load)
    run(load, rate=1, latency=0.02, seconds=2, start=100.0)
    assert weight(load) == pytest.approx(before, rel=0.05)


def weight(load: Load) -> float:
    """As gRPC weighs an instance."""
    said = report(load) if load.trailer else OrcaLoadReport()
    return said.rps_fractional / said.application_utilization if said.application_utilization else 0.0


class Instances:
    """Three servers and a caller that weighs them every half a second, all on a clock of their own.

    A call takes its turn on the one CPU of its server, then waits. By the caller's scheduler no instance gets less than
    a hundredth of the mean weight, as in gRPC's C-core.
    """

    def __init__(self, *, work: float, waits: Sequence[float]) -> None:
        self.waits = list(waits)
        self._work = work
        self._loads = [Load(limit=1000) for _ in waits]
        self._free = [0.0] * len(waits)
        self._weights = [1.0] * len(waits)
        self._random = random.Random(1)
        self._ends: list[tuple[float, int, int]] = []
        self._numbers = count()
        self._now = 1.0

    def called(self, rate: float, seconds: float) -> Counter[int]:
        """How many calls each got, that came at random at this rate."""
        got, end = Counter[int](), self._now + seconds
        while self._now < end:
            self._now += (after := self._random.expovariate(rate))
            if (self._now - after) // 0.5 != self._now // 0.5:
                self._weigh()
            got[self._call()] += 1
        return got

    def _call(self) -> int:
        while self._ends and self._ends[0][0] <= self._now:
            at, _, ended = heapq.heappop(self._ends)
            self._loads[ended].end(at, failed=False)
        (chosen,) = self._random.choices(range(len(self.waits)), self._weights)
        self._loads[chosen].begin(self._now)
        self._free[chosen] = max(self._free[chosen], self._now) + self._random.expovariate(1 / self._work)
        heapq.heappush(self._ends, (self._free[chosen] + self.waits[chosen], next(self._numbers), chosen))
        return chosen

    def _weigh(self) -> None:
        weights = [weight(load) for load in self._loads]
        if all(weights):
            self._weights = [max(each, sum(weights) / 300) for each in weights]


def test_an_instance_that_is_200_ms_slower_gets_what_the_scheduler_gives_the_least() -> None:
    made = Instances(work=0.0005, waits=[0.002, 0.002, 0.202])
    made.called(rate=200, seconds=10)
    assert made.called(rate=200, seconds=60)[2] / (200 * 60) == pytest.approx(1 / 300, rel=0.5)


def test_an_instance_that_is_quick_again_soon_has_its_share() -> None:
    made = Instances(work=0.0005, waits=[0.002, 0.002, 0.202])
    made.called(rate=200, seconds=20)
    made.waits[2] = 0.002
    made.called(rate=200, seconds=15)
    assert made.called(rate=200, seconds=5)[2] / (200 * 5) == pytest.approx(1 / 3, rel=0.2)


@pytest.mark.parametrize("busy", [0.3, 0.8, 0.9])
def test_equal_instances_share_evenly_up_to_their_limit(busy: float) -> None:
    made, rate = Instances(work=0.004, waits=[0.001] * 3), 750 * busy
    made.called(rate, seconds=5)
    largest = [max(made.called(rate, seconds=2).values()) / (rate * 2) for _ in range(60)]
    assert median(largest) < 0.38
