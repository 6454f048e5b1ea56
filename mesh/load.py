"""How busy a server is, as a balancer needs it: told in the trailer of its calls, as ORCA reports. Pure.

A call that a servicer ends by `context.abort` tells nothing: gRPC has then sent the trailer already.

By Little's law the calls in hand, averaged over time, are rate times latency. A balancer that weighs an instance by
rate / utilization (gRFC A58) so weighs it by 1 / latency: a slow or overloaded one gets less work.
https://github.com/grpc/proposal/blob/master/A51-custom-backend-metrics.md
"""

from __future__ import annotations

from dataclasses import dataclass

from xds.data.orca.v3.orca_load_report_pb2 import OrcaLoadReport

REPORT_KEY = "endpoint-load-metrics-bin"
WINDOW_SECONDS = 0.25
"""A report tells the averages of at least so long, and is told until there is a new one."""


@dataclass
class Load:
    """Calls in hand of one server, and what it reports. Times are in seconds, on any clock that only goes forward."""

    limit: int
    """Calls in hand at which the server is full."""
    in_flight: int = 0
    trailer: tuple[tuple[str, bytes], ...] = ()
    """Metadata with the newest report; empty before the first."""
    _since: float = 0.0
    _changed: float = 0.0
    _area: float = 0.0
    _ended: int = 0
    _failed: int = 0

    def begin(self, now: float) -> None:
        """A call began."""
        if not self._since:
            self._since = self._changed = now
        self._count(now, 1)

    def end(self, now: float, *, failed: bool) -> None:
        """A call ended, failed by a fault of the server or not."""
        self._count(now, -1)
        self._ended += 1
        self._failed += failed
        if now - self._since >= WINDOW_SECONDS:
            self._report(now - self._since)
            self._since, self._area, self._ended, self._failed = now, 0.0, 0, 0

    def _count(self, now: float, change: int) -> None:
        self._area += self.in_flight * (now - self._changed)
        self._changed = now
        self.in_flight += change

    def _report(self, seconds: float) -> None:
        report = OrcaLoadReport(
            application_utilization=self._area / seconds / self.limit,
            rps_fractional=self._ended / seconds,
            eps=self._failed / seconds,
        )
        self.trailer = ((REPORT_KEY, report.SerializeToString()),)
