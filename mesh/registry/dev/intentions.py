"""Intentions: which service may call which (pure).

Rules and words are those of Consul 1.8: the most precise one decides, and without any a call is allowed. As in newer
ones, `service-intentions` entries are intentions too, and may have permissions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mesh.registry.dev.index import Index, Scope
from mesh.registry.dev.rejected import Rejected

INTENTIONS: Scope = "connect/intentions"
ANY = "*"
ALLOW, DENY = "allow", "deny"
SOURCE, DESTINATION = "source", "destination"
KIND = "service-intentions"
NEVER = "0001-01-01T00:00:00Z"
"""Go's time for none."""

_METHODS = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"})


@dataclass(frozen=True, kw_only=True)
class Intention:
    """One rule. Times are Consul's text."""

    id: str
    source: str
    destination: str
    """Names of services; ANY for all."""

    action: str
    """Empty where there are permissions."""

    permissions: list[Any] = field(default_factory=list)
    """Of a config entry, as it has them."""

    description: str = ""
    meta: dict[str, str] = field(default_factory=dict)
    created_at: str
    updated_at: str
    create_index: int = 0
    modify_index: int = 0

    @property
    def precedence(self) -> int:
        """The largest decides."""
        return 9 - (self.source == ANY) - 3 * (self.destination == ANY)

    def covers(self, end: str, service: str) -> bool:
        """Whether it says something of a service as SOURCE or DESTINATION."""
        return (self.source if end == SOURCE else self.destination) in (service, ANY)

    def problems(self) -> Iterator[str]:
        """Why Consul would not take it."""
        for name, value in (("SourceName", self.source), ("DestinationName", self.destination)):
            if not value:
                yield f"{name} must be set"
            elif ANY in value and value != ANY:
                yield f"{name}: wildcard character '*' cannot be used with partial values"
        if self.action not in (ALLOW, DENY):
            yield "Action must be set to 'allow' or 'deny'"


class Intentions:
    """All intentions, with indexes."""

    def __init__(self, index: Index, entries: Callable[[], Iterable[Intention]] = tuple) -> None:
        """`entries` says what config entries say."""
        self._index, self._entries = index, entries
        self._held: dict[str, Intention] = {}

    def load(self, intention: Intention) -> None:
        """Take over one from an earlier run, with its indexes."""
        self._held[intention.id] = intention

    def get(self, intention_id: str) -> Intention | None:
        """One intention."""
        return self._held.get(intention_id)

    def all(self) -> list[Intention]:
        """All, the most precise first."""
        return sorted((*self._held.values(), *self._entries()), key=_order)

    def like(self, intention: Intention) -> Intention | None:
        """Another one between the same services."""
        return next((held for held in self.all() if held.id != intention.id and _same(held, intention)), None)

    def between(self, source: str, destination: str) -> Intention | None:
        """The one that names just these two."""
        return next((one for one in self.all() if (one.source, one.destination) == (source, destination)), None)

    def put(self, intention: Intention) -> None:
        """Add one, or replace that with its id."""
        known, number = self.get(intention.id), self._index.next(INTENTIONS)
        created = known.create_index if known else number
        self.load(replace(intention, create_index=created, modify_index=number))

    def delete(self, intention_id: str) -> bool:
        """Remove one; False when there is none with that id."""
        if self._held.pop(intention_id, None) is None:
            return False
        self._index.next(INTENTIONS)
        return True

    @property
    def held(self) -> tuple[Intention, ...]:
        """Those with an id, which are not of config entries."""
        return tuple(self._held.values())

    def match(self, end: str, service: str) -> list[Intention]:
        """Those that say something of a service as SOURCE or DESTINATION, the most precise first."""
        return [intention for intention in self.all() if intention.covers(end, service)]

    def allowed(self, source: str, destination: str) -> bool:
        """Whether one service may call another."""
        return _decided(i for i in self.match(DESTINATION, destination) if i.covers(SOURCE, source))


def of_entry(entry: Mapping[str, Any]) -> Iterator[Intention]:
    """What a stored `service-intentions` entry says. Its intentions have no id of their own."""
    for source in entry.get("Sources") or ():
        yield Intention(
            id="",
            source=source["Name"],
            destination=entry["Name"],
            action=source.get("Action") or "",
            permissions=[_in_capitals(one) for one in source.get("Permissions") or ()],
            description=source.get("Description") or "",
            created_at=NEVER,
            updated_at=NEVER,
            create_index=entry["CreateIndex"],
            modify_index=entry["ModifyIndex"],
        )


def check_entry(entry: Mapping[str, Any], others: Iterable[Intention]) -> None:
    """Raises Rejected for a `service-intentions` entry that Consul would not take beside other intentions.

    So are those with JWT, which this registry does not tell, and nobody would keep to.
    """
    if entry.get("JWT"):
        raise Rejected(500, "JWT is not supported by this registry: use Sources with Permissions")
    sources = entry.get("Sources")
    if not isinstance(sources, list) or not sources:
        raise Rejected(500, "At least one source is required")
    for i, source in enumerate(sources):
        if not isinstance(source, Mapping) or not isinstance(source.get("Name"), str) or not source["Name"]:
            raise Rejected(500, f"Sources[{i}].Name is required")
        if bool(source.get("Permissions")) == bool(source.get("Action")):
            raise Rejected(500, f"Sources[{i}].Action must be omitted if Permissions are specified, and set if not")
        for problem in _of_permissions(source.get("Permissions") or (), entry["Name"]):
            raise Rejected(500, f"Sources[{i}].{problem}")
        if any((held.source, held.destination) == (source["Name"], entry["Name"]) for held in others):
            raise Rejected(500, f"duplicate intention found: {source['Name']} => {entry['Name']}")


def _of_permissions(permissions: Any, destination: str) -> Iterator[str]:
    """Why Consul would not take the permissions of one source."""
    if not isinstance(permissions, list | tuple):
        yield "Permissions is no list"
        return
    if permissions and destination == ANY:
        yield "Permissions cannot be for all destinations"
    for j, one in enumerate(permissions):
        for problem in _of_permission(one):
            yield f"Permissions[{j}]{problem}"


def _of_permission(one: Any) -> Iterator[str]:
    if not isinstance(one, Mapping) or one.get("Action") not in (ALLOW, DENY):
        yield ".Action must be set to 'allow' or 'deny'"
        return
    http = one.get("HTTP")
    if not isinstance(http, Mapping) or not any(http.values()):
        yield ".HTTP is required, with a path, headers or methods"
        return
    methods = http.get("Methods") or []
    if not isinstance(methods, list):
        yield ".HTTP.Methods is no list"
        return
    known = [method.upper() for method in methods if isinstance(method, str) and method.upper() in _METHODS]
    if len(known) < len(methods):
        yield f".HTTP.Methods has an invalid one: {methods}"
    if len(set(known)) < len(known):
        yield f".HTTP.Methods has one more than once: {methods}"


def _in_capitals(permission: Mapping[str, Any]) -> dict[str, Any]:
    """A permission as Consul tells it: methods of HTTP may be written in small letters."""
    http = permission.get("HTTP")
    if not http or not http.get("Methods"):
        return dict(permission)
    return {**permission, "HTTP": {**http, "Methods": [method.upper() for method in http["Methods"]]}}


def _decided(found: Iterable[Intention]) -> bool:
    return next((intention.action == ALLOW for intention in found), True)


def _same(one: Intention, other: Intention) -> bool:
    return (one.source, one.destination) == (other.source, other.destination)


def _order(intention: Intention) -> tuple[int, str, str]:
    return -intention.precedence, intention.source, intention.destination
