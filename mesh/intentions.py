"""Intentions: which service may call which, and why. Pure.

The most precise one that names both ends decides; where none does, the registry's default does. One with permissions
asks them in order, and the first that takes the call decides; what none of them takes is left to the default.
https://developer.hashicorp.com/consul/docs/connect/intentions
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

from mesh.policy.model import ANYTHING, Comparison, HeaderMatch, Match
from mesh.policy.patterns import is_whole
from mesh.registry.model import EMPTY

ANY: Final = "*"
"""Every service."""

PARTS: Final = ("gateway", "mesh")
"""Who calls without being registered: the edge, and a sidecar with whoever uses its bootstrap file."""

VERB: Final = "POST"
"""The method of HTTP that every call of gRPC has."""

VERBS: Final = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"})
"""Methods of HTTP that a permission may name."""

_SPIFFE: Final = re.compile(r"spiffe://[^/]+(?:/ap/default)?/ns/default/dc/[^/]+/svc/([^/]+)")


def service_of(spiffe_id: str) -> str:
    """The service that proves itself with an id as Consul writes it; empty for any other id."""
    found = _SPIFFE.fullmatch(spiffe_id)
    return unquote(found[1]) if found else ""


@dataclass(frozen=True, kw_only=True)
class Permission:
    """What is said of some of the calls between two services."""

    allow: bool
    match: Match = ANYTHING
    verbs: tuple[str, ...] = ()
    """Methods of HTTP; none for all."""

    def takes(self, path: str, headers: Mapping[str, str]) -> bool:
        """Whether it says something of a call; headers by their names in small letters."""
        if self.verbs and VERB not in self.verbs:
            return False
        return self.match.covers(path) and all(_holds(one, headers) for one in self.match.conditions)


@dataclass(frozen=True, kw_only=True)
class Intention:
    """What is said of the calls of one service, or all, to one, or all."""

    source: str
    destination: str
    precedence: int = 9
    """The largest decides."""

    allow: bool = False
    permissions: tuple[Permission, ...] = ()
    """In place of `allow`."""

    fault: str = ""
    """Why it cannot be kept as it is meant: it denies then."""

    id: str = ""
    """By which the registry knows it; empty for one of a `service-intentions` entry."""

    def __str__(self) -> str:
        """As Consul's own command writes it."""
        return f"{self.source} => {self.destination}"

    def is_from(self, source: str) -> bool:
        """Whether it is about calls of a service."""
        return self.source in (source, ANY)

    def is_to(self, destination: str) -> bool:
        """Whether it is about calls to a service."""
        return self.destination in (destination, ANY)

    @property
    def looks_at_headers(self) -> bool:
        """Whether two calls of one method may be decided differently."""
        return any(permission.match.conditions for permission in self.permissions)


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Whether a call may be, and why."""

    allowed: bool
    reason: str
    intention: Intention | None = None
    """None where no intention is about the two."""

    is_default: bool = False
    """Whether the default decided."""


@dataclass(frozen=True, kw_only=True)
class Intentions:
    """Who may call whom."""

    held: tuple[Intention, ...] = ()
    """The most precise first."""

    default_allow: bool = False

    def to(self, destination: str) -> Intentions:
        """What of it is about the calls to one service."""
        return Intentions(held=tuple(i for i in self.held if i.is_to(destination)), default_allow=self.default_allow)

    def between(self, source: str, destination: str) -> Intention | None:
        """The one that decides."""
        return next((i for i in self.held if i.is_from(source) and i.is_to(destination)), None)

    def decide(self, source: str, destination: str, path: str, headers: Mapping[str, str] = EMPTY) -> Decision:
        """Whether a service may call another's `/package.Service/Method`."""
        if (found := self.between(source, destination)) is None:
            return self._left(f"no intention is about {source} => {destination}")
        if found.fault:
            reason = f"the intention {found} cannot be kept, so it denies all: {found.fault}"
            return Decision(allowed=False, reason=reason, intention=found)
        if not found.permissions:
            reason = f"{_does(found.allow)} by the intention {found}"
            return Decision(allowed=found.allow, reason=reason, intention=found)
        for number, permission in enumerate(found.permissions, 1):
            if permission.takes(path, headers):
                reason = f"{_does(permission.allow)} by permission {number} of the intention {found}"
                return Decision(allowed=permission.allow, reason=reason, intention=found)
        return self._left(f"no permission of the intention {found} takes the call", found)

    def _left(self, why: str, intention: Intention | None = None) -> Decision:
        reason = f"{_does(self.default_allow)} by default, as {why}"
        return Decision(allowed=self.default_allow, reason=reason, intention=intention, is_default=True)


def _does(allow: bool) -> str:
    return "allowed" if allow else "denied"


def _holds(condition: HeaderMatch, headers: Mapping[str, str]) -> bool:
    """As Envoy has it: a header that is not there meets only the condition that it is not there."""
    value = headers.get(condition.name)
    if value is None or condition.comparison is Comparison.PRESENT:
        return condition.comparison is Comparison.PRESENT and (value is not None) is not condition.inverted
    return _meets(condition, value) is not condition.inverted


def _meets(condition: HeaderMatch, value: str) -> bool:
    wanted, kind = condition.value, condition.comparison
    if kind is Comparison.REGEX:
        return is_whole(f"(?i){wanted}" if condition.ignore_case else wanted, value)
    if condition.ignore_case:
        wanted, value = wanted.lower(), value.lower()
    if kind is Comparison.EXACT:
        return value == wanted
    if kind is Comparison.PREFIX:
        return value.startswith(wanted)
    return value.endswith(wanted) if kind is Comparison.SUFFIX else wanted in value
