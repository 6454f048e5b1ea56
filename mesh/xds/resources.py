"""A service of the catalog as xDS resources: cluster, endpoints, routes, listener. Pure.

For proxyless gRPC clients (gRFC A27, A28, A44) and, with the same parts, for the edge.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import timedelta
from itertools import groupby
from typing import Final

from envoy.config.cluster.v3.circuit_breaker_pb2 import CircuitBreakers
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.cluster.v3.outlier_detection_pb2 import OutlierDetection
from envoy.config.core.v3.address_pb2 import Address, SocketAddress
from envoy.config.core.v3.base_pb2 import Locality
from envoy.config.core.v3.config_source_pb2 import AggregatedConfigSource, ApiVersion, ConfigSource
from envoy.config.core.v3.health_check_pb2 import HealthStatus
from envoy.config.endpoint.v3.endpoint_components_pb2 import Endpoint, LbEndpoint, LocalityLbEndpoints
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.api_listener_pb2 import ApiListener
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_components_pb2 import (
    RetryPolicy,
    Route,
    RouteAction,
    RouteMatch,
    VirtualHost,
)
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.http.router.v3.router_pb2 import Router
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
    HttpFilter,
    Rds,
)
from envoy.extensions.retry.host.previous_hosts.v3.previous_hosts_pb2 import PreviousHostsPredicate
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.wrappers_pb2 import UInt32Value

from mesh.catalog import Service
from mesh.policy import MethodPolicy, Policy, Retry
from mesh.registry.model import Instance
from mesh.xds.dialect import Dialect, Unreachable

NEVER_SEEN: Final = "connect-failure,refused-stream"
"""Envoy's words for a call that no server has seen: sent again whatever the method."""

MAY_HAVE_BEGUN: Final = "reset"
"""Envoy's word for a connection that broke under the call: sent again only for idempotent methods."""

_NOT_IN_ZONE: Final = re.compile(r"[^A-Za-z0-9.]+")
"""What the zone of an IPv6 address may not have, for Node.js."""

_UNLIMITED: Final = UInt32Value(value=1_000_000)


def proxyless(service: Service, policy: Policy, dialect: Dialect) -> tuple[Message, ...]:
    """All that a gRPC client needs to dial `xds:///<service>`: listener, routes, cluster, endpoints."""
    if not service.instances and dialect.unreachable is Unreachable.NO_ROUTE:
        return listener(service.name), route_configuration(service.name, ())
    if not service.instances and dialect.unreachable is not Unreachable.EMPTY_CLUSTER:
        service = replace(service, instances=(_nobody(service, dialect),))
    routes = method_routes(service.name, policy, dialect)
    return (
        listener(service.name),
        route_configuration(service.name, routes),
        cluster(service, dialect),
        endpoints(service),
    )


def listener(name: str) -> Listener:
    """The API listener that a gRPC client asks for by the name in its target."""
    manager = HttpConnectionManager(
        rds=Rds(config_source=ads(), route_config_name=name),
        http_filters=[HttpFilter(name="router", typed_config=packed(Router()))],
    )
    return Listener(name=name, api_listener=ApiListener(api_listener=packed(manager)))


def route_configuration(name: str, routes: Iterable[Route]) -> RouteConfiguration:
    """Routes under one virtual host that matches every authority."""
    host = VirtualHost(name=name, domains=["*"], routes=routes)
    return RouteConfiguration(name=name, virtual_hosts=[host])


def method_routes(cluster_name: str, policy: Policy, dialect: Dialect) -> tuple[Route, ...]:
    """One route for each method of the policy, by its exact path, and one for all others."""
    exact = [
        Route(match=RouteMatch(path=path), route=_action(cluster_name, method, dialect))
        for path, method in policy.methods.items()
    ]
    # The fallback's timeout holds for unary calls, and a route cannot tell which calls those are.
    rest = Route(match=RouteMatch(prefix="/"), route=_action(cluster_name, MethodPolicy(), dialect))
    return (*exact, rest)


def cluster(service: Service, dialect: Dialect) -> Cluster:
    """How a service is balanced. Envoy's needs its upstream protocol beside it: the edge adds that."""
    made = Cluster(
        name=service.name,
        type=Cluster.EDS,
        eds_cluster_config=Cluster.EdsClusterConfig(eds_config=ads(), service_name=_endpoints_name(service)),
        connect_timeout=Duration(seconds=2),
        lb_policy=Cluster.ROUND_ROBIN,
        circuit_breakers=_circuit_breakers(dialect),
        outlier_detection=_outlier_detection(dialect),
    )
    if dialect.envoy:
        # Balancing over instances that are known to be sick helps nobody.
        made.common_lb_config.healthy_panic_threshold.value = 0
    return made


def endpoints(service: Service) -> ClusterLoadAssignment:
    """Instances in rotation by zone, each zone weighing as many as it has."""
    by_zone = sorted(service.instances, key=lambda i: (_zone(i), i.id))
    return ClusterLoadAssignment(
        cluster_name=_endpoints_name(service),
        endpoints=[_locality(zone, list(members)) for zone, members in groupby(by_zone, key=_zone)],
    )


def ads() -> ConfigSource:
    """Whatever this refers to comes on the same stream."""
    return ConfigSource(ads=AggregatedConfigSource(), resource_api_version=ApiVersion.V3)


