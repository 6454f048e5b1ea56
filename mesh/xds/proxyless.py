"""The catalog as snapshots for gRPC clients, one for each dialect and zone, built only where something changed."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from mesh.catalog import Catalog, Service
from mesh.catalog_watcher import CatalogWatcher
from mesh.policy import Entries, Policy
from mesh.policy_in_force import PoliciesInForce
from mesh.xds.dialect import Dialect, warning
from mesh.xds.resources import Peer, destinations, entrance, unproven
from mesh.xds.snapshot import Resource, Snapshot, pack, problems, snapshot

_log = logging.getLogger(__name__)

Audience = tuple[Dialect, str]
"""What clients are told alike: those of one dialect in one zone."""


@dataclass(frozen=True)
class _Built:
    """Resources, and what they were made of."""

    made_of: tuple[Peer, ...]
    resources: tuple[Resource, ...]
    entries: Entries | None = None
    """The config entries that the peers' policies were compiled with."""

    def is_of(self, catalog: Catalog, spiffe_id: Callable[[str], str]) -> bool:
        """Whether nothing that they were made of has changed, at little cost: this is asked of each at each change."""
        services = catalog.services
        return self.entries is catalog.entries and all(
            services.get(p.service.name) is p.service and p.spiffe_id == spiffe_id(p.service.name)
            for p in self.made_of
        )


