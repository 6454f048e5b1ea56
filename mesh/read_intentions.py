"""Intentions as Consul writes them, read. Pure.

Fields: https://developer.hashicorp.com/consul/api-docs/connect/intentions, and for permissions
https://developer.hashicorp.com/consul/docs/connect/config-entries/service-intentions. One that asks for what this mesh
cannot look at denies.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from mesh.intentions import ANY, VERBS, Intention, Intentions, Permission
from mesh.policy.entry_router import path_and_headers
from mesh.policy.reading import Fields
from mesh.registry.model import Intended

_OTHERS: Final = ("SourcePeer", "SourceSamenessGroup")
"""Say that the source is of another mesh, none of whose services can connect here."""

_DEFAULT: Final = ("", "default", ANY)

_UNSEEN: Final = frozenset({
    "content-length", "content-type", "grpc-accept-encoding", "grpc-encoding", "grpc-timeout", "host", "te",
})  # fmt: skip
"""Headers that gRPC keeps from a server, or shows it otherwise than they were sent."""


def read(intended: Intended) -> Intentions:
    """Those about services of this mesh. Raises ValueError for what Consul does not answer."""
    found = [_read(one) for one in intended.intentions if _is_here(one)]
    found.sort(key=lambda intention: -intention.precedence)
    return Intentions(held=tuple(found), default_allow=intended.default_allow)


def _is_here(one: Mapping[str, Any]) -> bool:
    places = ("SourceNS", "DestinationNS", "SourcePartition", "DestinationPartition")
    return not any(one.get(key) for key in _OTHERS) and all(one.get(key, "") in _DEFAULT for key in places)


def _read(one: Mapping[str, Any]) -> Intention:
    source, destination = one.get("SourceName"), one.get("DestinationName")
    if not (source and destination and isinstance(source, str) and isinstance(destination, str)):
        raise ValueError("an intention without SourceName and DestinationName")
    faults = list(_unknown(one))
    permissions = tuple(_permissions(one.get("Permissions"), faults))
    if not permissions and one.get("Action") not in ("allow", "deny"):
        faults.append(f"Action: {one.get('Action')!r} is neither allow nor deny")
    return Intention(
        source=source,
        destination=destination,
        precedence=_precedence(one, source, destination),
        allow=one.get("Action") == "allow" and not permissions,
        permissions=permissions,
        fault="; ".join(faults),
        id=str(one.get("ID") or ""),
    )


def _precedence(one: Mapping[str, Any], source: str, destination: str) -> int:
    said = one.get("Precedence")
    return said if isinstance(said, int) and said > 0 else 9 - (source == ANY) - 3 * (destination == ANY)


def _unknown(one: Mapping[str, Any]) -> Iterator[str]:
    if one.get("JWT"):
        yield "JWT: tokens are not looked at here"
    if one.get("SourceType", "consul") not in ("", "consul"):
        yield f"SourceType: {one['SourceType']!r} is not consul"


def _permissions(given: Any, faults: list[str]) -> Iterable[Permission]:
    fields = Fields({"Permissions": given}, "", faults)
    return [_permission(one) for one in fields.objects("Permissions", "Action HTTP JWT")]


def _permission(given: Fields) -> Permission:
    given.unsupported(JWT="tokens are not looked at here")
    http = given.object("HTTP", "PathExact PathPrefix PathRegex Methods Header")
    action = given.text("Action")
    if action not in ("allow", "deny"):
        given.fault("Action", f"{action!r} is neither allow nor deny")
    made = Permission(allow=action == "allow", match=path_and_headers(http), verbs=_verbs(http))
    if made == Permission(allow=made.allow):
        given.fault("HTTP", "says nothing of a path, headers or methods; PathPrefix / is for every call")
    for condition in made.match.conditions:
        if condition.name in _UNSEEN:
            http.fault("Header", f"{condition.name!r} is nothing that a server of gRPC can look at")
    return made


def _verbs(http: Fields) -> tuple[str, ...]:
    verbs = http.texts("Methods")
    for verb in verbs:
        if verb not in VERBS:
            http.fault("Methods", f"{verb!r} is no method of HTTP")
    return verbs