def packed(message: Message) -> Any:
    """A message as a google.protobuf.Any with deterministic bytes."""
    return Any(
        type_url="type.googleapis.com/" + message.DESCRIPTOR.full_name,
        value=message.SerializeToString(deterministic=True),
    )


def _endpoints_name(service: Service) -> str:
    """C-core prints this name when there is nothing to connect to, so it says why."""
    if service.instances:
        return service.name
    return f"{service.name} ({'no healthy instance' if service.registered else 'not registered in Consul'})"


def _nobody(service: Service, dialect: Dialect) -> Instance:
    """An instance whose address says why, so that dialing it fails at once and prints it."""
    why = _endpoints_name(service)
    if dialect.unreachable is Unreachable.NAMED_ZONE:
        why = "::1%" + _NOT_IN_ZONE.sub("-", why).strip("-")
    return Instance(service=service.name, id="nobody", address=why, port=1)


def _zone(instance: Instance) -> str:
    return instance.meta.get("zone", "")


def _locality(zone: str, members: list[Instance]) -> LocalityLbEndpoints:
    return LocalityLbEndpoints(
        locality=Locality(zone=zone),
        load_balancing_weight=UInt32Value(value=len(members)),
        lb_endpoints=[_endpoint(instance) for instance in members],
    )


def _endpoint(instance: Instance) -> LbEndpoint:
    address = Address(socket_address=SocketAddress(address=instance.address, port_value=instance.port))
    return LbEndpoint(endpoint=Endpoint(address=address), health_status=HealthStatus.HEALTHY)


def _circuit_breakers(dialect: Dialect) -> CircuitBreakers:
    """No limit unless a policy sets one: the default of 1,024 calls would end long streams at the edge."""
    limits = CircuitBreakers.Thresholds(max_requests=_UNLIMITED)
    if dialect.envoy:
        limits.max_connections.CopyFrom(_UNLIMITED)
        limits.max_pending_requests.CopyFrom(_UNLIMITED)
        limits.retry_budget.budget_percent.value = 20
        limits.retry_budget.min_retry_concurrency.value = 3
    return CircuitBreakers(thresholds=[limits])


def _outlier_detection(dialect: Dialect) -> OutlierDetection:
    """Out for a while when most of at least ten calls in five seconds failed (gRFC A50)."""
    made = OutlierDetection(
        interval=Duration(seconds=5),
        base_ejection_time=Duration(seconds=10),
        max_ejection_percent=UInt32Value(value=50),
        failure_percentage_threshold=UInt32Value(value=60),
        enforcing_failure_percentage=UInt32Value(value=100),
        failure_percentage_minimum_hosts=UInt32Value(value=2),
        failure_percentage_request_volume=UInt32Value(value=10),
        enforcing_success_rate=UInt32Value(value=0),
    )
    if dialect.envoy:
        # What the others do not know: five failures in a row, whatever their share.
        made.enforcing_consecutive_5xx.value = 0
        made.enforcing_consecutive_gateway_failure.value = 100
        made.consecutive_gateway_failure.value = 5
    return made


def _action(cluster_name: str, policy: MethodPolicy, dialect: Dialect) -> RouteAction:
    action = RouteAction(cluster=cluster_name)
    if dialect.method_timeouts and policy.timeout_seconds is not None:
        limit = _duration(policy.timeout_seconds)
        action.max_stream_duration.max_stream_duration.CopyFrom(limit)
        action.max_stream_duration.grpc_timeout_header_max.CopyFrom(limit)
    if dialect.envoy:
        action.timeout.CopyFrom(Duration())  # Envoy's own default of 15 s would end streams.
        action.retry_policy.CopyFrom(_envoy_retry(policy.retry))
        if policy.retry and policy.unary and policy.timeout_seconds is not None:
            # An instance that hangs costs a share of the time: then the call is sent to another as well.
            action.retry_policy.per_try_timeout.CopyFrom(_duration(policy.timeout_seconds / policy.retry.attempts))
            action.hedge_policy.hedge_on_per_try_timeout = True
    elif policy.retry:
        action.retry_policy.CopyFrom(_retry(policy.retry, _words(policy.retry)))
    return action


def _words(retry: Retry) -> Iterator[str]:
    return (code.name.lower().replace("_", "-") for code in retry.codes)


def _retry(retry: Retry, retry_on: Iterable[str]) -> RetryPolicy:
    return RetryPolicy(
        retry_on=",".join(retry_on),
        num_retries=UInt32Value(value=retry.attempts - 1),
        retry_back_off=RetryPolicy.RetryBackOff(
            base_interval=_duration(retry.base_seconds), max_interval=_duration(retry.max_seconds)
        ),
    )


def _envoy_retry(retry: Retry | None) -> RetryPolicy:
    """Sent again elsewhere: what no server has seen always, what one may have begun only if idempotent."""
    words = (NEVER_SEEN, MAY_HAVE_BEGUN, *_words(retry)) if retry else (NEVER_SEEN,)
    made = _retry(retry or Retry(), words)
    made.host_selection_retry_max_attempts = 5
    made.retry_host_predicate.add(
        name="envoy.retry_host_predicates.previous_hosts", typed_config=packed(PreviousHostsPredicate())
    )
    return made


def _duration(seconds: float) -> Duration:
    made = Duration()
    made.FromTimedelta(timedelta(seconds=seconds))
    return made
