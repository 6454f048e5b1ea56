"""Requests to the built-in registry: what Consul takes, and its words for what it does not (pure)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mesh.registry.dev.entries import KINDS
from mesh.registry.dev.rejected import Rejected
from mesh.registry.dev.shapes import DATACENTER
from mesh.registry.dev.spelling import spelled
from mesh.registry.dev.state import CRITICAL, STATUSES, Check, Service

DEFAULT_WAIT_SECONDS = 300.0
MAX_WAIT_SECONDS = 600.0

_UNIT_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"([+-]?)((?:[0-9]+(?:\.[0-9]*)?(?:ns|us|µs|ms|s|m|h))+)")
_PART = re.compile(r"([0-9]+(?:\.[0-9]*)?)([a-zµ]+)")
_META_KEY = re.compile(r"[A-Za-z0-9_-]{1,128}")

_UNSUPPORTED = {
    "filter": "filter expressions are", "node-meta": "node metadata is", "near": "sorting by distance is",
    "acquire": "sessions are", "release": "sessions are", "hash": "hash-based blocking is",
}  # fmt: skip


def duration(text: str) -> float:
    """Seconds of a Go duration such as `1m30s`. Raises ValueError."""
    found = _DURATION.fullmatch(text)
    if found is None:
        raise ValueError(f'time: invalid duration "{text}"')
    seconds = sum(float(number) * _UNIT_SECONDS[unit] for number, unit in _PART.findall(found[2]))
    return -seconds if found[1] == "-" else seconds


@dataclass(frozen=True, kw_only=True)
class Blocking:
    """How long a query may be held, and until which number is passed."""

    index: int = 0
    wait_seconds: float = DEFAULT_WAIT_SECONDS

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Blocking:
        """From `index` and `wait`. Raises Rejected; refuses other parameters that would change the answer."""
        _check_query(query)
        index = query.get("index") or "0"
        if not index.isascii() or not index.isdigit():
            raise Rejected(400, "Invalid index")
        try:
            wait = duration(query["wait"]) if query.get("wait") else 0.0
        except ValueError as error:
            raise Rejected(400, "Invalid wait time") from error
        return cls(index=int(index), wait_seconds=min(wait, MAX_WAIT_SECONDS) if wait > 0 else DEFAULT_WAIT_SECONDS)


def _check_query(query: Mapping[str, str]) -> None:
    if "stale" in query and "consistent" in query:
        raise Rejected(400, "Cannot specify ?stale with ?consistent, conflicting semantics.")
    if query.get("dc", DATACENTER) not in ("", DATACENTER):
        raise Rejected(500, "No path to datacenter")
    if "ns" in query:
        raise Rejected(400, 'Bad request: Invalid query parameter: "ns" - Namespaces are a Consul Enterprise feature')
    for name in query.keys() & _UNSUPPORTED.keys():
        raise unsupported(f"?{name}: {_UNSUPPORTED[name]}")


def unsupported(what: str) -> Rejected:
    """Something of Consul's that is not in here."""
    return Rejected(501, f"{what} not supported by the built-in registry; set CONSUL_HTTP_ADDR to a real Consul")


def number(query: Mapping[str, str], name: str) -> int | None:
    """An unsigned query parameter. Raises Rejected."""
    text = query.get(name)
    if text is None:
        return None
    if not text.isascii() or not text.isdigit():
        raise Rejected(500, f'strconv.ParseUint: parsing "{text}": invalid syntax')
    return int(text)


def flag(query: Mapping[str, str], name: str) -> bool:
    """A query parameter that is true when there, unless its value says otherwise. Raises Rejected."""
    text = query.get(name)
    if text is None or text.lower() in ("0", "f", "false"):
        return False
    if text.lower() in ("", "1", "t", "true"):
        return True
    raise Rejected(400, f"Invalid value for ?{name}")


