"""What is published about services besides their instances: contracts, service configs, faults, config entries."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeVar

from mesh import contract as contracts
from mesh.contract import Contract
from mesh.errors import Error, InvalidConfig
from mesh.policy import (
    FAULTS,
    KINDS,
    NOTHING,
    PREFIX,
    Entries,
    Fault,
    ServiceConfig,
    not_in_force,
    parse_entry,
    parse_fault,
    parse_service_config,
    permissive,
)
from mesh.recovery import sleep, time_of_day
from mesh.registry.model import EMPTY, Registry
from mesh.scope import Scope

T = TypeVar("T")

_log = logging.getLogger(__name__)
_NO_ENTRIES: Final = Entries()
_LOOK_SECONDS: Final = 5.0
"""How often the time is looked at while a fault is in force, as a clock may be set."""


@dataclass(frozen=True)
class Rules:
    """The last good one of each, by service."""

    contracts: Mapping[str, Contract] = field(default_factory=lambda: EMPTY)
    configs: Mapping[str, ServiceConfig] = field(default_factory=lambda: EMPTY)
    entries: Entries = _NO_ENTRIES
    faults: Mapping[str, Fault] = field(default_factory=lambda: EMPTY)
    """Those that have not ended, by key."""

    def contract(self, service: str) -> Contract:
        """The contract of a service; an empty one when there is none."""
        return self.contracts.get(service, Contract())

    def config(self, service: str) -> ServiceConfig:
        """What the registry's KV store says of a service."""
        return self.configs.get(service, NOTHING)

    def permissive(self, service: str) -> str:
        """Who says that its instances may be called though they speak no TLS; empty where nobody does."""
        return permissive(service, self.config(service), self.entries)

    def faults_of(self, service: str) -> tuple[Fault, ...]:
        """What is to go wrong on purpose, sorted by path."""
        return tuple(self.faults[key] for key in sorted(self.faults) if self.faults[key].service == service)


