"""What services count and measure of their work; docs/metrics.md explains each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
from prometheus_client import REGISTRY, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from mesh import Error
from mesh.recovery import time_of_day
from services.paging import micros
from services.totals import OLDEST, WAITING, Model

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence


class Tally:
    """One kind of work: what became of each piece of it, what went wrong, and how long it took.

    Pieces are told apart by labels. The statuses and kinds of errors that are known begin at 0, as rates need that: at
    once, or where there are labels, with `begin`.
    """

    def __init__(
        self,
        name: str,
        what: str,
        *,
        seconds: Sequence[float],
        statuses: Iterable[str] = (),
        errors: Iterable[str] = (),
        labels: tuple[str, ...] = (),
    ) -> None:
        self._ended = Counter(f"{name}_total", f"{what} that ended, by what became of them.", (*labels, "status"))
        self._errors = Counter(f"{name}_errors_total", f"What went wrong with {what}.", (*labels, "error_type"))
        self._seconds = Histogram(f"{name}_duration_seconds", f"How long {what} took.", labels, buckets=seconds)
        self._statuses, self._kinds = tuple(statuses), tuple(errors)
        if not labels:
            self.begin()

    def begin(self, *labels: str) -> None:
        """Show that no piece with these labels has ended, or failed, unless one has."""
        for status in self._statuses:
            self._ended.labels(*labels, status)
        for kind in self._kinds:
            self._errors.labels(*labels, kind)

    def ended(self, status: str, seconds: float | None, error: str = "", *labels: str) -> None:
        """One piece ended: after so long, None where it was not begun; with what kind of error, if any."""
        self._ended.labels(*labels, status).inc()
        if error:
            self._errors.labels(*labels, error).inc()
        if seconds is not None:
            (self._seconds.labels(*labels) if labels else self._seconds).observe(seconds)


class Queue(Collector):
    """How many wait, and for how long the oldest does; nothing while that is not known."""

    def __init__(self, name: str, what: str, waiting: str = WAITING) -> None:
        """`waiting` says which of the counts of `services.totals` is how many."""
        self._name, self._what, self._waiting = name, what, waiting
        self._counts: Model | None = None
        REGISTRY.register(self)

    def told(self, counts: Model | None) -> None:
        """What was counted last."""
        self._counts = counts

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """As prometheus_client asks for it, in a thread of its own."""
        waiting = GaugeMetricFamily(f"{self._name}_waiting", f"{self._what}.")
        age = GaugeMetricFamily(f"{self._name}_age_seconds", f"Age of the oldest of these: {self._what}.")
        if (counts := self._counts) is not None:
            now = micros(time_of_day())
            waiting.add_metric((), counts.get(self._waiting, 0))
            age.add_metric((), max(0, now - counts.get(OLDEST, now)) / 1e6)
        yield from (waiting, age)


def error_type(error: BaseException) -> str:
    """The kind of an error, of which there are few: a code where it has one, else its class."""
    if isinstance(error, Error):
        return error.code.name
    if isinstance(error, grpc.aio.AioRpcError):
        return error.code().name
    return type(error).__name__
