"""Envoy's own statistics on the page of metrics of its control process: nothing but that may ask for them.

Of some four hundred families the ones are shown that tell how the edge fares, under Envoy's own names where Prometheus
takes those. https://www.envoyproxy.io/docs/envoy/latest/configuration/upstream/cluster_manager/cluster_stats
"""

from __future__ import annotations

import http.client
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeAlias, TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from gateway import admin
from gateway.denials import BY
from gateway.denials import PAGE as DENIALS
from gateway.refusals import BY_INTENTION
from mesh.metrics import OTHER

One = TypeVar("One", CounterMetricFamily, GaugeMetricFamily)
Family: TypeAlias = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily

MOST_CLUSTERS: Final = 200
"""Services and their targets beyond these are shown as one."""

_CLUSTER, _CLASS = "envoy_cluster_name", "envoy_response_code_class"
_TIME: Final = "envoy_http_downstream_rq_time"

_COUNTERS: Final = {  # as the parser has them: it ends the name of each as Prometheus wants it
    "envoy_http_downstream_rq_total": ((), "Requests that came to Envoy."),
    "envoy_http_downstream_rq_xx_total": ((_CLASS,), "Requests that Envoy answered, by the first digit of the status."),
    "envoy_http_rbac_denied_total": ((), "Requests that it refused, as an intention denies them."),
    "envoy_http_rbac_policy_denied_total": ((BY,), "Of these, by the intention."),
    "envoy_cluster_upstream_rq_total": ((_CLUSTER,), "Requests that Envoy sent to a service, attempts included."),
    "envoy_cluster_upstream_rq_retry_total": ((_CLUSTER,), "Of these, later attempts."),
    "envoy_cluster_upstream_rq_timeout_total": ((_CLUSTER,), "Of these, those that took too long."),
    "envoy_cluster_upstream_rq_pending_overflow_total": ((_CLUSTER,), "Requests that it kept back."),
    "envoy_cluster_upstream_cx_connect_fail_total": ((_CLUSTER,), "Attempts of Envoy to connect that failed."),
}
_GAUGES: Final = {
    "envoy_server_live": ((), "1 while Envoy takes requests."),
    "envoy_server_memory_allocated": ((), "Bytes of Envoy's heap that are in use."),
    "envoy_http_downstream_cx_active": ((), "Connections of callers to Envoy."),
    "envoy_http_downstream_rq_active": ((), "Requests that Envoy is at."),
    "envoy_cluster_upstream_cx_active": ((_CLUSTER,), "Connections of Envoy to a service."),
    "envoy_cluster_upstream_rq_active": ((_CLUSTER,), "Requests that a service is at, for Envoy."),
    "envoy_cluster_membership_healthy": ((_CLUSTER,), "Instances of a service that Envoy sends requests to."),
}
_PAGE: Final = (
    "/stats/prometheus?filter="
    r"^http\.edge\.downstream_(rq_(total|.xx|active|time)|cx_active)$"
    rf"|^http\.edge\.rbac\.intentions\.denied$|{DENIALS}"
    r"|^cluster\..*\.(upstream_rq_(total|retry|timeout|pending_overflow|active)|upstream_cx_(connect_fail|active))$"
    r"|^cluster\..*\.membership_healthy$"
    r"|^server\.(live|memory_allocated)$"
)


def ask(socket: Path) -> str:
    """Envoy's page of what is shown here; empty when no Envoy answers in time."""
    with suppress(OSError, ValueError, http.client.HTTPException):
        return admin.read(socket, _PAGE).decode()
    return ""


def families(page: str) -> Iterator[Family]:
    """Out of Envoy's page: all families, also those of which it has nothing. Pure."""
    found: dict[str, list[Sample]] = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(sample)
    clusters = sorted({one.labels[_CLUSTER] for samples in found.values() for one in samples if _CLUSTER in one.labels})
    shown = frozenset(clusters[:MOST_CLUSTERS])
    for name, (labels, text) in _COUNTERS.items():
        yield _filled(CounterMetricFamily(name, text, labels=labels), labels, found.get(name, ()), shown)
    for name, (labels, text) in _GAUGES.items():
        yield _filled(GaugeMetricFamily(name, text, labels=labels), labels, found.get(name, ()), shown)
    yield _durations(found)


def _filled(family: One, labels: tuple[str, ...], samples: Iterable[Sample], shown: frozenset[str]) -> One:
    sums: dict[tuple[str, ...], float] = {}
    for sample in samples:
        key = tuple(_bounded(label, sample.labels.get(label, ""), shown) for label in labels)
        sums[key] = sums.get(key, 0.0) + sample.value
    for key, value in sums.items():
        family.add_metric(key, value)
    return family


def _bounded(label: str, value: str, shown: frozenset[str]) -> str:
    return value.removeprefix(BY_INTENTION) if label != _CLUSTER or value in shown else OTHER


def _durations(found: Mapping[str, list[Sample]]) -> HistogramMetricFamily:
    """In seconds; Envoy has milliseconds."""
    family = HistogramMetricFamily(
        "gateway_request_duration_seconds", "How long Envoy took to answer a request, streams included."
    )
    buckets = [(_seconds(one.labels["le"]), one.value) for one in found.get(f"{_TIME}_bucket", ())]
    if buckets:
        family.add_metric((), buckets, sum_value=sum(one.value for one in found.get(f"{_TIME}_sum", ())) / 1000)
    return family


def _seconds(bound: str) -> str:
    return bound if bound == "+Inf" else repr(float(bound) / 1000)


class Statistics(Collector):
    """Asks Envoy each time."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    def collect(self) -> Iterator[Family]:
        """As Envoy has them now."""
        return families(ask(self._socket))
