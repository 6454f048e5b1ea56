"""Config entries: central policy by kind and name (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mesh.registry.dev.index import Index, Scope
from mesh.registry.dev.intentions import INTENTIONS, KIND
from mesh.registry.dev.rejected import Rejected

KINDS = frozenset({
    "exported-services", "ingress-gateway", "mesh", "proxy-defaults", "service-defaults", "service-intentions",
    "service-resolver", "service-router", "service-splitter", "terminating-gateway",
})  # fmt: skip

CONFIG: Scope = "config"
_ROUTED = ("service-router", "service-splitter")
_HTTP = ("http", "http2", "grpc")


def kind_scope(kind: str) -> Scope:
    """What a query for one kind reads."""
    return f"config/{kind}"


def check_kind(kind: str) -> None:
    """Raises Rejected for a kind that Consul does not have."""
    if kind not in KINDS:
        raise Rejected(500, f"invalid config entry kind: {kind}")


def _also(kind: str) -> tuple[Scope, ...]:
    """What else queries read of entries of a kind."""
    return (INTENTIONS,) if kind == KIND else ()


class ConfigEntries:
    """All config entries as they were written, with indexes."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._entries: dict[tuple[str, str], dict[str, Any]] = {}

    def load(self, entry: Mapping[str, Any]) -> None:
        """Take over an entry from an earlier run, with its indexes."""
        self._entries[entry["Kind"], entry["Name"]] = dict(entry)

    def get(self, kind: str, name: str) -> dict[str, Any] | None:
        """One entry."""
        return self._entries.get((kind, name))

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        """All entries of a kind, sorted by name."""
        return [self._entries[key] for key in sorted(self._entries) if key[0] == kind]

    def all(self) -> list[dict[str, Any]]:
        """All entries, sorted by kind and name."""
        return [self._entries[key] for key in sorted(self._entries)]

    def put(self, entry: Mapping[str, Any], *, cas: int | None = None) -> bool:
        """Store a parsed entry; with `cas`, only where its ModifyIndex is that. Raises Rejected."""
        kind, name = entry["Kind"], entry["Name"]
        if cas is not None and not self.matches(kind, name, cas):
            return False
        known = self._entries.get((kind, name))
        if kind in _ROUTED:
            self._check_protocol(name, self.protocol(name))
        elif kind == "service-defaults":
            self._check_dependents(name, str(entry.get("Protocol") or self._global_protocol()))
        number = self._index.next(CONFIG, kind_scope(kind), *_also(kind))
        created = known["CreateIndex"] if known else number
        self.load({**entry, "CreateIndex": created, "ModifyIndex": number})
        return True

    def matches(self, kind: str, name: str, cas: int) -> bool:
        """Whether the ModifyIndex of an entry is that; one that is absent has 0."""
        known = self._entries.get((kind, name))
        return cas == (known["ModifyIndex"] if known else 0)

    def delete(self, kind: str, name: str) -> None:
        """Remove an entry; absent ones are fine. Raises Rejected when another entry needs it."""
        if (kind, name) not in self._entries:
            return
        if kind == "service-defaults":
            self._check_dependents(name, self._global_protocol())
        del self._entries[kind, name]
        self._index.next(CONFIG, kind_scope(kind), *_also(kind))

    def protocol(self, service: str) -> str:
        """The protocol that Consul would say a service speaks."""
        defaults = self._entries.get(("service-defaults", service), {})
        return str(defaults.get("Protocol") or self._global_protocol())

    def _global_protocol(self) -> str:
        config = self._entries.get(("proxy-defaults", "global"), {}).get("Config") or {}
        return str(config.get("protocol") or "tcp")

    def _check_dependents(self, service: str, protocol: str) -> None:
        if any((kind, service) in self._entries for kind in _ROUTED):
            self._check_protocol(service, protocol)

    @staticmethod
    def _check_protocol(service: str, protocol: str) -> None:
        if protocol not in _HTTP:
            raise Rejected(
                500,
                f'discovery chain "{service}" uses a protocol "{protocol}" that does not permit advanced routing '
                "or splitting behavior (write a service-defaults entry with Protocol grpc first)",
            )
