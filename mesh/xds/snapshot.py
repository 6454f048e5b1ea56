"""What is served at one moment: whole, frozen, versioned by its content. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.core.v3.extension_pb2 import TypedExtensionConfig
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)
from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message

from mesh.errors import Code, Error
from mesh.registry.model import EMPTY

_HOST: Final = "type.googleapis.com/"
CLUSTER: Final = _HOST + Cluster.DESCRIPTOR.full_name
ENDPOINT: Final = _HOST + ClusterLoadAssignment.DESCRIPTOR.full_name
EXTENSION: Final = _HOST + TypedExtensionConfig.DESCRIPTOR.full_name
LISTENER: Final = _HOST + Listener.DESCRIPTOR.full_name
ROUTE: Final = _HOST + RouteConfiguration.DESCRIPTOR.full_name

ORDER: Final = (CLUSTER, ENDPOINT, EXTENSION, LISTENER, ROUTE)
"""Make before break: a type is sent before those that refer to it."""

WHOLE: Final = frozenset({CLUSTER, LISTENER})
"""Types whose every response carries all resources, so that one left out is removed (xDS, state of the world)."""


def short(type_url: str) -> str:
    """The name of a type alone, for people and metrics; only types that were sent have one."""
    return type_url.rpartition(".")[2]


@dataclass(frozen=True)
class Resource:
    """One resource, packed; equal content has an equal version."""

    name: str
    body: Any
    version: str


@dataclass(frozen=True)
class Snapshot:
    """All resources by type and name."""

    resources: Mapping[str, Mapping[str, Resource]] = field(default_factory=lambda: EMPTY)
    pending: frozenset[str] = frozenset()
    """Listeners that were asked for and that the registry has not answered yet."""

    changed_at: float = field(default=0.0, compare=False)
    """When the catalog became so that it was made of, on the monotonic clock."""

    def of_type(self, type_url: str) -> Mapping[str, Resource]:
        """Resources of one type by name."""
        return self.resources.get(type_url, EMPTY)


def pack(message: Message) -> Resource:
    """A message as a resource."""
    body = Any(type_url=_HOST + message.DESCRIPTOR.full_name, value=message.SerializeToString(deterministic=True))
    return Resource(_name(message), body, digest([body.value]))


def digest(parts: Iterable[bytes]) -> str:
    """A short hash of byte strings, for versions."""
    state = hashlib.sha256()
    for part in parts:
        state.update(len(part).to_bytes(8, "big") + part)
    return state.hexdigest()[:16]


def snapshot(resources: Iterable[Resource], pending: Iterable[str] = (), changed_at: float = 0.0) -> Snapshot:
    """A snapshot of resources. INTERNAL when two that differ share a name."""
    by_type: dict[str, dict[str, Resource]] = {}
    for resource in resources:
        same_type = by_type.setdefault(resource.body.type_url, {})
        if same_type.setdefault(resource.name, resource).version != resource.version:
            raise Error(Code.INTERNAL, f"two resources are called {resource.name}: {resource.body.type_url}")
    return Snapshot(by_type, frozenset(pending), changed_at)


def problems(messages: Iterable[Message]) -> Iterator[str]:
    """What is inconsistent in a set of messages: references to clusters, endpoints or routes that are not in it."""
    held = list(messages)
    names = {kind: {_name(m) for m in held if isinstance(m, kind)} for kind in _KINDS}
    for message in held:
        for kind, name in _references(message):
            if name not in names[kind]:
                yield f"{message.DESCRIPTOR.name} {_name(message)}: no {kind.DESCRIPTOR.name} {name}"


def _name(message: Message) -> str:
    name = message.cluster_name if isinstance(message, ClusterLoadAssignment) else message.name  # type: ignore[attr-defined]
    return str(name)


_KINDS: Final[tuple[type[Message], ...]] = (Cluster, ClusterLoadAssignment, Listener, RouteConfiguration)


def _references(message: Message) -> Iterator[tuple[type[Message], str]]:
    if isinstance(message, Cluster) and message.type == Cluster.EDS:
        yield ClusterLoadAssignment, message.eds_cluster_config.service_name or message.name
    elif isinstance(message, RouteConfiguration):
        routes = (route for host in message.virtual_hosts for route in host.routes)
        yield from ((Cluster, route.route.cluster) for route in routes if route.route.cluster)
    elif isinstance(message, Listener) and message.api_listener.ByteSize():
        manager = HttpConnectionManager.FromString(message.api_listener.api_listener.value)
        yield RouteConfiguration, manager.rds.route_config_name
