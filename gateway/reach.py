"""Which instances Envoy leaves out because it cannot connect to them, as it says itself at its admin socket.

The registry has them as healthy, by a sidecar that is on their host: so what is broken is the way from here to there.
https://www.envoyproxy.io/docs/envoy/latest/operations/admin#get--clusters?format=json
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from gateway.admin import read
from mesh.findings import bad, count
from mesh.ports import with_port
from meshwright.check.v1.check_service_pb2 import Finding


class Unreachable(NamedTuple):
    """One instance."""

    service: str
    """Or a target of config entries, as in `order:v2`."""
    host: str
    port: int
    failures: int
    """Attempts to connect that failed so far."""

    @property
    def address(self) -> str:
        """Host and port."""
        return with_port(self.host, self.port)

    def finding(self) -> Finding:
        """What `mesh check` says of it."""
        text = (
            f"Envoy cannot connect to {self.service} at {self.address}, which the registry has as healthy:"
            f" {count(self.failures, 'attempt')} failed, and it gets no calls from here"
        )
        return bad("gateway", text, f"nc -vz -w 5 {self.host} {self.port}  # on this host: what is in between drops it")


def ask(admin: Path) -> list[Unreachable]:
    """Those of now; none when no Envoy answers in time."""
    with suppress(OSError, ValueError, http.client.HTTPException):
        return [*unreachable(json.loads(read(admin, "/clusters?format=json")))]
    return []


def unreachable(told: Mapping[str, Any]) -> Iterator[Unreachable]:
    """Out of Envoy's answer: those that it has ejected and has no connection to, after attempts that failed."""
    for cluster in told.get("cluster_statuses", ()):
        for host in cluster.get("host_statuses", ()):
            stats = {one["name"]: int(one.get("value", 0)) for one in host["stats"]}
            place = host["address"].get("socket_address")
            ejected = host["health_status"].get("failed_outlier_check", False)
            if place and ejected and stats["cx_connect_fail"] and not stats["cx_active"]:
                yield Unreachable(cluster["name"], place["address"], place["port_value"], stats["cx_connect_fail"])


class Reach(Collector):
    """Tells Prometheus of them."""

    def __init__(self, admin: Path) -> None:
        self._admin = admin

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Asks Envoy each time; a series for each that is out."""
        family = GaugeMetricFamily(
            "gateway_instance_unreachable",
            "1 for an instance that Envoy leaves out because it cannot connect to it.",
            labels=("service", "address"),
        )
        for one in ask(self._admin):
            family.add_metric((one.service, one.address), 1)
        yield family
