"""The targets that calls may meet: how they are balanced, and the instances of each. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from mesh.policy import Destination, Limits, OutlierDetection, Route, Target
from mesh.registry.model import Instance
from mesh.xds.parts import duration
from mesh.xds.resources import Peers
from meshwright.sidecar.v1 import explanation_pb2 as pb

LOST = "lost"
"""Health of an instance that is held in rotation though the registry says nothing of it any more."""


def destination_of(target: Target, peers: Peers) -> Destination | None:
    """How a target is reached; None when nothing is known of it."""
    peer = peers.get(target.service)
    return peer.policy.destinations.get(target.subset) if peer else None


def reached(routes: Iterable[Route], peers: Peers) -> Iterator[Target]:
    """Each target of the routes, then each that those fail over to."""
    first = dict.fromkeys(share.target for route in routes for share in route.shares)
    found = [destination_of(target, peers) for target in first]
    failovers = (target for destination in found if destination for target in destination.failover)
    yield from (target for target in dict.fromkeys([*first, *failovers]) if destination_of(target, peers))


def balancing(target: Target, peers: Peers) -> pb.Balancing:
    """How one target is reached."""
    found = peers[target.service].policy.destinations[target.subset]
    return pb.Balancing(
        target=str(target),
        kind=found.balancing.kind.value,
        hashed_headers=found.balancing.hashed,
        source=found.balancing.source,
        failover=map(str, found.failover),
        failover_source=found.failover_source,
        connect_timeout=duration(found.connect_timeout_seconds),
        connect_timeout_source=found.connect_timeout_source,
        outlier_detection=_outlier_detection(found.outlier_detection),
        limits=_limits(found.limits),
    )


def _outlier_detection(found: OutlierDetection) -> pb.OutlierDetection:
    percentage, rate = found.failure_percentage, found.success_rate
    return pb.OutlierDetection(
        interval=duration(found.interval_seconds),
        base_ejection=duration(found.base_ejection_seconds),
        failure_percentage=percentage.threshold if percentage else None,
        success_rate_stdev_factor=rate.stdev_factor if rate else None,
        consecutive_failures=found.consecutive_failures or None,
        source=found.source,
    )


def _limits(found: Limits) -> pb.Limits:
    return pb.Limits(
        max_requests=found.max_requests,
        max_connections=found.max_connections,
        max_pending_requests=found.max_pending_requests,
        source=found.source,
    )


def instances(
    targets: Iterable[Target], peers: Peers, observed: Mapping[str, tuple[Instance, ...]]
) -> Iterator[pb.Instance]:
    """The instances of the services of some targets, also those that no target takes."""
    held = tuple(targets)
    for name in dict.fromkeys(target.service for target in held):
        rotation = {instance.id: instance for instance in peers[name].service.instances}
        seen = {instance.id: instance for instance in observed.get(name, ())}
        for key, instance in sorted((rotation | seen).items()):
            yield _instance(
                instance, LOST if key not in seen else str(instance.health),
                [target for target in held if target.service == name and _has(target, instance, peers)],
                in_rotation=key in rotation,
            )  # fmt: skip


def _has(target: Target, instance: Instance, peers: Peers) -> bool:
    peer = peers[target.service]
    return bool(peer.policy.destinations[target.subset].selection.of(peer.callable((instance,))))


def _instance(instance: Instance, health: str, targets: list[Target], *, in_rotation: bool) -> pb.Instance:
    host = f"[{instance.address}]" if ":" in instance.address else instance.address
    return pb.Instance(
        id=instance.id,
        service=instance.service,
        address=f"{host}:{instance.port}",
        zone=instance.meta.get("zone", ""),
        health=health,
        output=instance.output,
        in_rotation=in_rotation and bool(targets),
        targets=map(str, targets),
    )
