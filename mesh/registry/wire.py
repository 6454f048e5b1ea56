"""Consul's JSON to and from this mesh's model (pure)."""

from __future__ import annotations

from datetime import datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from mesh.registry.model import Health, Instance, Intended, Leaf, Registration

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

CONSUL = "consul"
"""Consul registers its own servers under this name; they are not on the mesh."""

_RANK = {Health.PASSING: 0, Health.WARNING: 1, Health.CRITICAL: 2}


def check_id(instance_id: str) -> str:
    """Id of the TTL check of an instance."""
    return f"service:{instance_id}"


def check_of(registration: Registration, deregister_after_seconds: float) -> dict[str, Any]:
    """The TTL check that goes with a registration."""
    return {
        "CheckID": check_id(registration.id),
        "Name": "mesh sidecar",
        "TTL": duration(registration.ttl_seconds),
        "DeregisterCriticalServiceAfter": duration(deregister_after_seconds),
    }


def duration(seconds: float) -> str:
    """Seconds as Go writes a duration."""
    return f"{round(seconds * 1000)}ms"


def is_leader(answer: object) -> bool:
    """Whether this can be the answer of `/v1/status/leader`: an address, empty while there is none."""
    return isinstance(answer, str) and (not answer or ":" in answer)


def instances(entries: Iterable[Mapping[str, Any]] | None) -> tuple[Instance, ...]:
    """The answer of `/v1/health/service/<name>`, sorted by id."""
    return tuple(sorted((_instance(entry) for entry in entries or ()), key=lambda instance: instance.id))


def _instance(entry: Mapping[str, Any]) -> Instance:
    node, service = entry["Node"], entry["Service"]
    health, output = health_of(entry.get("Checks") or ())
    return Instance(
        service=service["Service"],
        id=service["ID"],
        address=service.get("Address") or node["Address"],
        port=service.get("Port") or 0,
        tags=tuple(service.get("Tags") or ()),
        meta=MappingProxyType(dict(service.get("Meta") or {})),
        node=node["Node"],
        health=health,
        output=output,
    )


def health_of(checks: Iterable[Mapping[str, Any]]) -> tuple[Health, str]:
    """The worst status among checks and what the first check with that status said; no check at all passes."""
    worst, output = Health.PASSING, ""
    for check in checks:
        status = _health(check.get("Status", ""))
        if _RANK[status] > _RANK[worst]:
            worst, output = status, check.get("Output") or ""
        elif status is worst and worst is not Health.PASSING:
            output = output or check.get("Output") or ""
    return worst, output


def _health(status: str) -> Health:
    return Health(status) if status in _STATUSES else Health.CRITICAL


_STATUSES = frozenset(Health)


def services(answer: Mapping[str, Iterable[str]] | None) -> Mapping[str, tuple[str, ...]]:
    """The answer of `/v1/catalog/services` without Consul itself, tags sorted."""
    found = {name: tuple(sorted(tags or ())) for name, tags in (answer or {}).items() if name != CONSUL}
    return MappingProxyType(dict(sorted(found.items())))


def values(entries: Iterable[Mapping[str, Any]] | None) -> Mapping[str, bytes]:
    """The answer of `/v1/kv/<prefix>?recurse` whose values are decoded already."""
    return MappingProxyType({entry["Key"]: entry["Value"] or b"" for entry in entries or ()})


def config_entries(entries: Iterable[Mapping[str, Any]] | None) -> tuple[Mapping[str, Any], ...]:
    """The answer of `/v1/config/<kind>`, sorted by name, without the indexes."""
    found = (MappingProxyType({k: v for k, v in entry.items() if k not in _INDEXES}) for entry in entries or ())
    return tuple(sorted(found, key=lambda entry: str(entry.get("Name", ""))))


def intended(answer: Iterable[Mapping[str, Any]] | None, *, default_allow: bool) -> Intended:
    """The answer of `/v1/connect/intentions`, without what changes when nothing of it does.

    `default_allow` is what Consul says of two services that nobody has. Where an intention is about all services, it is
    that one which spoke, and the default cannot be known: so it is to deny, for the calls that no permission takes.
    """
    found = tuple(MappingProxyType({k: v for k, v in one.items() if k not in _INDEXES}) for one in answer or ())
    is_hidden = any(one.get("SourceName") == one.get("DestinationName") == _ALL for one in found)
    return Intended(intentions=found, default_allow=default_allow and not is_hidden)


def leaf(answer: Mapping[str, Any]) -> Leaf:
    """The answer of `/v1/agent/connect/ca/leaf/<service>`."""
    return Leaf(
        service=answer["Service"],
        uri=answer["ServiceURI"],
        certificate=answer["CertPEM"],
        key=answer["PrivateKeyPEM"],
        end=datetime.fromisoformat(answer["ValidBefore"]),
    )


def roots(answer: Mapping[str, Any]) -> tuple[str, ...]:
    """The answer of `/v1/agent/connect/ca/roots`, those that sign no more included, as leaves of theirs may be used."""
    return tuple(sorted(root["RootCert"] for root in answer["Roots"]))


_ALL = "*"
_INDEXES = frozenset({"CreateIndex", "ModifyIndex"})
