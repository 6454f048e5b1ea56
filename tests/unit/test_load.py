"""What a server says of its load."""

from __future__ import annotations

import pytest
from xds.data.orca.v3.orca_load_report_pb2 import OrcaLoadReport

from mesh.load import REPORT_KEY, WINDOW_SECONDS, Load


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
def test_utilization_is_rate_times_latency_of_the_limit(latency: float) -> None:
    load = Load(limit=100)
    run(load, rate=200, latency=latency, seconds=4)
    said = report(load)
    assert said.rps_fractional == pytest.approx(200, rel=0.05)
    assert said.application_utilization == pytest.approx(200 * latency / 100, rel=0.1)
    assert said.eps == 0
    assert load.in_flight == 0


def test_streams_fill_a_server_but_weigh_nothing() -> None:
    load = Load(limit=10)
    for _ in range(3):
        load.begin(1.0, unary=False)
    run(load, rate=100, latency=0.001, seconds=2)
    load.end(3.0, failed=True, unary=False)
    assert load.in_flight == 2
    assert report(load).application_utilization == pytest.approx(0.1 / 10, rel=0.05)
    assert report(load).eps == 0


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


def test_after_a_pause_the_ratio_of_rate_and_utilization_is_still_that_of_the_latency() -> None:
    load = Load(limit=10)
    run(load, rate=100, latency=0.02, seconds=2)
    run(load, rate=1, latency=0.02, seconds=2, start=100.0)
    said = report(load)
    assert said.application_utilization * 10 / said.rps_fractional == pytest.approx(0.02, rel=0.05)
