"""From a service through routers, splitters, redirects and subsets to targets, as Consul's discovery chain goes. Pure.

https://developer.hashicorp.com/consul/docs/connect/l7-traffic/discovery-chain; compared with a real Consul's
`/v1/discovery-chain/<service>` by tests/contract/test_discovery_chain.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from mesh.policy.entries import Detour, Entries, Rule, source
from mesh.policy.model import DEFAULT, Share, Target

_WHOLE = 10_000


@dataclass(frozen=True, kw_only=True)
class Link:
    """A rule, and where the calls that it matches go in the end."""

    rule: Rule
    shares: tuple[Share, ...]
    source: str = DEFAULT


class Chain:
    """What the config entries make of one service. Faults are collected, with the entry and the path of each."""

    def __init__(self, service: str, entries: Entries) -> None:
        self._service, self._entries = service, entries
        self.faults: list[str] = []
        self.consulted = {service}
        """The services whose entries were looked at: when one of theirs changes, the answers may."""

    def links(self) -> tuple[Link, ...]:
        """Its routes in order; the last one takes every call."""
        name = self._service
        origin = source("service-router", name)
        ruled = [
            Link(rule=rule, shares=self._destination(rule), source=origin) for rule in self._entries.router(name).rules
        ]
        split = self._entries.splitter(name).splits
        last = source("service-splitter", name) if split else source("service-resolver", name)
        is_plain = not split and self.resolve(Target(name)) == Target(name)
        return (*ruled, Link(rule=Rule(), shares=self._spread(Target(name)), source=DEFAULT if is_plain else last))

    def _destination(self, rule: Rule) -> tuple[Share, ...]:
        target = Target(rule.service or self._service, rule.subset)
        if rule.subset:
            return (Share(target=self.resolve(target, source("service-router", self._service), rule.where)),)
        return self._spread(target)

    def _spread(self, target: Target) -> tuple[Share, ...]:
        """The targets that the calls for a service are spread over; those named twice are put together."""
        weights: dict[Target, float] = {}
        for found, weight in self._split(target, _WHOLE, ()):
            weights[found] = weights.get(found, 0) + weight
        return tuple(Share(weight=weight, target=found) for found, weight in _rounded(weights.items()) if weight)

    def _split(self, target: Target, weight: float, seen: tuple[str, ...]) -> Iterator[tuple[Target, float]]:
        self.consulted.add(target.service)
        splits = self._entries.splitter(target.service).splits
        origin = source("service-splitter", target.service)
        if target.service in seen:
            self.faults.append(f"{origin}: Splits: leads back to itself by {' > '.join((*seen, target.service))}")
            return
        if not splits:
            yield self.resolve(target), weight
        for split in splits:
            part = weight * split.weight / _WHOLE
            to = Target(split.service or target.service, split.subset)
            if split.subset or to.service == target.service:
                yield self.resolve(to, origin, split.where), part
            else:
                yield from self._split(to, part, (*seen, target.service))

    def resolve(self, target: Target, origin: str = "", where: str = "") -> Target:
        """Where a target leads by redirects and default subsets; a name that cannot be resolved is a fault."""
        seen: list[Target] = []
        while target not in seen:
            seen.append(target)
            onward = self._onward(target)
            if onward == target:
                break
            if self._entries.resolver(target.service).redirect:
                origin, where = source("service-resolver", target.service), "Redirect"
            target = onward
        else:
            self.faults.append(f"{origin}: {where}: leads back to itself by {' > '.join(map(str, seen))}")
            return Target(self._service)
        if target.subset and target.subset not in self._entries.resolver(target.service).subsets:
            self.faults.append(f"{origin}: {where}: {target.service} has no subset {target.subset}")
        return target

    def _onward(self, target: Target) -> Target:
        """One step on: by a redirect, else to the default subset; the same target at the end."""
        self.consulted.add(target.service)
        resolver = self._entries.resolver(target.service)
        redirected = detoured(target, resolver.redirect) if resolver.redirect else target
        return redirected if redirected != target else replace(target, subset=target.subset or resolver.default_subset)

    def failover(self, target: Target) -> tuple[Target, ...]:
        """Where calls go when a resolved target has no instance, in order."""
        by_subset = self._entries.resolver(target.service).failover
        detours = by_subset.get(target.subset) or by_subset.get("*") or ()
        origin = source("service-resolver", target.service)
        found = (self.resolve(detoured(target, detour), origin, detour.where) for detour in detours)
        return tuple(dict.fromkeys(other for other in found if other != target))


def detoured(target: Target, detour: Detour) -> Target:
    """The target of a redirect or failover: another service starts without a subset."""
    if detour.service and detour.service != target.service:
        return Target(detour.service, detour.subset)
    return replace(target, subset=detour.subset or target.subset)


def _rounded(weights: Iterable[tuple[Target, float]]) -> Iterator[tuple[Target, int]]:
    """Whole weights that add up to what the exact ones do."""
    exact = done = 0.0
    for target, weight in weights:
        exact += weight
        part = round(exact - done)
        done += part
        yield target, part