class Body:
    """A JSON object whose keys are found as Consul finds them: `ServiceID`, `serviceid` and `service_id` are one."""

    def __init__(self, content: Mapping[str, Any], known: str) -> None:
        names = {_plain(name): name for name in known.split()}
        self._values: dict[str, Any] = {}
        for key, value in content.items():
            if _plain(key) not in names:
                raise Rejected(400, f'Request decode failed: json: unknown field "{key}"')
            self._values[names[_plain(key)]] = value

    def has(self, name: str) -> bool:
        """Whether there is something at a name."""
        return bool(self._values.get(name))

    def text(self, name: str) -> str:
        """A string; empty when absent."""
        return str(self._typed(name, str, "") or "")

    def whole(self, name: str, default: int = 0) -> int:
        """An integer."""
        return int(self._typed(name, int, default))

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of strings."""
        found = self._typed(name, list, [])
        if not all(isinstance(element, str) for element in found):
            raise _not_a(name, "string")
        return tuple(found)

    def objects(self, name: str) -> list[Mapping[str, Any]]:
        """A list of objects."""
        found = self._typed(name, list, [])
        if not all(isinstance(element, dict) for element in found):
            raise _not_a(name, "object")
        return list(found)

    def object(self, name: str) -> Mapping[str, Any]:
        """An object."""
        return dict(self._typed(name, dict, {}))

    def seconds(self, name: str) -> float:
        """A duration: Go's text, or nanoseconds."""
        value = self._values.get(name) or 0
        if isinstance(value, int | float):
            return value / 1e9
        try:
            return duration(str(value))
        except ValueError as error:
            raise Rejected(400, f"Request decode failed: {error}") from error

    def _typed(self, name: str, kind: type, default: Any) -> Any:
        value = self._values.get(name)
        if value is None:
            return default
        if not isinstance(value, kind) or isinstance(value, bool):
            raise _not_a(name, kind.__name__)
        return value


def _plain(key: str) -> str:
    return key.replace("_", "").lower()


def _not_a(name: str, kind: str) -> Rejected:
    return Rejected(400, f"Request decode failed: json: cannot unmarshal field {name}: it is no {kind}")


def document(body: bytes, prefix: str = "Request decode failed: ") -> Mapping[str, Any]:
    """A JSON object. Raises Rejected."""
    try:
        content = json.loads(body)
    except ValueError as error:
        raise Rejected(400, f"{prefix}{error if body else 'EOF'}") from error
    if not isinstance(content, dict):
        raise Rejected(400, f"{prefix}expected an object")
    return content


_SERVICE = "ID Name Tags Address Port Meta Weights Check Checks EnableTagOverride Kind TaggedAddresses Connect Proxy"
_CHECK = (
    "ID CheckID Name Notes Status TTL DeregisterCriticalServiceAfter ServiceID HTTP TCP GRPC Interval Timeout Method "
    "Header Body TLSSkipVerify GRPCUseTLS Args Script ScriptArgs DockerContainerID Shell AliasNode AliasService "
    "SuccessBeforePassing FailuresBeforeCritical OutputMaxSize"
)
_PROBES = ("HTTP", "TCP", "GRPC", "Args", "Script", "ScriptArgs", "DockerContainerID", "AliasNode", "AliasService")


def registration(body: bytes) -> tuple[Service, list[Check]]:
    """The body of `/v1/agent/service/register`. Raises Rejected."""
    fields = Body(document(body), _SERVICE)
    name = fields.text("Name")
    if not name:
        raise Rejected(400, "Missing service name")
    if fields.text("Kind") or fields.object("Connect") or fields.object("Proxy"):
        raise unsupported("Connect proxies are")
    weights = Body(fields.object("Weights"), "Passing Warning")
    service = Service(
        id=fields.text("ID") or name,
        name=name,
        address=fields.text("Address"),
        port=fields.whole("Port"),
        tags=fields.texts("Tags"),
        meta=_meta(fields.object("Meta")),
        passing_weight=weights.whole("Passing", 1),
        warning_weight=weights.whole("Warning", 1),
    )
    given = fields.objects("Checks") + [check for check in [fields.object("Check")] if check]
    return service, list(_checks(service, given))