class RulesWatcher:
    """Follows them by one query for the contracts, the service configs, the faults, and each kind of config entry.

    What is invalid is said once, and what was known in its place stays. A fault ends at its time, whatever the
    registry says or does not.
    """

    def __init__(self, registry: Registry, last_known: Rules) -> None:
        self._registry = registry
        self.current = last_known
        self.missing = {contracts.PREFIX, PREFIX, FAULTS, *KINDS}
        """What has not been read yet."""

        self.problems: dict[str, str] = {}
        """Why the newest value at a key of the KV store, or the newest entry `kind/name`, is not in force."""

        self._raw: dict[str, Any] = {}

    def start(self, scope: Scope, changed: Callable[[], None]) -> None:
        """Follow for as long as the scope is open; `changed` is called after each change."""
        def take_faults(prefix: str, values: Mapping[str, bytes]) -> None:
            for fault in self._take_faults(prefix, values):
                scope.start(self._end(fault, changed), name=f"end of {fault.key}")

        takes = {contracts.PREFIX: self._take_contracts, PREFIX: self._take_configs, FAULTS: take_faults}
        for prefix, take in takes.items():
            scope.start(self._follow(prefix, self._values(prefix), take, changed), name=prefix)
        for kind in KINDS:
            scope.start(self._follow(kind, self._entries(kind), self._take_entries, changed), name=kind)

    def published(self, service: str) -> bytes | None:
        """What is at the place of a service's contract now, good or not; None for nothing."""
        value: bytes | None = self._raw.get(contracts.PREFIX, {}).get(service)
        return value

    async def _follow(
        self,
        what: str,
        values: AsyncIterator[Mapping[str, Any]],
        take: Callable[[str, Mapping[str, Any]], None],
        changed: Callable[[], None],
    ) -> None:
        async for found in values:
            take(what, found)
            self.missing.discard(what)
            changed()

    async def _values(self, prefix: str) -> AsyncIterator[Mapping[str, bytes]]:
        async for found in self._registry.watch_prefix(prefix):
            yield {key.removeprefix(prefix): value for key, value in found.items()}

    async def _entries(self, kind: str) -> AsyncIterator[Mapping[str, Any]]:
        """The entries of a kind by name; none at all for a kind that this Consul does not know."""
        try:
            async for found in self._registry.watch_config_entries(kind):
                yield {str(entry.get("Name")): entry for entry in found}
        except Error as error:
            _log.info("no %s entries: %s", kind, error.message)
            yield {}

    def _take_contracts(self, prefix: str, values: Mapping[str, bytes]) -> None:
        found = self._good(prefix, values, self.current.contracts, lambda _, value: Contract.parse(value))
        # A contract that vanished is kept: Consul forgot it, as nobody else takes one back.
        self.current = replace(self.current, contracts={**self.current.contracts, **dict(found)})

    def _take_configs(self, prefix: str, values: Mapping[str, bytes]) -> None:
        found = self._good(prefix, values, self.current.configs, _service_config)
        self.current = replace(self.current, configs=dict(found))

    def _take_faults(self, prefix: str, values: Mapping[str, bytes]) -> list[Fault]:
        """Those that are new."""
        now, before = time_of_day(), self.current.faults
        read = dict(self._good(prefix, values, before, lambda name, value: parse_fault(name, value, now)))
        found = {name: fault for name, fault in read.items() if fault.until > now}
        self._hold_faults(found)
        return [fault for name, fault in found.items() if before.get(name) is not fault]

    def _hold_faults(self, found: Mapping[str, Fault]) -> None:
        before, self.current = self.current.faults, replace(self.current, faults=found)
        for name in sorted(before.keys() - found.keys()):
            _log.info("the fault on %s is over", before[name].name)
        for name, fault in found.items():
            if fault != before.get(name):
                _log.warning("a fault on purpose on %s until %s: %s", fault.name, fault.until, fault.text)

    async def _end(self, fault: Fault, changed: Callable[[], None]) -> None:
        """Drop a fault at its time, unless it is gone by then."""
        name = fault.key.removeprefix(FAULTS)
        while self.current.faults.get(name) is fault:
            if (left := (fault.until - time_of_day()).total_seconds()) > 0:
                await sleep(min(left, _LOOK_SECONDS))
                continue
            self._hold_faults({key: held for key, held in self.current.faults.items() if key != name})
            changed()

    def _take_entries(self, kind: str, values: Mapping[str, Any]) -> None:
        held = self.current.entries.held
        before = {name: entry for (of, name), entry in held.items() if of == kind}
        found = dict(self._good(f"{kind}/", values, before, lambda _, raw: parse_entry(raw)))
        for name in found.keys() - before.keys() | {name for name in found if found[name] != before.get(name)}:
            for note in found[name].notes:
                _log.warning("%s/%s: %s", kind, name, note)
        if found != before:
            others = {key: entry for key, entry in held.items() if key[0] != kind}
            self.current = replace(
                self.current, entries=Entries({**others, **{(kind, name): entry for name, entry in found.items()}})
            )

    def _good(
        self, where: str, values: Mapping[str, Any], before: Mapping[str, T], read: Callable[[str, Any], T]
    ) -> Iterator[tuple[str, T]]:
        """Each value as it was read; for one that is invalid, what was known before, if anything was."""
        seen, self._raw[where] = self._raw.get(where, {}), values
        for gone in seen.keys() - values.keys():
            self.problems.pop(where + gone, None)
        for name, value in values.items():
            if name not in seen or seen[name] != value:
                try:
                    yield name, read(name, value)
                except Error as error:
                    _log.error("%s", not_in_force(where + name, error.message))
                    self.problems[where + name] = error.message
                else:
                    self.problems.pop(where + name, None)
                    continue
            if name in before:
                yield name, before[name]


def _service_config(service: str, value: bytes) -> ServiceConfig:
    if not service:
        raise InvalidConfig.of(["the key names no service"])
    return parse_service_config(value.decode(errors="replace"), PREFIX + service)
