"""Why a call does what it does: every value of a policy with its source, and what clients make of it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from mesh.catalog import Service
from mesh.explain.dialects import dialects
from mesh.explain.routes import all_routes, deadline, retry, route_message, taking
from mesh.explain.targets import balancing, instances, reached
from mesh.methods import find
from mesh.policy import Match, MethodPolicy, Target, fault_on
from mesh.registry.model import STRANGER, Instance
from mesh.xds.resources import Peers, is_plain, left_out
from mesh.xds.security import speaking
from meshwright.sidecar.v1 import explanation_pb2 as pb

__all__ = ["explain"]


def explain(
    service: str,
    asked: str,
    peers: Peers,
    observed: Mapping[str, tuple[Instance, ...]],
    problems: Iterable[str] = (),
) -> pb.Explanation:
    """What holds for a method of a service, or for the whole service when none is asked about.

    `peers` are all services that its calls may meet; `observed` is what the registry says of their instances now,
    whatever their health; `problems` say what of their policies is not in force. NOT_FOUND for a method that is not
    there.
    """
    policy = peers[service].policy
    path = find(service, asked, policy.methods) if asked else ""
    routes = tuple(taking(policy, path) if path else all_routes(policy))
    targets = tuple(reached(routes, peers))
    method = policy.methods[path] if path else policy.fallback
    return pb.Explanation(
        service=service,
        method=path.removeprefix("/"),
        deadline=deadline(method),
        retry=retry(method),
        methods=[] if path else [_method(name, found) for name, found in policy.methods.items()],
        balancing=[balancing(target, peers) for target in targets],
        routes=[route_message(route, peers) for route in routes],
        instances=instances(targets, peers, observed),
        dialects=dialects(path, routes, targets, peers[service].policy, peers),
        notes=[
            *problems, *_plain(targets, peers), *_left_out(targets, peers), *_strangers(targets, peers),
            *_faults(peers[service].service, path),
            *_notes(peers[service].service, method if path else None),
        ],
    )


def _method(path: str, policy: MethodPolicy) -> pb.Method:
    return pb.Method(name=path.removeprefix("/"), deadline=deadline(policy), retry=retry(policy))


def _plain(targets: Iterable[Target], peers: Peers) -> Iterator[str]:
    """What speaks no TLS where others do: whether it is called, and who says so."""
    for peer in (peers[name] for name in dict.fromkeys(target.service for target in targets)):
        name, every = peer.service.name, peer.service.instances
        if peer.spiffe_id and peer.policy.permissive:
            yield f"{name} may be called in plaintext: {peer.policy.permissive}"
        elif peer.is_strict and len(speaking(every)) < len(every):
            yield (
                f"{name} is called over TLS alone: its instances without get no calls, unless it is made permissive, as"
                " `mesh check` says"
            )


def _left_out(targets: Iterable[Target], peers: Peers) -> Iterator[str]:
    """Failover that holds for no call."""
    for target in targets:
        if names := left_out(peers[target.service].policy.destinations[target.subset], peers):
            way, other = ("in plaintext", "TLS") if is_plain(target, peers) else ("over TLS", "plaintext")
            yield f"{target} is called {way}, so its failover leaves out what speaks {other}: {', '.join(names)}"


def _strangers(targets: Iterable[Target], peers: Peers) -> Iterator[str]:
    """Instances that most calls cannot be for."""
    for name in dict.fromkeys(target.service for target in targets):
        for instance in peers[name].service.instances:
            if STRANGER in instance.meta:
                yield (
                    f"{instance.id} offers nothing of the contract of {name}, so the calls that it gets fail: `mesh"
                    " check` on its host says more; start it by its right name"
                )


def _faults(service: Service, path: str) -> Iterator[str]:
    """What goes wrong on purpose now."""
    for fault in service.faults:
        if not path or fault is fault_on(Match(path=path), service.faults):
            end = f"{fault.until:%H:%M:%S} UTC"
            yield f"calls of {fault.name} are {fault.text} on purpose until {end}: see `mesh fault`"


def _notes(service: Service, method: MethodPolicy | None) -> list[str]:
    if not service.contract.services:
        return ["it publishes no contract, so its methods are not known: what nobody set is default, without retries"]
    if method and not method.idempotent:
        return [
            "its contract says neither NO_SIDE_EFFECTS nor IDEMPOTENT, so only what no server has seen is sent again"
        ]
    return []
