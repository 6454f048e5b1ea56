"""Services and their checks: tables and the rules of their change (pure; the caller brings the clock)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain

from mesh.registry.dev.index import Index, Scope

SERVICES: Scope = "services"
CHECKS: Scope = "checks"

PASSING, WARNING, CRITICAL = "passing", "warning", "critical"
STATUSES = (PASSING, WARNING, CRITICAL)

LATE_OUTPUT_SECONDS = 300.0
"""A new output with the old status reaches the catalog only after so long, as with Consul's check_update_interval."""


def service_scope(name: str) -> Scope:
    """What a query for one service reads."""
    return f"service/{name}"


@dataclass(frozen=True, kw_only=True)
class Service:
    """One instance, as registered."""

    id: str
    name: str
    address: str = ""
    port: int = 0
    tags: tuple[str, ...] = ()
    meta: Mapping[str, str] = field(default_factory=dict)
    passing_weight: int = 1
    warning_weight: int = 1
    create_index: int = 0
    modify_index: int = 0

    def same(self, other: Service) -> bool:
        """Whether both register the same, whatever their indexes."""
        return replace(self, create_index=0, modify_index=0) == replace(other, create_index=0, modify_index=0)


@dataclass(frozen=True, kw_only=True)
class Check:
    """One TTL check of an instance. Times are seconds of the caller's clock."""

    id: str
    name: str
    service_id: str
    service: str
    tags: tuple[str, ...] = ()
    notes: str = ""
    ttl_seconds: float = 0.0
    deregister_after_seconds: float = 0.0
    """0 keeps a critical instance for ever."""

    status: str = CRITICAL
    output: str = ""
    catalog_output: str = ""
    """The output that queries for health see."""

    late_at: float | None = None
    """When the catalog takes over the output."""

    expires_at: float = 0.0
    critical_since: float | None = None
    create_index: int = 0
    modify_index: int = 0

    def same(self, other: Check) -> bool:
        """Whether queries for health would see the same."""
        return _visible(self) == _visible(other)


def _visible(check: Check) -> tuple[object, ...]:
    return (check.name, check.service, check.tags, check.notes, check.status, check.catalog_output)


class Catalog:
    """All instances with their checks. Every change takes a number from the index and touches scopes."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self.services: dict[str, Service] = {}
        self.checks: dict[str, Check] = {}
        self._by_name: dict[str, set[str]] = {}
        self._by_service: dict[str, set[str]] = {}

    def named(self, name: str) -> list[Service]:
        """Instances of a service, sorted by id."""
        return [self.services[service_id] for service_id in sorted(self._by_name.get(name, ()))]

    def checks_of(self, service_id: str) -> list[Check]:
        """Checks of one instance, sorted by id."""
        return [self.checks[check_id] for check_id in sorted(self._by_service.get(service_id, ()))]

    def tags(self) -> dict[str, list[str]]:
        """Every service name with the union of its instances' tags."""
        return {name: sorted(set(self._tags(ids))) for name, ids in sorted(self._by_name.items())}

    def _tags(self, service_ids: Iterable[str]) -> Iterator[str]:
        return chain.from_iterable(self.services[service_id].tags for service_id in service_ids)

    def register(self, service: Service, checks: Iterable[Check], now: float, *, replace_checks: bool = False) -> None:
        """Add or change an instance. A check that is there keeps its status; its TTL starts anew."""
        known = self.services.get(service.id)
        if known is None or not known.same(service):
            self._put_service(service, known)
        given = {check.id: check for check in checks}
        for check_id in set(self._by_service.get(service.id, ())) - given.keys():
            if replace_checks:
                self.drop_check(check_id)
            else:
                given[check_id] = self.checks[check_id]
        for check in given.values():
            self.put_check(check, now)

    def _put_service(self, service: Service, known: Service | None) -> None:
        names = {service.name, known.name if known else service.name}
        number = self._index.next(SERVICES, *map(service_scope, names))
        created = known.create_index if known else number
        self._forget_name(known)
        self.services[service.id] = replace(service, create_index=created, modify_index=number)
        self._by_name.setdefault(service.name, set()).add(service.id)

    def _forget_name(self, service: Service | None) -> None:
        if service is not None:
            ids = self._by_name[service.name]
            ids.discard(service.id)
            if not ids:
                del self._by_name[service.name]

    def put_check(self, check: Check, now: float) -> None:
        """Add or change a check of an instance that is there; one that is there keeps its status."""
        service = self.services[check.service_id]
        check = replace(check, service=service.name, tags=service.tags, expires_at=now + check.ttl_seconds)
        known = self.checks.get(check.id)
        if known is not None:
            check = _kept(check, known)
        elif check.status == CRITICAL:
            check = replace(check, critical_since=now)
        self._by_service.setdefault(check.service_id, set()).add(check.id)
        self._store(check, known)

    def _store(self, check: Check, known: Check | None) -> None:
        if known is None or not known.same(check):
            number = self._index.next(CHECKS, service_scope(check.service))
            check = replace(check, create_index=check.create_index or number, modify_index=number)
        self.checks[check.id] = check

    def report(self, check_id: str, status: str, output: str, now: float) -> bool:
        """Renew a check; False when there is none with that id."""
        known = self.checks.get(check_id)
        if known is None:
            return False
        self._set(known, status, output, now)
        return True

    def _set(self, known: Check, status: str, output: str, now: float) -> None:
        since = None
        if status == CRITICAL:
            since = now if known.critical_since is None else known.critical_since
        check = replace(known, status=status, output=output, expires_at=now + known.ttl_seconds, critical_since=since)
        if status != known.status:
            check = replace(check, catalog_output=output, late_at=None)
        elif output != known.catalog_output and known.late_at is None:
            check = replace(check, late_at=now + LATE_OUTPUT_SECONDS)
        self._store(check, known)

    def deregister(self, service_id: str) -> None:
        """Remove an instance and its checks; absent ones are fine."""
        service = self.services.pop(service_id, None)
        if service is None:
            return
        for check_id in list(self._by_service.get(service_id, ())):
            self.drop_check(check_id)
        self._forget_name(service)
        self._index.next(SERVICES, CHECKS, service_scope(service.name))

    def drop_check(self, check_id: str) -> None:
        """Remove a check; absent ones are fine."""
        check = self.checks.pop(check_id, None)
        if check is None:
            return
        ids = self._by_service[check.service_id]
        ids.discard(check_id)
        if not ids:
            del self._by_service[check.service_id]
        self._index.next(CHECKS, service_scope(check.service))

    def advance(self, now: float) -> None:
        """Let time pass: expire checks, publish late outputs, remove instances that were critical for too long."""
        for check in list(self.checks.values()):
            if check.late_at is not None and check.late_at <= now:
                self._store(replace(check, catalog_output=check.output, late_at=None), check)
            if check.expires_at <= now and check.status != CRITICAL:
                self._set(check, CRITICAL, _expired(check.output), now)
            elif _lost(check, now):
                self.deregister(check.service_id)


def _kept(check: Check, known: Check) -> Check:
    """A check registered again, with the state that it had."""
    return replace(
        check,
        status=known.status,
        output=known.output,
        catalog_output=known.catalog_output,
        late_at=known.late_at,
        critical_since=known.critical_since,
        create_index=known.create_index,
        modify_index=known.modify_index,
    )


def _lost(check: Check, now: float) -> bool:
    since = check.critical_since
    return since is not None and 0 < check.deregister_after_seconds <= now - since


def _expired(output: str) -> str:
    return f"TTL expired (last output before timeout follows): {output}" if output else "TTL expired"
