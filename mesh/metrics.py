"""What a process counts and measures of itself; `mesh.metrics_page` shows it, docs/metrics.md explains each.

All is in prometheus_client's own registry, so that whatever else a program puts there is shown too. Recording a call
takes about a microsecond.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Final

from prometheus_client import Counter, Gauge, Histogram, disable_created_metrics

from mesh.recovery import now

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from mesh.errors import Code

# A series more for each series, which Prometheus does not use.
disable_created_metrics()  # type: ignore[no-untyped-call]

CALL_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""Bounds of durations of calls. https://opentelemetry.io/docs/specs/semconv/rpc/rpc-metrics/"""

EXAMPLE_SECONDS: Final = 1.0
"""How long a bucket keeps its example: a new one takes as long as all else that is counted of a call."""

OTHER: Final = "_OTHER"
"""Stands for methods that no contract names, by the same conventions: callers can make up any number of those."""

MOST_METHODS: Final = 1000
"""Methods of one side beyond these are shown as one: a proxy's are its callers' choice."""

MOST_SOURCES: Final = 500
"""Callers of a server beyond these are counted as one."""

SERVED = Histogram(
    "rpc_server_call_duration_seconds",
    "How long this process took to answer a call.",
    ("rpc_method", "rpc_response_status_code"),
    buckets=CALL_SECONDS,
)
SENT = Histogram(
    "rpc_client_call_duration_seconds",
    "How long a call took that this process sent, with all its attempts.",
    ("rpc_method", "rpc_response_status_code", "server_address"),
    buckets=CALL_SECONDS,
)
LOOP_LAG = Histogram(
    "event_loop_lag_seconds",
    "How late the event loop ran a timer that was due, measured four times a second.",
    buckets=(0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
LOOP_STALL = Gauge("event_loop_stall_seconds", "How long the event loop is late by now: it grows while it is blocked.")
LOOP_STALLS = Counter(
    "event_loop_stalls_total", "How often the event loop was held up longer than MESH_STALL_SECONDS; the log has more."
)

SPANS_EXPORTED = Counter("telemetry_spans_exported_total", "Spans that this process has sent by OTLP.")
SPANS_DROPPED = Counter("telemetry_spans_dropped_total", "Spans of this process that were lost, and why.", ("reason",))

XDS_STREAMS = Gauge("xds_streams", "Clients that this process serves by xDS.")
XDS_PUSHES = Counter("xds_pushes_total", "Responses sent to clients of xDS.", ("type",))
XDS_ACKS = Counter("xds_acks_total", "Responses that a client of xDS took.", ("type",))
XDS_NACKS = Counter("xds_nacks_total", "Responses that a client of xDS refused; `mesh ps --wide` says why.", ("type",))
SNAPSHOT_AGE = Gauge(
    "mesh_snapshot_age_seconds", "How long ago the registry answered last, which what is served by xDS is made of."
)
PROPAGATION = Histogram(
    "mesh_propagation_seconds",
    "From a change that the registry told of until a client of xDS that it concerns had taken it.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)


DECISIONS = Counter(
    "mesh_intention_decisions_total",
    "Calls that intentions let in or not, by the service that called; unknown where there are none to go by.",
    ("source", "decision"),
)


class Decisions:
    """Counts what is decided of calls."""

    __slots__ = ("_of",)

    def __init__(self) -> None:
        self._of: dict[tuple[str, bool | None], Counter] = {}

    def count(self, source: str, allowed: bool | None) -> None:
        """A call of a service, empty for a stranger, was allowed, denied, or not decided: None."""
        counter = self._of.get((source, allowed))
        if counter is None:
            word = "unknown" if allowed is None else "allow" if allowed else "deny"
            shown = source if len(self._of) < MOST_SOURCES else OTHER
            counter = self._of[source, allowed] = DECISIONS.labels(shown, word)
        counter.inc()


class Durations:
    """Durations of the calls of one method, by status."""

    __slots__ = ("_examples", "_family", "_labels", "_of_code")

    def __init__(self, family: Histogram, method: str, *labels: str) -> None:
        self._family = family
        self._labels = (_bounded(family, method), labels)
        self._of_code: dict[Code, Histogram] = {}
        self._examples: dict[tuple[Code, int], float] = {}
        """When a bucket of a code may have its next example."""

    def record(self, code: Code, seconds: float, span: Span | None = None) -> None:
        """A call ended; one whose trace is kept becomes the example of its bucket, unless that has a fresh one."""
        of_code = self._of_code.get(code)
        if of_code is None:
            method, labels = self._labels
            of_code = self._of_code[code] = self._family.labels(method, code.name, *labels)
        traced = span and (span.is_recording() or span.get_span_context().trace_flags.sampled)
        of_code.observe(seconds, self._example(span, code, seconds) if span and traced else None)

    def _example(self, span: Span, code: Code, seconds: float) -> dict[str, str] | None:
        key, at = (code, bisect_left(CALL_SECONDS, seconds)), now()
        if at < self._examples.get(key, 0.0):
            return None
        context = span.get_span_context()
        if not context.trace_flags.sampled:
            return None
        self._examples[key] = at + EXAMPLE_SECONDS
        return {"trace_id": f"{context.trace_id:032x}"}


_seen: dict[Histogram, set[str]] = {SERVED: set(), SENT: set()}


def _bounded(family: Histogram, method: str) -> str:
    seen = _seen[family]
    if method not in seen and len(seen) >= MOST_METHODS:
        return OTHER
    seen.add(method)
    return method
