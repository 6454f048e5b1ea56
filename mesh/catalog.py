"""Watches on the registry, folded into one immutable catalog that is always the last good one."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from mesh import contract as contracts
from mesh.contract import Contract
from mesh.errors import Error
from mesh.latest import Latest
from mesh.recovery import Backoff, Failures, now, sleep
from mesh.registry.model import EMPTY, Instance, Registry, is_ip
from mesh.scope import Scope
from mesh.stability import Rotation, rotate

PATIENCE_SECONDS = 2.0
"""How long the registry may take to answer before what was last known, or nothing, is put in its place."""

_ASK_AGAIN = Backoff(first_seconds=0.5, limit_seconds=5.0)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,126}")

_log = logging.getLogger(__name__)


def is_name(text: str) -> bool:
    """Whether a text can name a service on the mesh; a registry may hold others."""
    return bool(_NAME.fullmatch(text))


@dataclass(frozen=True)
class Service:
    """One service as callers see it."""

    name: str
    instances: tuple[Instance, ...] = ()
    """Those in rotation, sorted by id."""

    registered: bool = False
    """Whether the registry knows an instance of whatever health."""

    contract: Contract = Contract()


@dataclass(frozen=True)
class Catalog:
    """Every service that was asked for and that the registry has answered."""

    services: Mapping[str, Service] = field(default_factory=lambda: EMPTY)


@dataclass(frozen=True)
class _Seen:
    """What the registry said last about a service, and what is made of it."""

    observed: tuple[Instance, ...] = ()
    rotation: Rotation = Rotation()


class CatalogWatcher:
    """Follows what it is asked to follow, for as long as its context is open.

    A watch starts when a service is first wanted and ends a while after nobody wants it, so cost follows use.
    While the registry is away the last good catalog stays.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        last_known: Catalog = Catalog(),
        hold_seconds: float = 30.0,
        linger_seconds: float = 300.0,
    ) -> None:
        self._registry = registry
        self._last_known = last_known
        self._hold_seconds = hold_seconds
        self._linger_seconds = linger_seconds
        self._scope = Scope()
        self._catalog = Latest(Catalog())
        self._contracts: Mapping[str, Contract] | None = None
        self._refused: set[str] = set()
        self._seen: dict[str, _Seen] = {}
        self._outages: dict[str, int] = {}
        self._wants: dict[object, frozenset[str]] = {}
        self._watches: dict[str, asyncio.Task[None]] = {}

    async def __aenter__(self) -> Self:
        await self._scope.__aenter__()
        self._scope.start(self._follow_contracts(), name="contracts")
        self._scope.start(self._sweep(), name="sweep")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._scope.__aexit__(kind, error, trace)

    @property
    def current(self) -> Catalog:
        """The last good catalog."""
        return self._catalog.value

    def changes(self) -> AsyncIterator[Catalog]:
        """The catalog now, then each newest one."""
        return self._catalog.changes()

    def want(self, who: object, names: Iterable[str]) -> None:
        """Follow these services for somebody, in place of what they wanted before; none to let go."""
        self._wants.pop(who, None)
        if wanted := frozenset(names):
            self._wants[who] = wanted
        for name in wanted - self._watches.keys():
            self._watches[name] = self._scope.start(self._follow(name), name=f"watch {name}")

    async def _follow(self, name: str) -> None:
        """Watch one service; a name that no registry can hold is answered without asking."""
        if not is_name(name):
            self._observe(name, ())
            return
        if name in self._last_known.services:
            self._scope.start(self._fall_back(self._last_known.services[name]), name=f"fall back {name}")
        async for observed in self._registry.watch_instances(name):
            self._observe(name, observed)

    async def _fall_back(self, service: Service) -> None:
        """Serve what was known before this process, unless the registry answers soon."""
        await sleep(PATIENCE_SECONDS)
        if service.name in self._watches and service.name not in self.current.services:
            _log.warning("the registry does not answer; %s is served as last known", service.name)
            self._seen.setdefault(service.name, _Seen(service.instances, Rotation(service.instances)))
            self._catalog.set(Catalog({**self.current.services, service.name: service}))

    def _observe(self, name: str, found: tuple[Instance, ...]) -> None:
        observed = tuple(instance for instance in found if self._is_dialable(instance))
        before = self._seen.get(name, _Seen()).rotation
        was_away = self._outages.get(name, 0) < self._registry.outages
        self._outages[name] = self._registry.outages
        rotation = rotate(before, observed, now=now(), hold_seconds=self._hold_seconds, was_away=was_away)
        self._seen[name] = _Seen(observed, rotation)
        self._publish([name])
        if (expiry := rotation.expiry(self._hold_seconds)) is not None:
            self._scope.start(self._give_up(name, observed, expiry), name=f"give up {name}")

    def _is_dialable(self, instance: Instance) -> bool:
        """Whether clients take its address; one that they do not would cost them all the others too."""
        if is_ip(instance.address):
            return True
        if instance.id not in self._refused:
            self._refused.add(instance.id)
            _log.warning("%s is left out: %r is no IP address, and xDS takes no other", instance.id, instance.address)
        return False

    async def _give_up(self, name: str, observed: tuple[Instance, ...], at: float) -> None:
        """Look again when the first lost instance is held no more, unless the registry spoke meanwhile.

        A registry that is away by then is waited for: nothing is taken from callers on its last word.
        """
        await sleep(at - now())
        failures = Failures()
        while name in self._seen and self._seen[name].observed is observed:
            try:
                await self._registry.instances(name)
            except Error:
                await failures.wait(_ASK_AGAIN)
            else:
                self._observe(name, observed)
                return

    async def _follow_contracts(self) -> None:
        raw: Mapping[str, bytes] = {}
        async for values in self._registry.watch_prefix(contracts.PREFIX):
            changed = {key: value for key, value in values.items() if raw.get(key) != value}
            # A contract that vanished is kept: Consul forgot it, as nobody else takes one back.
            self._contracts, raw = {**(self._contracts or {}), **dict(_parse(changed))}, values
            self._publish(self._seen)

    def _publish(self, names: Iterable[str]) -> None:
        """Put these services into the catalog; not before contracts are known, since policy hangs on them."""
        if self._contracts is None:
            self._scope.start(self._go_without_contracts(), name="go without contracts")
            return
        services = {name: self._service(name) for name in names}
        self._catalog.set(Catalog({**self.current.services, **services}))

    async def _go_without_contracts(self) -> None:
        """Instances are known and contracts are not: a token that may not read them must not cost the calls."""
        await sleep(PATIENCE_SECONDS)
        if self._contracts is None:
            _log.warning("the contracts in %s cannot be read: calls get the default policy", contracts.PREFIX)
            self._contracts = {}
            self._publish(self._seen)

    def _service(self, name: str) -> Service:
        """The service as it is now: the same object as before when nothing about it changed."""
        seen, known = self._seen[name], self._contracts or {}
        made = Service(name, seen.rotation.instances, bool(seen.observed), known.get(name, Contract()))
        before = self.current.services.get(name)
        return before if before == made else made

    async def _sweep(self) -> None:
        """End the watches that nobody has wanted for at least `linger_seconds`."""
        idle: frozenset[str] = frozenset()
        while True:
            await sleep(self._linger_seconds)
            unwanted = frozenset(self._watches).difference(*self._wants.values())
            for name in idle & unwanted:
                self._watches.pop(name).cancel()
                self._seen.pop(name, None)
                self._outages.pop(name, None)
            ended, idle = idle & unwanted, unwanted
            self._catalog.set(Catalog({n: s for n, s in self.current.services.items() if n not in ended}))


def _parse(values: Mapping[str, bytes]) -> Iterator[tuple[str, Contract]]:
    for key, value in values.items():
        try:
            yield key.removeprefix(contracts.PREFIX), Contract.parse(value)
        except Error as error:
            _log.warning("%s stays as it was: %s", key, error)
