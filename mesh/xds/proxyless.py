"""The catalog as snapshots for gRPC clients, one for each dialect, built only where something changed."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterable

from mesh.catalog import Catalog, CatalogWatcher, Service
from mesh.policy import Policy
from mesh.policy_in_force import PoliciesInForce
from mesh.xds.dialect import Dialect
from mesh.xds.resources import proxyless
from mesh.xds.snapshot import Resource, Snapshot, pack, problems, snapshot

_log = logging.getLogger(__name__)


class ProxylessSource:
    """Snapshots of what the clients of one sidecar asked for."""

    def __init__(self, catalog: CatalogWatcher) -> None:
        self._catalog = catalog
        self._policies = PoliciesInForce()
        self._built: dict[tuple[str, str], tuple[Service, tuple[Resource, ...]]] = {}
        self._snapshots: dict[str, tuple[Catalog, frozenset[str], Snapshot]] = {}
        self._wanted: dict[object, frozenset[str]] = {}
        self._all_wanted = frozenset[str]()

    def want(self, who: object, names: Iterable[str]) -> None:
        """Follow these services for a client, in place of what it wanted before."""
        wanted, before = frozenset(names), self._wanted.pop(who, frozenset())
        if wanted:
            self._wanted[who] = wanted
        if wanted != before:
            self._all_wanted = frozenset[str]().union(*self._wanted.values())
        self._catalog.want(who, wanted)

    def changes(self) -> AsyncIterator[Catalog]:
        """Yields whenever a snapshot may be new."""
        return self._catalog.changes()

    def snapshot(self, dialect: Dialect) -> Snapshot:
        """Every wanted service in a dialect; the same object until something changes."""
        catalog, wanted = self._catalog.current, self._all_wanted
        held = self._snapshots.get(dialect.name)
        if held and held[0] is catalog and held[1] == wanted:
            return held[2]
        services = [catalog.services[name] for name in sorted(wanted & catalog.services.keys())]
        resources = [r for service in services for r in self._resources(service, dialect)]
        made = snapshot(resources, pending=wanted - catalog.services.keys())
        self._snapshots[dialect.name] = (catalog, wanted, made)
        return made

    def policy(self, service: Service) -> Policy:
        """The effective policy; the last good one, or the defaults, while a published one is invalid."""
        return self._policies.of(service.name, service.contract)

    def _resources(self, service: Service, dialect: Dialect) -> tuple[Resource, ...]:
        held = self._built.get((service.name, dialect.name))
        if held and held[0] is service:
            return held[1]
        messages = proxyless(service, self.policy(service), dialect)
        if found := list(problems(messages)):
            _log.error("%s stays as it was: %s", service.name, "; ".join(found))
            return held[1] if held else ()
        made = tuple(pack(message) for message in messages)
        self._built[service.name, dialect.name] = (service, made)
        return made
