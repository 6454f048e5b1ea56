"""What a span says of the call that it is about, by OpenTelemetry's conventions, old spellings too. Pure.

Conventions: https://opentelemetry.io/docs/specs/semconv/ for rpc, http, database and messaging. Envoy's own tags:
https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/observability/tracing
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from opentelemetry.proto.resource.v1 import resource_pb2

from mesh.errors import FAULTS, Code

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.proto.trace.v1 import trace_pb2

_WANTED = frozenset({
    "db.system.name", "db.system", "db.namespace", "db.name", "messaging.system", "peer.service", "server.address",
    "server.port", "net.peer.name", "upstream_cluster.name", "rpc.system.name", "rpc.system", "http.url", "url.full",
    "rpc.response.status_code", "rpc.grpc.status_code", "grpc.status_code", "http.response.status_code",
    "http.status_code", "http.protocol", "retry.count",
})  # fmt: skip
_HTTP = ("http.response.status_code", "http.status_code", "http.url", "url.full")
_OVERLOAD = (Code.RESOURCE_EXHAUSTED.name, str(Code.RESOURCE_EXHAUSTED.http_status))
"""Statuses that say too much was asked, which by the conventions no server's span has as an error."""


class Facts(NamedTuple):
    """Of one span."""

    kind: str
    """What was spoken: rpc, http, sql, redis, event; empty when it does not say."""

    peer: str
    """Name of the other side as it was dialled; empty when it does not say."""

    is_store: bool
    """Whether the other side is a store, which sends no spans of its own."""

    status: str
    """Status of the answer: the name of a gRPC code, or an HTTP status; empty when it does not say."""

    failed: bool
    """Whether something is broken, or overloaded; a caller who asked for what is not there has broken nothing."""

    retried: bool
    """Whether it is a later attempt of the call before."""


def read(span: trace_pb2.Span, *, error: bool) -> Facts:
    """Facts of a span that has, or has not, the status of an error."""
    said = {one.key: _text(one.value) for one in span.attributes if one.key in _WANTED}
    status = _status(said)
    if store := said.get("db.system.name") or said.get("db.system"):
        kind = "redis" if store in ("redis", "valkey") else "sql"
        name = said.get("db.namespace") or said.get("db.name") or ""
        peer = f"{store}/{name}" if name and kind == "sql" else store
        return Facts(kind, peer, True, status, error, False)
    if system := said.get("messaging.system"):
        return Facts("event", system, True, status, error, False)
    failed = status in _OVERLOAD or (error and not _is_callers_fault(status))
    return Facts(_protocol(said), _peer(said), False, status, failed, "retry.count" in said)


def instance(resource: bytes) -> str:
    """`service.instance.id` of a serialized resource; empty where the process does not say."""
    attributes = resource_pb2.Resource.FromString(resource).attributes
    return next((_text(one.value) for one in attributes if one.key == "service.instance.id"), "")


def _text(value: object) -> str:
    kind = value.WhichOneof("value")  # type: ignore[attr-defined]
    return str(getattr(value, kind)) if kind in ("string_value", "int_value") else ""


def _protocol(said: Mapping[str, str]) -> str:
    if "upstream_cluster.name" in said and "http.protocol" in said:
        return "rpc" if said["http.protocol"] == "HTTP/2" else "http"  # Envoy: what it spoke is all that it always says
    if "rpc.system.name" in said or "rpc.system" in said or "grpc.status_code" in said:
        return "rpc"
    return "http" if any(key in said for key in _HTTP) else ""


def _peer(said: Mapping[str, str]) -> str:
    """The name that says most: a service's, else host and port."""
    for key in ("peer.service", "upstream_cluster.name"):
        if said.get(key):
            return said[key]
    if host := said.get("server.address") or said.get("net.peer.name"):
        port = said.get("server.port")
        return f"{host}:{port}" if port else host
    try:
        return urlsplit(said.get("url.full") or said.get("http.url") or "").netloc.rpartition("@")[2]
    except ValueError:
        return ""


def _status(said: Mapping[str, str]) -> str:
    code = said.get("rpc.response.status_code") or said.get("rpc.grpc.status_code") or said.get("grpc.status_code")
    if code is None:
        return said.get("http.response.status_code") or said.get("http.status_code") or ""
    return Code(int(code)).name if code.isdecimal() and int(code) <= max(Code) else code


def _is_callers_fault(status: str) -> bool:
    if status.isdecimal():
        return 400 <= int(status) < 500
    return status in Code.__members__ and Code[status] not in FAULTS
