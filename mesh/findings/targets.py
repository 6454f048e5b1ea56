"""Where config entries lead calls that nobody will take, or would over TLS alone. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache, partial
from typing import TYPE_CHECKING

from mesh.catalog import Service
from mesh.commands import words
from mesh.errors import InvalidConfig
from mesh.findings import bad
from mesh.methods import meant
from mesh.policy import Policy, Target, compiled
from mesh.registry.model import Health, Instance
from mesh.xds.resources import Peer, left_out
from meshwright.check.v1.check_service_pb2 import Finding

if TYPE_CHECKING:
    from mesh.rules import Rules

Found = Mapping[str, tuple[Instance, ...]]


def deserted(rules: Rules, found: Found) -> Iterator[Finding]:
    """A finding for each target that gets a share of a service's calls, and has no instance to take them."""
    policy_of = cache(partial(_policy, rules))
    for service in sorted({name for _, name in rules.entries.held} & found.keys()):
        targets = (share.target for route in policy_of(service).routes for share in route.shares if share.weight)
        for target in dict.fromkeys(targets):
            destination = policy_of(target.service).destinations.get(target.subset)
            failover = destination.failover if destination else ()
            if not any(_has_instance(one, policy_of(one.service), found) for one in (target, *failover)):
                near = "" if target.service in found else meant(target.service, found)
                text = f"calls of {service} are sent to {target}, which no healthy instance belongs to: they fail{near}"
                yield bad("instances", text, f"{_explain(service)}  # says which entry sends them there")


def unmatched(rules: Rules, found: Found) -> Iterator[Finding]:
    """A finding for each target whose failover holds for no call, as one of them speaks TLS and the other does not."""
    policy_of = cache(partial(_policy, rules))
    peers = {name: Peer(_healthy(name, instances), policy_of(name), name) for name, instances in found.items()}
    for name in sorted({name for _, name in rules.entries.held} & found.keys()):
        for destination in policy_of(name).destinations.values():
            if names := left_out(destination, peers):
                who = ", ".join(names)
                text = f"the failover of {destination.target} leaves out {who}: one speaks TLS, the other does not"
                yield bad("instances", text, f"{_explain(name)}  # says which; let both serve TLS")


def _explain(service: str) -> str:
    return words(("mesh", "explain", service))


def _healthy(name: str, instances: tuple[Instance, ...]) -> Service:
    return Service(name, tuple(i for i in instances if i.health is not Health.CRITICAL), registered=True)


def _has_instance(target: Target, policy: Policy, found: Found) -> bool:
    healthy = tuple(i for i in found.get(target.service, ()) if i.health is not Health.CRITICAL)
    destination = policy.destinations.get(target.subset)
    return bool(destination.selection.of(healthy) if destination else healthy)


def _policy(rules: Rules, service: str) -> Policy:
    """The policy of a service; an empty one where it is invalid, which is told elsewhere."""
    try:
        return compiled(service, rules.contract(service), rules.config(service), rules.entries)
    except InvalidConfig:
        return Policy()
