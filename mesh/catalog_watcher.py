"""Watches on the registry, folded into one immutable catalog that is always the last good one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

from mesh.catalog import Catalog, Service, is_name
from mesh.errors import Error
from mesh.latest import Latest
from mesh.metrics import SNAPSHOT_AGE
from mesh.policy import NOTHING, Entries, reachable
from mesh.recovery import Backoff, Failures, now, sleep
from mesh.registry.model import Instance, Registry, is_ip
from mesh.rules import Rules, RulesWatcher
from mesh.scope import Scope
from mesh.stability import Rotation, rotate

PATIENCE_SECONDS = 2.0
"""How long the registry may take to answer before what was last known, or nothing, is put in its place."""

_ASK_AGAIN = Backoff(first_seconds=0.5, limit_seconds=5.0)

_log = logging.getLogger(__name__)


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
        self._rules = RulesWatcher(registry, _rules(last_known))
        self._patience: asyncio.Task[None] | None = None
        self._without_rules = False
        self._reach: dict[str, frozenset[str]] = {}
        self._reach_by: Entries | None = None
        self._refused: set[str] = set()
        self._seen: dict[str, _Seen] = {}
        self._outages: dict[str, int] = {}
        self._wants: dict[object, frozenset[str]] = {}
        self._watches: dict[str, asyncio.Task[None]] = {}

    async def __aenter__(self) -> Self:
        await self._scope.__aenter__()
        self._rules.start(self._scope, self._change_rules)
        self._scope.start(self._sweep(), name="sweep")
        SNAPSHOT_AGE.set_function(self._age)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        SNAPSHOT_AGE.set_function(lambda: 0.0)
        await self._scope.__aexit__(kind, error, trace)

    def _age(self) -> float:
        """Seconds since the registry answered; may be asked by another thread."""
        return now() - self._registry.answered_at

    @property
    def current(self) -> Catalog:
        """The last good catalog."""
        return self._catalog.value

    def changes(self) -> AsyncIterator[Catalog]:
        """The catalog now, then each newest one."""
        return self._catalog.changes()

    async def renew_with(self, other: Latest[str]) -> None:
        """Tell everybody of the catalog anew at each change of something else that they make of it. Until cancelled."""
        async for _ in other.changes():
            self._catalog.put(replace(self.current, changed_at=now()))

    def want(self, who: object, names: Iterable[str]) -> None:
        """Follow these services for somebody, in place of what they wanted before; none to let go."""
        self._wants.pop(who, None)
        if wanted := frozenset(names):
            self._wants[who] = wanted
        self._watch_more()

    def reach(self, name: str) -> frozenset[str]:
        """The services whose instances the calls for a service may meet, itself included."""
        entries = self._rules.current.entries
        if self._reach_by is not entries:
            self._reach, self._reach_by = {}, entries
        if name not in self._reach:
            self._reach[name] = reachable(name, entries)
        return self._reach[name]

    @property
    def problems(self) -> Mapping[str, str]:
        """Why a service config or a config entry is not in force, by its place in the registry."""
        return self._rules.problems

    @property
    def rules(self) -> Rules:
        """The contracts, service configs and config entries of all services, followed or not."""
        return self._rules.current

    def published(self, service: str) -> bytes | None:
        """The contract of a service as it is in the registry, followed or not; None before that has told of it."""
        return self._rules.published(service)

    @property
    def unread(self) -> frozenset[str]:
        """What the registry has not told of: prefixes of its KV store and kinds of config entries."""
        return frozenset(self._rules.missing)

    def _needed(self) -> frozenset[str]:
        """What is wanted, and where config entries lead to from there."""
        wanted = frozenset[str]().union(*self._wants.values())
        return frozenset[str]().union(*map(self.reach, wanted))

    def _watch_more(self) -> None:
        for name in self._needed() - self._watches.keys():
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
            services = {**self.current.services, service.name: service}
            self._catalog.set(Catalog(services, self._rules.current.entries, now()))

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

    def _change_rules(self) -> None:
        self._watch_more()
        self._publish(self._seen)

    def _publish(self, names: Iterable[str]) -> None:
        """Put these services into the catalog; not before the rules for them are known."""
        if self._rules.missing and not self._without_rules:
            self._patience = self._patience or self._scope.start(self._go_without_rules(), name="go without rules")
            return
        changed_at = now()
        services = {name: self._service(name) for name in names}
        self._catalog.set(Catalog({**self.current.services, **services}, self._rules.current.entries, changed_at))

    async def _go_without_rules(self) -> None:
        """Instances are known and rules are not: a token that may not read them must not cost the calls."""
        await sleep(PATIENCE_SECONDS)
        if missing := sorted(self._rules.missing):
            _log.warning("%s cannot be read: calls get what was last known, or the defaults", ", ".join(missing))
            self._without_rules = True
            self._publish(self._seen)

    def _service(self, name: str) -> Service:
        """The service as it is now: the same object as before when nothing about it changed."""
        seen, rules = self._seen[name], self._rules.current
        made = Service(
            name, seen.rotation.instances, bool(seen.observed), rules.contract(name), rules.config(name),
            rules.faults_of(name),
        )  # fmt: skip
        before = self.current.services.get(name)
        return before if before == made else made

    async def _sweep(self) -> None:
        """End the watches that nobody has wanted for at least `linger_seconds`."""
        idle: frozenset[str] = frozenset()
        while True:
            await sleep(self._linger_seconds)
            unwanted = frozenset(self._watches) - self._needed()
            for name in idle & unwanted:
                self._watches.pop(name).cancel()
                self._seen.pop(name, None)
                self._outages.pop(name, None)
            ended, idle = idle & unwanted, unwanted
            left = {name: service for name, service in self.current.services.items() if name not in ended}
            self._catalog.set(replace(self.current, services=left))


def _rules(catalog: Catalog) -> Rules:
    """What a catalog knows besides instances."""
    return Rules(
        contracts={name: service.contract for name, service in catalog.services.items()},
        configs={name: service.config for name, service in catalog.services.items() if service.config != NOTHING},
        entries=catalog.entries,
    )
