"""The catalog as one snapshot for Envoy, rebuilt only where something changed."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from gateway.browsers import cors_policy
from gateway.descriptors import Merged, OwnCopy, installed, merge
from gateway.listener import listener
from gateway.resources import own_clusters, service_resources, transcoders, unusable, usable
from gateway.routes import Target, prefix_owners, route_configuration
from mesh.catalog import Catalog, Service
from mesh.errors import InvalidConfig
from mesh.latest import Latest
from mesh.policy import Policy, effective
from mesh.xds.snapshot import Resource, Snapshot, pack, snapshot

if TYPE_CHECKING:
    from google.protobuf.descriptor_pool import DescriptorPool

    from gateway.settings import EdgeSettings
    from mesh.contract import Contract
    from mesh.xds.dialect import Dialect

_log = logging.getLogger(__name__)


class EdgeSource:
    """What the edge serves, as `mesh.xds.server.AdsServicer` and `mesh.reflection` ask for it.

    Its snapshot is empty before the first `update`.
    """

    def __init__(self, settings: EdgeSettings, own_copy: OwnCopy = installed) -> None:
        self._own_copy = own_copy
        self._fixed = tuple(pack(message) for message in (*own_clusters(settings), listener(settings)))
        self._snapshot = Latest(Snapshot())
        self._merged = Merged()
        self._described: Merged | None = None
        self._contracts: Mapping[str, Contract] = {}
        self._cors = cors_policy(settings.cors_origins)
        self._transcoders = _packed_transcoders(self._merged)
        self._policies: dict[str, tuple[Contract, Policy]] = {}
        self._prefixes: dict[str, tuple[str, ...]] = {}
        self._built: dict[str, tuple[Service, bool, tuple[Resource, ...]]] = {}
        self._routes: tuple[object, Resource] | None = None
        self._problems: frozenset[str] = frozenset()

    @property
    def problems(self) -> tuple[str, ...]:
        """Everything published that is not in force, one line each, sorted."""
        return tuple(sorted(self._problems))

    @property
    def described(self) -> Merged | None:
        """The contracts in force of services that are there; None before the first `update`.

        One that left keeps its routes for a while, so that its callers are told that it has no instance.
        """
        return self._described

    def want(self, who: object, names: Iterable[str]) -> None:
        """Envoy asks for everything there is, by asking for no name."""

    def snapshot(self, dialect: Dialect) -> Snapshot:
        """The newest snapshot; only Envoy asks here, so there is one dialect."""
        return self._snapshot.value

    def changes(self) -> AsyncIterator[Snapshot]:
        """The snapshot now, then each newest one."""
        return self._snapshot.changes()

    def reflected(self) -> tuple[Iterable[str], DescriptorPool]:
        """Every gRPC service on the mesh, and a pool that knows their files."""
        return self._merged.owners, self._merged.pool

    def update(self, catalog: Catalog) -> None:
        """Serve this catalog from now on."""
        services = tuple(catalog.services[name] for name in sorted(catalog.services))
        self._merge({s.name: s.contract for s in services if s.contract.services and not self._plain(s)})
        self._describe(frozenset(s.name for s in services if s.registered or s.instances))
        targets, problems = self._targets(services)
        resources = (
            *self._fixed,
            *self._transcoders,
            self._route_table(targets),
            *(resource for service in services for resource in self._resources(service)),
        )
        problems += tuple(f"{p.service}: {p.text}" for p in self._merged.problems)
        self._report([*problems, *(text for service in services for text in unusable(service))])
        self._snapshot.set(snapshot(resources))

    def _merge(self, contracts: Mapping[str, Contract]) -> None:
        if contracts == self._contracts:
            return
        before, self._contracts = self._merged.version, contracts
        self._merged = merge(contracts, self._merged, self._own_copy)
        if self._merged.version != before:
            self._transcoders = _packed_transcoders(self._merged)

    def _describe(self, present: frozenset[str]) -> None:
        merged, known = self._merged, self._described
        named = tuple(name for name in merged.transcoded if merged.owners[name] in present)
        if known is None or (known.files, known.transcoded) != (merged.files, named):
            self._described = replace(merged, transcoded=named)

    def _targets(self, services: Iterable[Service]) -> tuple[tuple[Target, ...], tuple[str, ...]]:
        held = tuple(services)
        prefixes, problems = prefix_owners({s.name: self._claimed(s) for s in held})
        found = []
        for service in held:
            contract = self._merged.accepted.get(service.name)
            found.append(Target(
                name=service.name,
                grpc_services=contract.services if contract else (),
                policy=self._policy(service.name, contract) if contract else Policy(),
                prefixes=prefixes[service.name],
            ))
        return tuple(found), problems

    def _claimed(self, service: Service) -> tuple[str, ...]:
        """Prefixes of a plain HTTP service; the last known ones while it has no instance."""
        if service.instances:
            texts = {i.meta.get("http-prefixes", "") for i in service.instances if i.meta.get("protocol") == "http"}
            self._prefixes[service.name] = tuple(sorted({p for text in texts for p in text.split()}))
        return self._prefixes.get(service.name, ())

    def _plain(self, service: Service) -> bool:
        return bool(self._claimed(service))

    def _policy(self, name: str, contract: Contract) -> Policy:
        """The effective policy; the last good one, or the defaults, while the published one is invalid."""
        held = self._policies.get(name)
        if held and held[0] == contract:
            return held[1]
        try:
            made = effective(contract)
        except InvalidConfig as error:
            _log.error("the service config of %s is not in force: %s", name, error.message)
            made = held[1] if held else Policy()
        self._policies[name] = contract, made
        return made

    def _route_table(self, targets: tuple[Target, ...]) -> Resource:
        key = targets, self._merged.bindings
        if self._routes is None or self._routes[0] != key:
            self._routes = key, pack(route_configuration(targets, self._merged.bindings, self._cors))
        return self._routes[1]

    def _resources(self, service: Service) -> tuple[Resource, ...]:
        plain, held = self._plain(service), self._built.get(service.name)
        if held and held[0] is service and held[1] == plain:
            return held[2]
        made = tuple(pack(message) for message in service_resources(usable(service), http1=plain))
        self._built[service.name] = service, plain, made
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


def _in_order(texts: frozenset[str]) -> Iterator[str]:
    yield from sorted(texts)