def _meta(given: Mapping[str, Any]) -> Mapping[str, str]:
    for key, value in given.items():
        if not isinstance(value, str):
            raise _not_a("Meta", "map of strings")
        if not _META_KEY.fullmatch(key):
            pair = f"('{key}', '{value}')"
            text = f"Invalid Service Meta: Couldn't load metadata pair {pair}: Key contains invalid characters"
            raise Rejected(400, text)
    return dict(given)


def _checks(service: Service, given: list[Mapping[str, Any]]) -> Iterator[Check]:
    for position, content in enumerate(given, start=1):
        default = f"service:{service.id}" + (f":{position}" if len(given) > 1 else "")
        yield _check(service, Body(content, _CHECK), default)


def _check(service: Service, fields: Body, default_id: str) -> Check:
    if any(fields.has(probe) for probe in _PROBES):
        raise unsupported("checks other than TTL are")
    ttl = fields.seconds("TTL")
    if ttl <= 0:
        raise Rejected(400, "Invalid check: TTL must be > 0 for TTL checks")
    reap = fields.seconds("DeregisterCriticalServiceAfter")
    return Check(
        id=fields.text("CheckID") or fields.text("ID") or default_id,
        name=fields.text("Name") or f"Service '{service.name}' check",
        notes=fields.text("Notes"),
        status=status(fields.text("Status") or CRITICAL),
        service_id=service.id,
        service=service.name,
        tags=service.tags,
        ttl_seconds=ttl,
        deregister_after_seconds=max(reap, 60.0) if reap > 0 else 0.0,
    )


def check_registration(body: bytes, services: Mapping[str, Service]) -> Check:
    """The body of `/v1/agent/check/register`: a TTL check of an instance that is there. Raises Rejected."""
    fields = Body(document(body), _CHECK)
    name, service_id = fields.text("Name"), fields.text("ServiceID")
    if not name:
        raise Rejected(400, "Missing check name")
    if not service_id:
        raise unsupported("checks of the node itself, rather than of a ServiceID, are")
    owner = services.get(service_id, Service(id=service_id, name=""))
    check = _check(owner, fields, name)
    if service_id not in services:
        raise Rejected(500, f'ServiceID "{service_id}" does not exist')
    return check


def check_update(body: bytes) -> tuple[str, str]:
    """Status and output in the body of `/v1/agent/check/update/<id>`. Raises Rejected."""
    fields = Body(document(body), "Status Output")
    return status(fields.text("Status")), fields.text("Output")[:4096]


def status(text: str) -> str:
    """A status of a check. Raises Rejected."""
    if text not in STATUSES:
        raise Rejected(400, f"Invalid check status: '{text}'")
    return text


def config_entry(body: bytes) -> Mapping[str, Any]:
    """The body of `PUT /v1/config` with `Kind` and `Name` in Consul's spelling. Raises Rejected."""
    prefix = "Bad request: Request decoding failed: "
    content = document(body, prefix)
    rest = {key: value for key, value in content.items() if key not in ("Kind", "kind", "Name", "name")}
    kind, name = content.get("Kind") or content.get("kind"), content.get("Name") or content.get("name")
    if not isinstance(kind, str):
        raise Rejected(400, f"{prefix}Payload does not contain a kind/Kind key at the top level")
    if kind not in KINDS:
        raise Rejected(400, f"{prefix}invalid config entry kind: {kind}")
    if kind == "proxy-defaults":
        name = "global"
    if not isinstance(name, str) or not name:
        raise Rejected(500, "Name is required")
    return {"Kind": kind, "Name": name, **spelled(rest)}
