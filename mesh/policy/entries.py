"""Config entries by kind and name, as far as they say where calls go and what holds for them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from mesh.errors import Code
from mesh.policy.model import ANYTHING, Balancing, Match, Selection
from mesh.registry.model import EMPTY

KINDS: Final = ("service-defaults", "service-resolver", "service-router", "service-splitter")
"""The kinds that this mesh reads."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One route of a service-router; None and empty where it says nothing."""

    match: Match = ANYTHING
    service: str = ""
    subset: str = ""
    timeout_seconds: float | None = None
    attempts: int | None = None
    codes: tuple[Code, ...] = ()
    where: str = ""


@dataclass(frozen=True, kw_only=True)
class Split:
    """One part of a service-splitter, in hundredths of a percent."""

    weight: int
    service: str = ""
    subset: str = ""
    where: str = ""


@dataclass(frozen=True, kw_only=True)
class Detour:
    """Another service or subset, for a redirect or a failover; empty for the same."""

    service: str = ""
    subset: str = ""
    where: str = ""


@dataclass(frozen=True, kw_only=True)
class Router:
    """A service-router."""

    rules: tuple[Rule, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Splitter:
    """A service-splitter."""

    splits: tuple[Split, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Resolver:
    """A service-resolver."""

    default_subset: str = ""
    subsets: Mapping[str, Selection] = field(default_factory=lambda: EMPTY)
    redirect: Detour | None = None
    failover: Mapping[str, tuple[Detour, ...]] = field(default_factory=lambda: EMPTY)
    """By subset; `*` for all others."""

    connect_timeout_seconds: float | None = None
    timeout_seconds: float | None = None
    balancing: Balancing | None = None


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """A service-defaults."""

    protocol: str = ""
    permissive: bool = False
    """Whether instances that speak no TLS may be called."""


Parsed = Router | Splitter | Resolver | Defaults
P = TypeVar("P", bound=Parsed)


@dataclass(frozen=True)
class Entry:
    """A config entry as it was written, and what it says."""

    raw: Mapping[str, Any]
    parsed: Parsed
    notes: tuple[str, ...] = field(default=(), compare=False)
    """What of it has no effect here, one line each."""


@dataclass(frozen=True)
class Entries:
    """Config entries by kind and name."""

    held: Mapping[tuple[str, str], Entry] = field(default_factory=dict)

    def router(self, service: str) -> Router:
        """What the service-router of a service says; one without rules when there is none."""
        return self._get("service-router", service, Router())

    def splitter(self, service: str) -> Splitter:
        """What the service-splitter of a service says; one without splits when there is none."""
        return self._get("service-splitter", service, Splitter())

    def resolver(self, service: str) -> Resolver:
        """What the service-resolver of a service says; an empty one when there is none."""
        return self._get("service-resolver", service, Resolver())

    def defaults(self, service: str) -> Defaults:
        """What the service-defaults of a service say; empty ones when there are none."""
        return self._get("service-defaults", service, Defaults())

    def of(self, services: frozenset[str]) -> Mapping[tuple[str, str], Entry]:
        """The entries of some services."""
        keys = ((kind, name) for name in sorted(services) for kind in KINDS)
        return {key: self.held[key] for key in keys if key in self.held}

    def _get(self, kind: str, service: str, default: P) -> P:
        entry = self.held.get((kind, service))
        return entry.parsed if entry and isinstance(entry.parsed, type(default)) else default


def source(kind: str, name: str) -> str:
    """How the origin of a value is told."""
    return f"{kind}/{name}"
