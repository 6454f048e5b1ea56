"""Queries of dashboards: what a line shows, with the labels that tell lines apart as its legend. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from mesh import errors, metrics

INTERVAL = "$__rate_interval"
"""The shortest window that makes sense for a rate, as Grafana knows it."""

FAULTS = f'rpc_response_status_code=~"{"|".join(code.name for code in sorted(errors.FAULTS))}"'
"""Codes of calls that failed by no fault of the caller; the alert rules have the same."""

NAMED = f'rpc_method!="{metrics.OTHER}"'
"""Calls of methods that there are: a service's callers can make up any number of others."""

JOB = 'job="$job"'
"""The service that was chosen."""

PARTS = 'job=~"sidecar|gateway"'
"""Those who speak xDS."""


@dataclass(frozen=True)
class Query:
    """One expression of PromQL."""

    expr: str
    legend: str = ""


def rate(counter: str, *by: str, where: str = "") -> Query:
    """How fast a counter grows, in a second."""
    return _sum(f"rate({_of(counter, where)}[{INTERVAL}])", by)


def rise(counter: str, *by: str, where: str = "", window: str = INTERVAL) -> Query:
    """By how much a counter grew."""
    return _sum(f"increase({_of(counter, where)}[{window}])", by)


def total(gauge: str, *by: str, where: str = "") -> Query:
    """The sum of a gauge that is each process's own."""
    return _sum(_of(gauge, where), by)


def most(gauge: str, *by: str, where: str = "") -> Query:
    """The largest: of a gauge that all replicas know, what each says."""
    return Query(f"max {_by(by)}({_of(gauge, where)})", _legend(by))


def failed(histogram: str, *by: str, where: str = "") -> Query:
    """Which share of calls failed by no fault of the caller."""
    count, faults = f"{histogram}_count", ", ".join(filter(None, (where, FAULTS)))
    everything = rate(count, *by, where=where).expr
    return Query(f"({rate(count, *by, where=faults).expr} or 0 * {everything}) / {everything}", _legend(by))


def p(quantile: float, histogram: str, *by: str, where: str = "", window: str = INTERVAL) -> Query:
    """A quantile."""
    buckets = f"sum by ({', '.join((*by, 'le'))}) (rate({_of(f'{histogram}_bucket', where)}[{window}]))"
    return Query(f"histogram_quantile({quantile}, {buckets})", _legend(by) or f"p{round(quantile * 100)}")


def quantiles(histogram: str, *, where: str = "", window: str = INTERVAL) -> tuple[Query, ...]:
    """The median, and what one in ten and one in a hundred are beyond."""
    return tuple(p(one, histogram, where=where, window=window) for one in (0.5, 0.9, 0.99))


def _sum(expr: str, by: tuple[str, ...]) -> Query:
    return Query(f"sum {_by(by)}({expr})", _legend(by))


def _of(metric: str, where: str) -> str:
    return f"{metric}{{{where}}}" if where else metric


def _by(labels: tuple[str, ...]) -> str:
    return f"by ({', '.join(labels)}) " if labels else ""


def _legend(labels: tuple[str, ...]) -> str:
    return " ".join(f"{{{{{label}}}}}" for label in labels)