class ProxylessSource:
    """Snapshots of what the clients of one sidecar asked for."""

    def __init__(
        self,
        catalog: CatalogWatcher,
        policies: PoliciesInForce | None = None,
        spiffe_id: Callable[[str], str] = unproven,
    ) -> None:
        self._catalog, self._spiffe_id = catalog, spiffe_id
        self._policies = policies or PoliciesInForce()
        self._entrances: dict[tuple[str, Audience], _Built] = {}
        self._destinations: dict[tuple[str, Audience], _Built] = {}
        self._snapshots: dict[Audience, tuple[Catalog, frozenset[str], Snapshot]] = {}
        self._wanted: dict[object, frozenset[str]] = {}
        self._beyond: dict[str, frozenset[str]] = {}
        self._warned: set[str] = set()
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

    def snapshot(self, dialect: Dialect, zone: str = "") -> Snapshot:
        """Every wanted service for clients of a dialect in a zone; the same object until something changes."""
        audience = dialect, zone
        catalog, wanted = self._catalog.current, self._all_wanted
        held = self._snapshots.get(audience)
        if held and held[0] is catalog and held[1] == wanted:
            return held[2]
        resources, pending = self._collect(catalog, wanted, audience)
        made = snapshot(resources, pending, catalog.changed_at)
        self._snapshots[audience] = (catalog, wanted, made)
        return made

    def policy(self, service: Service) -> Policy:
        """The policy in force for a service."""
        return self._policy(service, self._catalog.current)

    def peers(self, name: str) -> Mapping[str, Peer] | None:
        """All services that the calls for one may meet, with their policies; None while not all are known."""
        return self._peers(name, self._catalog.current)

    @property
    def problems(self) -> Mapping[str, tuple[tuple[str, str], ...]]:
        """What of the newest policy is not in force, and why, by service: places, and what is wrong there."""
        return self._policies.problems

    def _peer(self, service: Service, catalog: Catalog) -> Peer:
        return Peer(service, self._policy(service, catalog), self._spiffe_id(service.name))

    def _policy(self, service: Service, catalog: Catalog) -> Policy:
        return self._policies.of(service.name, service.contract, service.config, catalog.entries)

    def _collect(
        self, catalog: Catalog, wanted: frozenset[str], audience: Audience
    ) -> tuple[list[Resource], frozenset[str]]:
        """The resources of all wanted services, and the names of those that cannot be told yet."""
        resources: list[Resource] = []
        targets: dict[str, Peer] = {}
        pending: set[str] = set()
        for name in sorted(wanted):
            built = self._entrance(name, catalog, audience)
            if built is None:
                pending.add(name)
                continue
            resources += built.resources
            targets |= {peer.service.name: peer for peer in built.made_of}
        for peer in targets.values():
            resources += self._destination(peer, targets, audience)
        return resources, frozenset(pending)

    def _peers(self, name: str, catalog: Catalog) -> dict[str, Peer] | None:
        """All services that the calls for one may meet; None while the registry has not told of all."""
        found: dict[str, Peer] = {}
        asked, missing = [name], set[str]()
        while asked:
            if (service := catalog.services.get(one := asked.pop())) is None:
                missing.add(one)
                continue
            found[one] = self._peer(service, catalog)
            asked += {target.service for target in found[one].policy.targets} - found.keys() - missing
        self._want_beyond(name, frozenset({*found, *missing}))
        return None if missing else found

    def _want_beyond(self, name: str, led_to: frozenset[str]) -> None:
        """Follow also where only config entries lead that hold in place of bad ones."""
        beyond = led_to - self._catalog.reach(name)
        if beyond != self._beyond.get(name, frozenset()):
            self._beyond[name] = beyond
            self._catalog.want((self, name), beyond)

    def _now(self, peers: Iterable[Peer], catalog: Catalog) -> Iterator[Peer]:
        for peer in peers:
            service = catalog.services.get(peer.service.name, peer.service)
            yield self._peer(service, catalog)

    def _entrance(self, name: str, catalog: Catalog, audience: Audience) -> _Built | None:
        """Listener and routes of a service; None as long as not all that they lead to is known."""
        held = self._entrances.get((name, audience))
        if held and held.is_of(catalog, self._spiffe_id):
            return held
        peers = self._peers(name, catalog)
        if peers is None:
            return held and replace(held, made_of=tuple(self._now(held.made_of, catalog)))
        made_of = tuple(peers.values())
        if held is None or not _same(held.made_of, made_of):
            held = self._build_entrance(name, peers, audience, held)
        if held:
            held = self._entrances[name, audience] = replace(held, entries=catalog.entries)
        return held

    def _build_entrance(
        self, name: str, peers: dict[str, Peer], audience: Audience, held: _Built | None
    ) -> _Built | None:
        """Made anew; as they were, if the new ones would lead to what is not there."""
        made_of = tuple(peers.values())
        messages = [*entrance(name, peers, audience[0])]
        clusters = [message for peer in made_of for message in destinations(peer, peers, *audience)]
        if found := list(problems([*messages, *clusters])):
            _log.error("%s stays as it was: %s", name, "; ".join(found))
            return held and replace(held, made_of=made_of)
        self._warn(made_of, audience[0])
        return _Built(made_of, tuple(map(pack, messages)))

    def _destination(self, peer: Peer, peers: Mapping[str, Peer], audience: Audience) -> tuple[Resource, ...]:
        others = {t.service for d in peer.policy.destinations.values() for t in d.failover} & peers.keys()
        made_of = (peer, *(peers[name] for name in sorted(others)))
        held = self._destinations.get((peer.service.name, audience))
        if held is None or not _same(held.made_of, made_of):
            packed = tuple(pack(message) for message in destinations(peer, peers, *audience))
            held = self._destinations[peer.service.name, audience] = _Built(made_of, packed)
        return held.resources

    def _warn(self, peers: Iterable[Peer], dialect: Dialect) -> None:
        for destination in (d for peer in peers for d in peer.policy.destinations.values()):
            text = warning(destination.balancing, dialect)
            line = f"{destination.target}: {text} ({destination.balancing.source})"
            if text and line not in self._warned:
                self._warned.add(line)
                _log.warning("%s", line)


def _same(before: tuple[Peer, ...], now: tuple[Peer, ...]) -> bool:
    """Whether nothing changed."""
    return len(before) == len(now) and all(a.is_as(b) for a, b in zip(before, now, strict=True))
