"""The catalog as one snapshot for Envoy, rebuilt only where something changed."""

from __future__ import annotations

import logging
from collections import ChainMap
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from gateway.browsers import cors_policy
from gateway.descriptors import Merged, OwnCopy, installed, merge
from gateway.intentions import denied
from gateway.listener import listener
from gateway.resources import own_clusters, service_resources, transcoders
from gateway.routes import CONSOLE_CLUSTER, CONSOLE_PREFIXES, Routed, prefix_owners, route_configuration
from gateway.streams import unary
from mesh.catalog import Catalog, Service, is_name
from mesh.contract import Contract
from mesh.intentions import Intentions
from mesh.latest import Latest
from mesh.policy import Target
from mesh.policy_in_force import PoliciesInForce
from mesh.xds.dialect import ENVOY
from mesh.xds.resources import Peer, hashed, unproven
from mesh.xds.snapshot import Resource, Snapshot, pack, snapshot

if TYPE_CHECKING:
    from google.protobuf.descriptor_pool import DescriptorPool

    from gateway.intentions import Denial
    from gateway.settings import EdgeSettings
    from mesh.policy import Policy
    from mesh.xds.dialect import Dialect

_log = logging.getLogger(__name__)
_NO_CONTRACT: Final = Contract()


class EdgeSource:
    """What the edge serves, as `mesh.xds.server.AdsServicer` and `mesh.reflection` ask for it.

    Its snapshot is empty before the first `update`.
    """

    def __init__(
        self,
        settings: EdgeSettings,
        own_copy: OwnCopy = installed,
        policies: PoliciesInForce | None = None,
        spiffe_id: Callable[[str], str] = unproven,
    ) -> None:
        self._own_copy, self._spiffe_id, self._identity = own_copy, spiffe_id, settings.identity
        self._fixed = tuple(pack(message) for message in (*own_clusters(settings), listener(settings)))
        self._snapshot = Latest(Snapshot())
        self._merged = Merged()
        self._described: Merged | None = None
        self._asked: tuple[Mapping[str, Contract], frozenset[str]] | None = None
        self._cors = cors_policy(settings.cors_origins)
        self._transcoders = _packed_transcoders(self._merged)
        self._policies = policies or PoliciesInForce()
        self._prefixes: dict[str, tuple[str, ...]] = {}
        self._own_prefixes = dict.fromkeys(CONSOLE_PREFIXES, CONSOLE_CLUSTER) if settings.console_port else {}
        self._prefix_owners: Mapping[str, str] = self._own_prefixes
        self._peers: dict[str, Peer] = {}
        self._built: dict[str, tuple[tuple[object, ...], tuple[Resource, ...]]] = {}
        self._routes: tuple[object, Resource] | None = None
        self._problems: frozenset[str] = frozenset()
        self.intended: Latest[Intentions | None] = Latest(None)
        """What the newest snapshot keeps to."""

        self._denied: Mapping[str, tuple[Denial, ...]] = {}
        # Where others may fail over to. What is denied of it would have to be denied of them, however well they are.
        self._spares: dict[str, Peer] = {}
        self._catalog: Catalog | None = None

    @property
    def objections(self) -> tuple[str, ...]:
        """Contracts, names and paths that are not in force, one line each, sorted."""
        return tuple(_in_order(self._problems))

    @property
    def denies(self) -> bool:
        """Whether the edge refuses any call by intentions."""
        return bool(self._denied)

    @property
    def described(self) -> Merged | None:
        """The contracts in force of services that are there; None before the first `update`.

        One that left keeps its routes for a while, so that its callers are told that it has no instance.
        """
        return self._described

    def want(self, who: object, names: Iterable[str]) -> None:
        """Envoy asks for everything there is, by asking for no name."""

    def snapshot(self, dialect: Dialect, zone: str = "") -> Snapshot:
        """The newest snapshot; only Envoy asks here, so there is one dialect."""
        return self._snapshot.value

    def changes(self) -> AsyncIterator[Snapshot]:
        """The snapshot now, then each newest one."""
        return self._snapshot.changes()

    def reflected(self) -> tuple[Iterable[str], DescriptorPool]:
        """Every gRPC service of services that are there, and a pool that knows the files of all."""
        return self._described.owners if self._described else (), self._merged.pool

    def intend(self, intentions: Intentions) -> None:
        """Keep to these from now on, where the edge calls services that cannot tell who calls."""
        self.intended.set(intentions)
        if self._catalog:
            self.update(self._catalog)

    def update(self, catalog: Catalog) -> None:
        """Serve this catalog from now on."""
        self._catalog = catalog
        named, strange = _by_name(catalog)
        absent = frozenset(s.name for s in named if not s.registered and not s.instances)
        self._merge({s.name: s.contract for s in named if s.contract.services and not self._plain(s)}, absent)
        self._describe(absent)
        self._peers = {service.name: self._peer(service, catalog) for service in named}
        self._denied = dict(self._denials())
        self._spares = {name: peer for name, peer in self._peers.items() if name not in self._denied}
        targets, problems = self._targets(named, absent)
        resources = (
            *self._fixed,
            *self._transcoders,
            self._route_table(targets),
            *(resource for service in named for resource in self._resources(service)),
        )
        told = (f"{p.service}: {p.text}" for p in self._merged.problems if p.service not in absent)
        self._report([*strange, *problems, *told])
        self._snapshot.set(snapshot(resources, changed_at=catalog.changed_at))

    def _merge(self, contracts: Mapping[str, Contract], absent: frozenset[str]) -> None:
        asked = contracts, absent & contracts.keys()
        if asked == self._asked:
            return
        before, self._asked = self._merged.version, asked
        self._merged = merge(contracts, self._merged, self._own_copy, absent)
        if self._merged.version != before:
            self._transcoders = _packed_transcoders(self._merged)

    def _describe(self, absent: frozenset[str]) -> None:
        merged, before = self._merged, self._described
        owners = {name: owner for name, owner in merged.owners.items() if owner not in absent}
        named = tuple(name for name in merged.transcoded if name in owners)
        if not before or (before.files, before.transcoded, before.owners) != (merged.files, named, owners):
            self._described = replace(merged, transcoded=named, owners=owners)

    def _targets(
        self, services: Iterable[Service], absent: frozenset[str]
    ) -> tuple[tuple[Routed, ...], tuple[str, ...]]:
        held = tuple(services)
        claims = {**{s.name: self._claimed(s) for s in held}, CONSOLE_CLUSTER: tuple(self._own_prefixes)}
        self._prefix_owners, problems = prefix_owners(claims, self._prefix_owners, absent)
        headers = hashed(self._peers, ENVOY)
        found = [Routed(name=CONSOLE_CLUSTER, prefixes=tuple(self._own_prefixes))]
        for service in held:
            contract = self._merged.accepted.get(service.name)
            policy = self._peers[service.name].policy
            found.append(Routed(
                name=service.name,
                grpc_services=contract.services if contract else (),
                policy=policy,
                hashed={target: headers(target) for target in policy.targets},
                prefixes=tuple(p for p, owner in self._prefix_owners.items() if owner == service.name),
                faults=service.faults,
                denials=self._denials_of(service.name, policy),
                followed=self._followed(service.name, policy),
                unary=unary(contract) if contract else (),
            ))
        return tuple(found), problems

    def _denials(self) -> Iterator[tuple[str, tuple[Denial, ...]]]:
        """What may not be called, by service; nothing on a mesh that is in plaintext as a whole.

        Also before a service is called without TLS: Envoy learns of clusters before it learns of routes.
        """
        for name, peer in self._peers.items() if self._identity else ():
            if peer.may_be_plain and (rules := denied(name, self.intended.value)):
                yield name, rules

    def _denials_of(self, name: str, policy: Policy) -> Mapping[str, tuple[Denial, ...]]:
        """By the clusters that calls to a service go to."""
        targets = (Target(name), *policy.targets)
        return {str(target): self._denied[target.service] for target in targets if target.service in self._denied}

    def _followed(self, name: str, policy: Policy) -> bool:
        """Whether a service, or one that its calls lead to, may be called in plaintext, now or with its next instance:
        one without an instance may. Not on a mesh that is in plaintext as a whole.
        """
        called = (self._peers.get(target.service) for target in (Target(name), *policy.targets))
        return bool(self._identity) and any(peer and peer.may_be_plain for peer in called)

    def _claimed(self, service: Service) -> tuple[str, ...]:
        """Prefixes of a plain HTTP service; the last known ones while it has no instance."""
        if service.instances:
            texts = {i.meta.get("http-prefixes", "") for i in service.instances if i.meta.get("protocol") == "http"}
            self._prefixes[service.name] = tuple(sorted({p for text in texts for p in text.split()}))
        return self._prefixes.get(service.name, ())

    def _plain(self, service: Service) -> bool:
        return bool(self._claimed(service))

    def _route_table(self, targets: tuple[Routed, ...]) -> Resource:
        key = targets, self._merged.bindings
        if self._routes is None or self._routes[0] != key:
            self._routes = key, pack(route_configuration(targets, self._merged.bindings, self._cors))
        return self._routes[1]

    def _peer(self, service: Service, catalog: Catalog) -> Peer:
        """A service with its policy; the same object as before when neither changed."""
        contract = self._merged.accepted.get(service.name, _NO_CONTRACT)
        policy = self._policies.of(service.name, contract, service.config, catalog.entries)
        made = Peer(service, policy, self._spiffe_id(service.name))
        before = self._peers.get(service.name)
        return before if before and before.is_as(made) else made

    def _resources(self, service: Service) -> tuple[Resource, ...]:
        plain, peer, held = self._plain(service), self._peers[service.name], self._built.get(service.name)
        peers = ChainMap({service.name: peer}, self._spares)
        others = {target.service for d in peer.policy.destinations.values() for target in d.failover}
        made_of = (plain, peer, *(peers.get(name) for name in sorted(others)))
        if held and len(held[0]) == len(made_of) and all(a is b for a, b in zip(held[0], made_of, strict=True)):
            return held[1]
        found = service_resources(peer, peers, http1=plain, identity=self._identity)
        made = tuple(pack(message) for message in found)
        self._built[service.name] = made_of, made
        return made

    def _report(self, problems: Iterable[str]) -> None:
        found = frozenset(problems)
        for text in _in_order(found - self._problems):
            _log.warning("%s", text)
        for text in _in_order(self._problems - found):
            _log.info("no longer: %s", text)
        self._problems = found


def _packed_transcoders(merged: Merged) -> tuple[Resource, ...]:
    return tuple(pack(message) for message in transcoders(merged))


def _by_name(catalog: Catalog) -> tuple[tuple[Service, ...], tuple[str, ...]]:
    """The services in order, without those whose names could be taken for the edge's own resources; and those names."""
    strange = tuple(f"{name!r} is no name of a service on the mesh" for name in catalog.services if not is_name(name))
    return tuple(catalog.services[name] for name in sorted(catalog.services) if is_name(name)), strange


def _in_order(texts: frozenset[str]) -> Iterator[str]:
    yield from sorted(texts)
