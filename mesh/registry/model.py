"""What a registry is: instances, their health, and the one protocol that Consul and its doubles satisfy."""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from ipaddress import ip_address
from types import MappingProxyType
from typing import Any, Protocol

EMPTY: Mapping[str, Any] = MappingProxyType({})


MAX_VALUE_BYTES = 512 * 1024
"""Longest value of the KV store: Consul's own limit."""

MESH_TAG = "meshwright"
"""Tag that every sidecar gives its instances, so that services on the mesh are told from all others in Consul."""

STRANGER = "contract-stands-back"
"""Key of the metadata of an instance that offers nothing of the contract that was in force when it joined."""

TLS_META = "tls"
"""Key of an instance's metadata: what it demands of those who connect, MUTUAL_TLS or nothing."""

MUTUAL_TLS = "mutual"

METRICS_META = "metrics-port"
"""Key of the metadata of an instance that serves `/metrics`: on this port, at its address."""


class Health(enum.StrEnum):
    """Health of an instance: the worst of its checks, in Consul's words."""

    PASSING = "passing"
    """Serves, and is balanced to."""

    WARNING = "warning"
    """Serves, but says that something is off; still balanced to."""

    CRITICAL = "critical"
    """Does not serve; taken out of rotation."""


def is_ip(text: str) -> bool:
    """Whether a text is an IP address; endpoints in xDS are nothing else."""
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


@dataclass(frozen=True, kw_only=True)
class Registration:
    """One running process as its sidecar announces it. Consul: `PUT /v1/agent/service/register`."""

    service: str
    """Name that clients dial, as in `xds:///order`."""

    id: str
    """Unique among all instances of all services on the agent."""

    address: str
    port: int
    tags: tuple[str, ...] = ()
    meta: Mapping[str, str] = field(default_factory=lambda: EMPTY)
    """Keys this mesh reads: `zone`, `protocol` (`grpc` unless given, or `http`), `http-prefixes`, `load` (`orca` where
    the server tells it in trailers); for Prometheus `metrics-port`, and for people `version` and `start-time` (RFC
    3339), which `mesh run` adds."""

    ttl_seconds: float = 30.0
    """The check turns critical when no report arrives for so long (a dead host)."""


@dataclass(frozen=True, kw_only=True)
class Instance:
    """One instance as the registry knows it. Consul: an element of `GET /v1/health/service/<name>`."""

    service: str
    id: str
    address: str
    port: int
    tags: tuple[str, ...] = ()
    meta: Mapping[str, str] = field(default_factory=lambda: EMPTY)
    node: str = ""
    health: Health = Health.PASSING
    output: str = ""
    """What the failing check said (`leaving`, `exited`, ...); empty when all pass."""


@dataclass(frozen=True, kw_only=True)
class Leaf:
    """A certificate that proves to be a service. Consul: `GET /v1/agent/connect/ca/leaf/<service>`."""

    service: str
    uri: str
    """SPIFFE id: `spiffe://<trust domain>/ns/default/dc/<datacenter>/svc/<service>`."""

    certificate: str
    """PEM, with what is between it and a root behind it."""

    key: str = field(repr=False)
    """PEM. Secret."""

    end: datetime
    """It is valid until then."""


@dataclass(frozen=True, kw_only=True)
class Intended:
    """Who may call whom. Consul: `GET /v1/connect/intentions`."""

    intentions: tuple[Mapping[str, Any], ...] = ()
    """As Consul writes them, those of its `service-intentions` entries included; the most precise first."""

    default_allow: bool = False
    """What holds where none of them says anything: the default of Consul's ACLs. False where that cannot be known."""


class Registry(Protocol):
    """Where instances are announced and found, and where configuration is kept.

    The watches never end and never raise for a registry that is away, refuses the token or answers what makes no
    sense, as a wrong port or a proxy does: each yields the first value that it reads, then every value that differs
    from the one before, and retries with jittered back-off meanwhile. Only a kind of config entry that this Consul
    does not know is INVALID_ARGUMENT, as no wait can mend it. Each holds at most one connection.
    All other calls raise `mesh.errors.Error` with code UNAVAILABLE when the registry cannot be reached and
    PERMISSION_DENIED when it refuses the token. Every call may be cancelled.
    """

    @property
    def outages(self) -> int:
        """How often a watch found the registry away: when this has grown, the next value may be less than all."""

    @property
    def answered_at(self) -> float:
        """When the registry last answered a read or a watch, on the monotonic clock; before that, when this was made.

        One that has nothing new to tell answers each watch at least once a minute.
        """

    async def register(self, registration: Registration) -> None:
        """Announce an instance; its check starts critical until the first `report`.

        Repeating it is harmless: what changed is taken over, the check keeps its health.
        """

    async def report(self, instance_id: str, health: Health, output: str = "") -> None:
        """Renew the TTL check of an instance. NOT_FOUND when the registry has forgotten the instance.

        Others see a new output together with a new health; with the old health, only minutes later.
        """

    async def deregister(self, instance_id: str) -> None:
        """Remove an instance; absent ones are fine."""

    async def date(self) -> datetime | None:
        """Its date and time, to the second; None when it does not say."""

    async def services(self) -> Mapping[str, tuple[str, ...]]:
        """All service names with the union of their tags."""

    async def instances(self, service: str) -> tuple[Instance, ...]:
        """All instances of a service whatever their health, sorted by id; empty for an unknown name."""

    def watch_services(self) -> AsyncIterator[Mapping[str, tuple[str, ...]]]:
        """`services`, again at each change."""

    def watch_instances(self, service: str) -> AsyncIterator[tuple[Instance, ...]]:
        """`instances`, again at each change."""

    async def get(self, key: str) -> bytes | None:
        """The value at a key of the KV store; INVALID_ARGUMENT for a key with an empty, `.` or `..` part."""

    async def put(self, key: str, value: bytes) -> None:
        """Store a value of at most 512 KiB (Consul's limit; INVALID_ARGUMENT above)."""

    async def delete(self, key: str) -> None:
        """Remove a key; absent ones are fine."""

    async def values(self, prefix: str) -> Mapping[str, bytes]:
        """All keys below a prefix with their values."""

    def watch_prefix(self, prefix: str) -> AsyncIterator[Mapping[str, bytes]]:
        """`values`, again at each change."""

    async def put_config_entry(self, entry: Mapping[str, Any]) -> None:
        """Store a config entry (`Kind` and `Name` are required)."""

    async def delete_config_entry(self, kind: str, name: str) -> None:
        """Remove a config entry; absent ones are fine."""

    def watch_config_entries(self, kind: str) -> AsyncIterator[tuple[Mapping[str, Any], ...]]:
        """All config entries of a kind, sorted by name, again at each change."""

    async def intended(self) -> Intended:
        """Who may call whom, as far as the token may read it."""

    def watch_intended(self) -> AsyncIterator[Intended]:
        """`intended`, again at each change; of the default, within a minute."""

    def watch_leaf(self, service: str) -> AsyncIterator[Leaf]:
        """The certificate of a service, again when it is renewed, which is long before its end."""

    def watch_roots(self) -> AsyncIterator[tuple[str, ...]]:
        """The root certificates to trust (PEM), sorted, again at each change."""

    async def close(self) -> None:
        """Release connections."""
