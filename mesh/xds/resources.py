"""Services with their policies as xDS resources: listener, routes, clusters, endpoints. Pure.

For proxyless gRPC clients (gRFC A27) and, with the same parts, for the edge.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.api_listener_pb2 import ApiListener
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.extensions.filters.http.router.v3.router_pb2 import Router
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
    HttpFilter,
    Rds,
)
from google.protobuf.message import Message

from mesh.catalog import Service
from mesh.policy import Balance, Destination, Policy, Target
from mesh.registry.model import Instance
from mesh.xds.clusters import cluster, endpoints, nobody, why_nobody
from mesh.xds.dialect import Dialect, Unreachable
from mesh.xds.faults import NO_FAULT
from mesh.xds.parts import ads, packed
from mesh.xds.routes import FAULT_FILTER, Hashed, route_configuration, xds_routes
from mesh.xds.security import secured, speaking


@dataclass(frozen=True)
class Peer:
    """One service with what holds for it."""

    service: Service
    policy: Policy
    spiffe_id: str = ""
    """What its instances prove to be; empty where nobody does."""

    def is_as(self, other: Peer) -> bool:
        """Whether nothing changed; asks for the same objects, as comparing policies costs as much as building."""
        is_same = self.service is other.service and self.policy is other.policy
        return is_same and self.spiffe_id == other.spiffe_id

    @property
    def is_strict(self) -> bool:
        """Whether instances that speak no TLS get no calls."""
        return bool(self.spiffe_id) and not self.policy.permissive

    @property
    def may_be_plain(self) -> bool:
        """Whether it is reached without TLS, or may be from one moment to the next: nobody there can tell who calls."""
        held = self.service.instances
        return bool(self.policy.permissive) or not held or speaking(held) != held

    def callable(self, instances: tuple[Instance, ...]) -> tuple[Instance, ...]:
        """Those of its instances that may be called."""
        return speaking(instances) if self.is_strict else instances


def unproven(service: str) -> str:
    """The SPIFFE id of a service where nobody has any."""
    return ""


Peers = Mapping[str, Peer]
"""Services by name: all that the calls in question may meet."""


def proxyless(name: str, peers: Peers, dialect: Dialect, zone: str = "") -> tuple[Message, ...]:
    """All that a gRPC client needs to dial `xds:///<name>`: listener, routes, clusters, endpoints."""
    clusters = (resource for peer in peers.values() for resource in destinations(peer, peers, dialect, zone))
    return (*entrance(name, peers, dialect), *clusters)


def entrance(name: str, peers: Peers, dialect: Dialect) -> tuple[Message, Message]:
    """Listener and routes of a service."""
    peer = peers[name]
    routes = xds_routes(peer.policy, dialect, hashed(peers, dialect), peer.service.faults)
    if dialect.unreachable is Unreachable.NO_ROUTE and not reaches_anybody(peer.policy, peers):
        routes = ()
    return listener(name), route_configuration(name, routes)


def destinations(peer: Peer, peers: Peers, dialect: Dialect, zone: str = "") -> Iterator[Message]:
    """Cluster and endpoints of each of a service's targets."""
    for destination in peer.policy.destinations.values():
        groups, ids = _reached(destination, peers)
        name = str(destination.target)
        if not any(groups):
            why = _why_nobody(destination, peer)
            groups = (nobody(why, dialect),)
            name = why if dialect.unreachable is Unreachable.EMPTY_CLUSTER else name
        yield cluster(destination, name, dialect, ids)
        yield endpoints(name, groups, zone)


def _why_nobody(destination: Destination, peer: Peer) -> str:
    is_plain = peer.is_strict and destination.selection.of(peer.service.instances)
    return why_nobody(destination, registered=peer.service.registered, is_plain=bool(is_plain))


def destination_resources(
    destination: Destination, peers: Peers, dialect: Dialect, zone: str = ""
) -> tuple[Cluster, ClusterLoadAssignment, tuple[str, ...]]:
    """Cluster and endpoints of a target, which keep their names when its last instance is gone.

    And what its instances prove to be, where they are reached over TLS.
    """
    name = str(destination.target)
    groups, ids = _reached(destination, peers)
    return cluster(destination, name, dialect, ids), endpoints(name, groups, zone), ids


def members(destination: Destination, peers: Peers) -> Iterator[tuple[Instance, ...]]:
    """The instances of a target that may be called, then those of its failover targets in order."""
    every = (destination, *filter(None, (_destination(target, peers) for target in destination.failover)))
    for one in every:
        peer = peers[one.target.service]
        yield one.selection.of(peer.callable(peer.service.instances))


def _reached(destination: Destination, peers: Peers) -> tuple[tuple[tuple[Instance, ...], ...], tuple[str, ...]]:
    """The instances that are called, by priority, and what they prove to be; nothing where they need not."""
    demanded, groups = secured(members(destination, peers))
    if not demanded:
        return groups, ()
    services = dict.fromkeys(target.service for target in (destination.target, *destination.failover))
    return groups, tuple(peers[name].spiffe_id for name in services if name in peers and peers[name].spiffe_id)


def left_out(destination: Destination, peers: Peers) -> tuple[str, ...]:
    """Ids of the instances of failover targets none of which gets calls: they speak TLS and who is called does not, or
    the other way round."""
    every = tuple(members(destination, peers))
    _, reached = secured(every)
    return tuple(i.id for before, after in zip(every[1:], reached[1:], strict=True) if not after for i in before)


def is_plain(target: Target, peers: Peers) -> bool:
    """Whether a target is reached without TLS."""
    found = _destination(target, peers)
    return found is not None and not secured(members(found, peers))[0]


def reaches_anybody(policy: Policy, peers: Peers) -> bool:
    """Whether any target of a policy's routes has an instance."""
    targets = {share.target for route in policy.routes for share in route.shares}
    found = (_destination(target, peers) for target in targets)
    return any(any(members(destination, peers)) for destination in found if destination)


def hashed(peers: Peers, dialect: Dialect) -> Hashed:
    """By which headers a client that speaks the dialect spreads the calls to a target."""

    def headers(target: Target) -> tuple[str, ...]:
        found = _destination(target, peers)
        if found is None or dialect.nearest(found.balancing.kind) not in (Balance.RING_HASH, Balance.MAGLEV):
            return ()
        return found.balancing.hashed

    return headers


def listener(name: str) -> Listener:
    """The API listener that a gRPC client asks for by the name in its target."""
    manager = HttpConnectionManager(
        rds=Rds(config_source=ads(), route_config_name=name),
        http_filters=[
            HttpFilter(name=FAULT_FILTER, typed_config=packed(NO_FAULT), is_optional=True),
            HttpFilter(name="router", typed_config=packed(Router())),
        ],
    )
    return Listener(name=name, api_listener=ApiListener(api_listener=packed(manager)))


def _destination(target: Target, peers: Peers) -> Destination | None:
    peer = peers.get(target.service)
    return peer.policy.destinations.get(target.subset) if peer else None
