"""What is published about services besides their instances: contracts, service configs, config entries."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeVar

from mesh import contract as contracts
from mesh.contract import Contract
from mesh.errors import Error
from mesh.policy import KINDS, NOTHING, PREFIX, Entries, ServiceConfig, parse_entry, parse_service_config
from mesh.registry.model import EMPTY, Registry
from mesh.scope import Scope

T = TypeVar("T")

_log = logging.getLogger(__name__)
_NO_ENTRIES: Final = Entries()


@dataclass(frozen=True)
class Rules:
    """The last good one of each, by service."""

    contracts: Mapping[str, Contract] = field(default_factory=lambda: EMPTY)
    configs: Mapping[str, ServiceConfig] = field(default_factory=lambda: EMPTY)
    entries: Entries = _NO_ENTRIES

    def contract(self, service: str) -> Contract:
        """The contract of a service; an empty one when there is none."""
        return self.contracts.get(service, Contract())

    def config(self, service: str) -> ServiceConfig:
        """What the registry's KV store says of a service."""
        return self.configs.get(service, NOTHING)


class RulesWatcher:
    """Follows them by one query for the contracts, one for the service configs, one for each kind of config entry.

    What is invalid is said once, and what was known in its place stays.
    """

    def __init__(self, registry: Registry, last_known: Rules) -> None:
        self._registry = registry
        self.current = last_known
        self.missing = {contracts.PREFIX, PREFIX, *KINDS}
        """What has not been read yet."""

        self.problems: dict[str, str] = {}
        """Why the newest value at a key of the KV store, or the newest entry `kind/name`, is not in force."""

        self._raw: dict[str, Any] = {}

    def start(self, scope: Scope, changed: Callable[[], None]) -> None:
        """Follow for as long as the scope is open; `changed` is called after each change."""
        for prefix, take in ((contracts.PREFIX, self._take_contracts), (PREFIX, self._take_configs)):
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
                    _log.error("%s%s is not in force, and stays as it was: %s", where, name, error.message)
                    self.problems[where + name] = error.message
                else:
                    self.problems.pop(where + name, None)
                    continue
            if name in before:
                yield name, before[name]


def _service_config(service: str, value: bytes) -> ServiceConfig:
    return parse_service_config(value.decode(errors="replace"), PREFIX + service)
