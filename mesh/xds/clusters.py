"""A destination as xDS: its cluster and its endpoints, by priority. Pure.

A failover is not another cluster: the instances of the failover target are endpoints of the same cluster at a lower
priority, which every dialect takes (gRFC A27, A56).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Final

from envoy.config.cluster.v3.circuit_breaker_pb2 import CircuitBreakers
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.cluster.v3.outlier_detection_pb2 import OutlierDetection as XdsOutlierDetection
from envoy.config.core.v3.address_pb2 import Address, SocketAddress
from envoy.config.core.v3.base_pb2 import Locality
from envoy.config.core.v3.health_check_pb2 import HealthStatus
from envoy.config.endpoint.v3.endpoint_components_pb2 import Endpoint, LbEndpoint, LocalityLbEndpoints
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from google.protobuf.wrappers_pb2 import UInt32Value

from mesh.policy import Balance, Balancing, Destination, Limits, OutlierDetection
from mesh.registry.model import Instance
from mesh.xds.balancing import weighted_round_robin
from mesh.xds.dialect import Dialect, Unreachable
from mesh.xds.parts import ads, duration
from mesh.xds.security import transport_socket

_NOT_IN_ZONE: Final = re.compile(r"[^A-Za-z0-9.]+")
"""What the zone of an IPv6 address may not have, for Node.js."""

_UNLIMITED: Final = 1_000_000

Groups = Iterable[tuple[Instance, ...]]
"""Instances of a destination, then those of its failover targets in order."""


def cluster(
    destination: Destination, endpoints_name: str, dialect: Dialect, spiffe_ids: tuple[str, ...] = ()
) -> Cluster:
    """How a destination is balanced, and what it must prove to be, if it is reached over TLS.

    Envoy's needs its upstream protocol beside it, and its own way to certificates: the edge adds those.
    """
    made = Cluster(
        name=str(destination.target),
        type=Cluster.EDS,
        eds_cluster_config=Cluster.EdsClusterConfig(eds_config=ads(), service_name=endpoints_name),
        connect_timeout=duration(destination.connect_timeout_seconds),
        circuit_breakers=_circuit_breakers(destination.limits, dialect),
        outlier_detection=_outlier_detection(destination.outlier_detection, dialect),
    )
    _balance(made, destination.balancing, dialect)
    if dialect.envoy:
        # Balancing over instances that are known to be sick helps nobody.
        made.common_lb_config.healthy_panic_threshold.value = 0
    elif spiffe_ids:
        made.transport_socket.CopyFrom(transport_socket(spiffe_ids))
    return made


def endpoints(name: str, groups: Groups, zone: str = "") -> ClusterLoadAssignment:
    """Instances by priority, each zone weighing as many as it has. The caller's own zone comes before the others."""
    levels = [level for group in _once(groups) for level in _by_nearness(group, zone) if level]
    return ClusterLoadAssignment(
        cluster_name=name,
        endpoints=[made for priority, level in enumerate(levels) for made in _localities(level, priority)],
    )


def why_nobody(destination: Destination, *, registered: bool, is_plain: bool = False) -> str:
    """C-core prints this name when there is nothing to connect to, so it says why.

    `is_plain`: it has instances, none of which speaks TLS, and none may be called without.
    """
    if is_plain:
        return f"{destination.target} (no instance that speaks TLS, and it is not permissive)"
    return f"{destination.target} ({'no healthy instance' if registered else 'not registered in Consul'})"


def nobody(why: str, dialect: Dialect) -> tuple[Instance, ...]:
    """An instance whose address says why, so that dialing it fails at once and prints it; none where that helps."""
    if dialect.unreachable in (Unreachable.EMPTY_CLUSTER, Unreachable.NO_ROUTE):
        return ()
    address = why
    if dialect.unreachable is Unreachable.NAMED_ZONE:
        address = "::1%" + _NOT_IN_ZONE.sub("-", why).strip("-")
    return (Instance(service="", id="nobody", address=address, port=1),)


def _once(groups: Groups) -> Iterator[list[Instance]]:
    """The groups without addresses that came before: clients refuse one that is there twice."""
    seen: set[tuple[str, int]] = set()
    for group in groups:
        fresh = []
        for instance in group:
            if (instance.address, instance.port) not in seen:
                seen.add((instance.address, instance.port))
                fresh.append(instance)
        yield fresh


def _by_nearness(group: list[Instance], zone: str) -> tuple[list[Instance], ...]:
    if not zone:
        return (group,)
    return [i for i in group if _zone(i) == zone], [i for i in group if _zone(i) != zone]


