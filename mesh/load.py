"""How busy a server is, as a balancer needs it: told in the trailer of its calls, as ORCA reports. Pure.

A call that a servicer ends by `context.abort` tells nothing: gRPC has then sent the trailer already.

By Little's law the calls in hand, averaged over time, are rate times latency. A balancer that weighs an instance by
rate / utilization (gRFC A58) weighs it by 1 / latency if utilization is calls in hand / limit. An instance that is 80
times slower than two others so keeps 0.6 % of the calls, too near to the 1 % that make a p99. So utilization rises in
more than proportion to how slow the server is, by the cube root of what a call takes by itself: one that is 45 times
slower comes down to the least that gRPC's scheduler gives one of three, 0.33 %.
What a call takes by itself is latency / (1 + calls in hand), as each waits for those before it: a server that is only
busy is not told to be slow, or equal ones near their limit would pass the load around among them.
Streams are not told: one lasts as long as its caller likes, so that ten quiet watchers would cost an instance nearly
all of its other calls.
https://github.com/grpc/proposal/blob/master/A51-custom-backend-metrics.md
"""

from __future__ import annotations

from dataclasses import dataclass
from math import cbrt, exp, sqrt

from xds.data.orca.v3.orca_load_report_pb2 import OrcaLoadReport

REPORT_KEY = "endpoint-load-metrics-bin"
REPORTS_LOAD = ("meshwright-load", "orca")
"""Metadata by which a server says, when it is asked what it offers, that it tells its load."""

WINDOW_SECONDS = 0.25
"""There is a new report at most so often, and it is told until there is the next."""

MEMORY_SECONDS = 2.0
"""After so long an earlier call counts e times less: one long call among short ones makes no slow server. While n calls
are in hand it is sqrt(1 + n) times as long: what is said of a queue must not change faster than the queue does."""

ORDINARY_SECONDS = 0.01
"""Utilization is calls in hand / limit where a call takes so long by itself. The same in all servers of a service."""


@dataclass
class Load:
    """Calls in hand of one server, and what it reports. Times are in seconds, on any clock that only goes forward."""

    limit: int
    """Calls in hand at which the server is full."""
    in_flight: int = 0
    """Calls in hand, streams included."""
    trailer: tuple[tuple[str, bytes], ...] = ()
    """Metadata with the newest report; empty before the first."""
    _busy: int = 0
    _since: float = 0.0
    _changed: float = 0.0
    _seconds: float = 0.0
    _area: float = 0.0
    _ended: float = 0.0
    _failed: float = 0.0

    @property
    def streams(self) -> int:
        """Calls in hand with a stream either way."""
        return self.in_flight - self._busy

    def begin(self, now: float, *, unary: bool = True) -> None:
        """A call began."""
        self.in_flight += 1
        if not unary:
            return
        if not self._since:
            self._since = self._changed = now
        self._count(now, 1)

    def end(self, now: float, *, failed: bool, unary: bool = True) -> None:
        """A call ended, failed by a fault of the server or not."""
        self.in_flight -= 1
        if not unary:
            return
        self._count(now, -1)
        self._ended += 1
        self._failed += failed
        if now - self._since >= WINDOW_SECONDS:
            self._seconds += now - self._since
            self._report()
            self._fade(exp(-(now - self._since) / MEMORY_SECONDS / sqrt(1 + self._busy)))
            self._since = now

    def _count(self, now: float, change: int) -> None:
        self._area += self._busy * (now - self._changed)
        self._changed = now
        self._busy += change

    def _fade(self, rest: float) -> None:
        self._seconds *= rest
        self._area *= rest
        self._ended *= rest
        self._failed *= rest

    def _report(self) -> None:
        in_hand = self._area / self._seconds
        by_itself = self._area / self._ended / (1 + in_hand)
        report = OrcaLoadReport(
            application_utilization=in_hand / self.limit * cbrt(by_itself / ORDINARY_SECONDS),
            rps_fractional=self._ended / self._seconds,
            eps=self._failed / self._seconds,
        )
        self.trailer = ((REPORT_KEY, report.SerializeToString()),)
