"""What the launcher tells Prometheus of the processes that it keeps running."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from mesh.metrics_page import ANY, Place, listed
from mesh.up.lifecycle import State

if TYPE_CHECKING:
    from pathlib import Path

    from mesh.up.unit import Unit


@contextmanager
def shown(units: Mapping[str, Unit], run: Path, place: Place = ANY) -> Iterator[None]:
    """Show the metrics of this process and of these units while the context is open; `run` and `place` as `listed`."""
    processes = Processes(units)
    REGISTRY.register(processes)
    try:
        with listed(run, "launcher", place):
            yield
    finally:
        REGISTRY.unregister(processes)


class Processes(Collector):
    """States and restarts, as they are when somebody looks."""

    def __init__(self, units: Mapping[str, Unit]) -> None:
        self._units = units

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        """One series for each process and state, one for each process."""
        states = GaugeMetricFamily(
            "launcher_process_state", "1 for the state that a process is in, 0 for others.", labels=("process", "state")
        )
        restarts = CounterMetricFamily(
            "launcher_process_restarts", "How often a process was started again after it died.", labels=("process",)
        )
        for name, unit in self._units.items():
            status = unit.status.value
            restarts.add_metric((name,), status.restarts)
            for state in State:
                states.add_metric((name, state), state is status.state)
        yield states
        yield restarts