def _zone(instance: Instance) -> str:
    return instance.meta.get("zone", "")


def _localities(instances: list[Instance], priority: int) -> Iterator[LocalityLbEndpoints]:
    by_zone = sorted(instances, key=lambda i: (_zone(i), i.id))
    for zone, members in groupby(by_zone, key=_zone):
        held = [_endpoint(instance) for instance in members]
        yield LocalityLbEndpoints(
            locality=Locality(zone=zone),
            load_balancing_weight=UInt32Value(value=len(held)),
            lb_endpoints=held,
            priority=priority,
        )


def _endpoint(instance: Instance) -> LbEndpoint:
    address = Address(socket_address=SocketAddress(address=instance.address, port_value=instance.port))
    return LbEndpoint(endpoint=Endpoint(address=address), health_status=HealthStatus.HEALTHY)


def _balance(made: Cluster, balancing: Balancing, dialect: Dialect) -> None:
    kind = dialect.nearest(balancing.kind)
    made.lb_policy = _LB_POLICY[kind]
    if kind is Balance.RING_HASH and balancing.kind is not Balance.RANDOM:
        made.ring_hash_lb_config.minimum_ring_size.value = balancing.min_ring_size
        made.ring_hash_lb_config.maximum_ring_size.value = balancing.max_ring_size
    elif kind is Balance.LEAST_REQUEST:
        made.least_request_lb_config.choice_count.value = balancing.choices
    elif kind is Balance.WEIGHTED_ROUND_ROBIN:
        made.load_balancing_policy.CopyFrom(weighted_round_robin(balancing))


_LB_POLICY: Final = {
    Balance.ROUND_ROBIN: Cluster.ROUND_ROBIN,
    Balance.RANDOM: Cluster.RANDOM,
    Balance.RING_HASH: Cluster.RING_HASH,
    Balance.MAGLEV: Cluster.MAGLEV,
    Balance.LEAST_REQUEST: Cluster.LEAST_REQUEST,
    Balance.WEIGHTED_ROUND_ROBIN: Cluster.ROUND_ROBIN,
}


def _circuit_breakers(limits: Limits, dialect: Dialect) -> CircuitBreakers:
    """No limit unless a policy sets one: the default of 1,024 calls would end long streams at the edge."""
    made = CircuitBreakers.Thresholds(max_requests=_limit(limits.max_requests))
    if dialect.envoy:
        made.max_connections.CopyFrom(_limit(limits.max_connections))
        made.max_pending_requests.CopyFrom(_limit(limits.max_pending_requests))
        made.retry_budget.budget_percent.value = 20
        made.retry_budget.min_retry_concurrency.value = 20
    return CircuitBreakers(thresholds=[made])


def _limit(value: int | None) -> UInt32Value:
    return UInt32Value(value=_UNLIMITED if value is None else value)


def _outlier_detection(wanted: OutlierDetection, dialect: Dialect) -> XdsOutlierDetection:
    """Out for a while when most of at least ten calls in five seconds failed (gRFC A50), unless a policy differs."""
    made = XdsOutlierDetection(
        interval=duration(wanted.interval_seconds),
        base_ejection_time=duration(wanted.base_ejection_seconds),
        max_ejection_time=duration(wanted.max_ejection_seconds),
        max_ejection_percent=UInt32Value(value=wanted.max_ejection_percent),
        enforcing_failure_percentage=UInt32Value(value=0),
        enforcing_success_rate=UInt32Value(value=0),
    )
    if by_share := wanted.failure_percentage:
        made.failure_percentage_threshold.value = by_share.threshold
        made.enforcing_failure_percentage.value = by_share.enforcement
        made.failure_percentage_minimum_hosts.value = by_share.minimum_hosts
        made.failure_percentage_request_volume.value = by_share.request_volume
    if by_rate := wanted.success_rate:
        made.success_rate_stdev_factor.value = by_rate.stdev_factor
        made.enforcing_success_rate.value = by_rate.enforcement
        made.success_rate_minimum_hosts.value = by_rate.minimum_hosts
        made.success_rate_request_volume.value = by_rate.request_volume
    if dialect.envoy:
        # What the others do not know: failures in a row, whatever their share.
        made.enforcing_consecutive_5xx.value = 0
        made.enforcing_consecutive_gateway_failure.value = 100 if wanted.consecutive_failures else 0
        made.consecutive_gateway_failure.value = wanted.consecutive_failures or 5
    return made
