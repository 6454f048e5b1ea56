"""What became of the spans that the console was sent, as metrics."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from console.store import Counts


class Kept(Collector):
    """The store's own counts, read whenever somebody asks for metrics; any thread may."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts

    def collect(self) -> Iterator[CounterMetricFamily]:
        """A counter for each fate of a span."""
        now = self._counts
        yield CounterMetricFamily("console_spans_stored", "Spans that were sent and stored.", now.stored)
        yield CounterMetricFamily(
            "console_spans_dropped", "Stored spans that newer ones took the place of.", now.dropped_spans
        )
        yield CounterMetricFamily("console_spans_refused", "Spans that were not valid; the log says why.", now.refused)
