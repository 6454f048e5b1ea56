"""Settings of a process on the mesh, parsed once from a mapping; every problem is reported together.

`from_process` is the only function of the library that reads `os.environ`; `mesh.server` and `mesh.channel`
use it when they are given no settings.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Self, TypeVar
from urllib.parse import unquote

from mesh.errors import InvalidConfig

T = TypeVar("T")

SAMPLERS = (
    "always_on", "always_off", "traceidratio",
    "parentbased_always_on", "parentbased_always_off", "parentbased_traceidratio",
)
PROTOCOLS = ("grpc", "http/protobuf")


class Variables:
    """A mapping of text, read with types; problems are collected until `check` raises them all.

    An empty value counts as absent, as OpenTelemetry's and Consul's conventions have it.
    """

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values
        self.problems: list[str] = []

    def text(self, name: str, default: str = "") -> str:
        """The value without surrounding blanks."""
        return self._values.get(name, "").strip() or default

    def integer(self, name: str, default: int, *, minimum: int = 0, maximum: int = 2**31 - 1) -> int:
        """A whole number within the bounds."""
        return self._number(name, default, int, minimum, maximum, "a whole number")

    def number(self, name: str, default: float, *, minimum: float = 0.0, maximum: float = 1e9) -> float:
        """A number within the bounds."""
        return self._number(name, default, float, minimum, maximum, "a number")

    def flag(self, name: str, default: bool = False) -> bool:
        """`true` or `false`, whatever the case."""
        value = self.choice(name, ("true", "false"), "true" if default else "false", lower=True)
        return value == "true"

    def choice(self, name: str, allowed: tuple[str, ...], default: str, *, lower: bool = False) -> str:
        """One of the allowed values."""
        value = self.text(name, default)
        value = value.lower() if lower else value
        if value in allowed:
            return value
        self.problems.append(f"{name}={value!r} is none of {', '.join(allowed)}")
        return default

    def pairs(self, name: str) -> Mapping[str, str]:
        """Comma separated `key=value` pairs with percent-encoded values, as OTEL_* variables have them."""
        found: dict[str, str] = {}
        for item in filter(None, (part.strip() for part in self.text(name).split(","))):
            key, equals, value = item.partition("=")
            if equals and key.strip():
                found[key.strip()] = unquote(value.strip())
            else:
                self.problems.append(f"{name} has {item!r}, which is no key=value")
        return found

    def check(self) -> None:
        """Raise `InvalidConfig` when any problem was found."""
        if self.problems:
            raise InvalidConfig.of(self.problems)

    def _number(
        self, name: str, default: T, parse: Callable[[str], T], minimum: float, maximum: float, what: str
    ) -> T:
        text = self.text(name)
        if not text:
            return default
        try:
            value = parse(text)
        except ValueError:
            self.problems.append(f"{name}={text!r} is not {what}")
            return default
        if not minimum <= value <= maximum:  # type: ignore[operator]
            self.problems.append(f"{name}={text} is outside {minimum} to {maximum}")
        return value


MTLS_VARIABLE = "MESH_MTLS"


def is_secured(values: Mapping[str, str], chosen: bool | None = None) -> bool:
    """Whether mutual TLS is on: as an option has chosen, else by MESH_MTLS, else it is. Raises `InvalidConfig`."""
    if chosen is not None:
        return chosen
    variables = Variables(values)
    found = variables.flag(MTLS_VARIABLE, default=True)
    variables.check()
    return found


@dataclass(frozen=True, kw_only=True)
class Telemetry:
    """Where spans go. The variables and their meaning are OpenTelemetry's own.

    https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
    """

    service_name: str = "unknown_service"
    resource: Mapping[str, str] = field(default_factory=dict)
    """Attributes beside the name, such as `service.instance.id`."""
    endpoint: str = ""
    """Base URL (gRPC) or full URL of the traces (HTTP); empty for no export."""
    protocol: str = "grpc"
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Sent with each export; may hold secrets."""
    timeout_seconds: float = 10.0
    sampler: str = "parentbased_always_on"
    sampler_ratio: float = 1.0
    schedule_delay_seconds: float = 5.0
    max_queue_size: int = 2048
    max_batch_size: int = 512

    @classmethod
    def read(cls, variables: Variables) -> Self:
        """From OTEL_* variables; problems stay in `variables`."""
        resource = dict(variables.pairs("OTEL_RESOURCE_ATTRIBUTES"))
        named = resource.pop("service.name", "") or "unknown_service"
        protocol = variables.choice(
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", PROTOCOLS,
            variables.choice("OTEL_EXPORTER_OTLP_PROTOCOL", PROTOCOLS, "grpc"),
        )
        return cls(
            service_name=variables.text("OTEL_SERVICE_NAME", named),
            resource=resource,
            endpoint=_traces_endpoint(variables, protocol),
            protocol=protocol,
            headers=_traces_headers(variables),
            timeout_seconds=variables.number("OTEL_EXPORTER_OTLP_TIMEOUT", 10_000.0, minimum=1.0) / 1000,
            sampler=variables.choice("OTEL_TRACES_SAMPLER", SAMPLERS, "parentbased_always_on"),
            sampler_ratio=variables.number("OTEL_TRACES_SAMPLER_ARG", 1.0, maximum=1.0),
            schedule_delay_seconds=variables.number("OTEL_BSP_SCHEDULE_DELAY", 5000.0, minimum=1.0) / 1000,
            max_queue_size=variables.integer("OTEL_BSP_MAX_QUEUE_SIZE", 2048, minimum=1),
            max_batch_size=variables.integer("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512, minimum=1),
        )


def _traces_endpoint(variables: Variables, protocol: str) -> str:
    if variables.flag("OTEL_SDK_DISABLED"):
        return ""
    if variables.choice("OTEL_TRACES_EXPORTER", ("otlp", "none"), "otlp") == "none":
        return ""
    own = _endpoint(variables, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", protocol)
    base = _endpoint(variables, "OTEL_EXPORTER_OTLP_ENDPOINT", protocol)
    if own or not base or protocol == "grpc":
        return own or base
    return base.rstrip("/") + "/v1/traces"


def _endpoint(variables: Variables, name: str, protocol: str) -> str:
    """A URL; gRPC takes host:port and unix: too. A name alone is refused: no exporter would say that it is none."""
    value = variables.text(name)
    form = _ENDPOINT if protocol == "grpc" else _URL
    if value and not form.fullmatch(value):
        variables.problems.append(f"{name} is not http(s)://HOST:PORT")
    return value


_URL = re.compile(r"https?://[^\s/]+(/\S*)?")
_ENDPOINT = re.compile(rf"{_URL.pattern}|unix:\S+|[^\s/]+:\d+")


def _traces_headers(variables: Variables) -> Mapping[str, str]:
    return variables.pairs("OTEL_EXPORTER_OTLP_TRACES_HEADERS") or variables.pairs("OTEL_EXPORTER_OTLP_HEADERS")


@dataclass(frozen=True, kw_only=True)
class Watch:
    """How the event loop of a process is watched."""

    name: str = ""
    """Of the process, for people: OTEL_SERVICE_NAME."""
    stall_seconds: float = 0.1
    """MESH_STALL_SECONDS: a loop that is held up for so long is told of; 0 to watch nothing."""
    stacks_folder: str = ""
    """MESH_STACKS: where `mesh stack` finds the process; empty for nowhere."""

    @classmethod
    def of(cls, values: Mapping[str, str], name: str) -> Self:
        """Of a process of the mesh itself, which has that name unless it is told another. Raises `InvalidConfig`."""
        variables = Variables({"OTEL_SERVICE_NAME": name, **values})
        watch = cls.read(variables)
        variables.check()
        return watch

    @classmethod
    def read(cls, variables: Variables) -> Self:
        """From the variables; problems stay in them."""
        return cls(
            name=variables.text("OTEL_SERVICE_NAME"),
            stall_seconds=variables.number("MESH_STALL_SECONDS", cls.stall_seconds),
            stacks_folder=variables.text("MESH_STACKS"),
        )


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What `mesh.server` and `mesh.channel` need to know. Units are in the names."""

    host: str = "127.0.0.1"
    """MESH_HOST: address to listen on. (A plain HOST means other things to shells and package managers.)"""
    port: int = 0
    """PORT: port to listen on; 0 for a free one."""
    metrics_port: int = 0
    """METRICS_PORT: port of `/metrics` at the same address; 0 for none. `mesh run` and `mesh up` give one."""
    grace_seconds: float = 10.0
    """MESH_GRACE_SECONDS: how long calls in hand may take when the server stops."""
    max_concurrent_calls: int = 1000
    """MESH_MAX_CONCURRENT_CALLS: more are refused with RESOURCE_EXHAUSTED; health checks do not count."""
    max_streams: int = 0
    """MESH_MAX_STREAMS: of those, the ones with a stream either way, so that the rest stays free for unary calls; 0 for
    nine tenths."""
    max_message_bytes: int = 4 * 1024 * 1024
    """MESH_MAX_MESSAGE_BYTES: longest message in either direction (gRPC's own default for receiving)."""
    keepalive_seconds: float = 330.0
    """MESH_KEEPALIVE_SECONDS: a client with open calls pings this often, so that a dead path is noticed.

    A gRPC server with default settings ends quiet calls of a client that pings more often than every 5 minutes (seen:
    `too many pings` after 160 s at 20 s). Where all servers are `mesh.server`, which allow a ping a second, use 20.
    """
    keepalive_timeout_seconds: float = 5.0
    """MESH_KEEPALIVE_TIMEOUT_SECONDS: a connection whose ping, or any byte, is unanswered so long is closed.

    It is also the TCP user time-out: a path that dies under a call being sent is noticed in this time whatever the
    interval of the pings. A server gives a caller that acknowledges all and answers no ping gRPC's own minute.
    """
    bootstrap_file: str = ""
    """GRPC_XDS_BOOTSTRAP: path that `mesh bootstrap` prints. gRPC itself reads the variable too."""
    bootstrap: str = ""
    """GRPC_XDS_BOOTSTRAP_CONFIG: the bootstrap as JSON, used where no file is named."""
    identity: str = ""
    """MESH_IDENTITY: folder with the certificate of its service, which `mesh run` gives; empty for plaintext."""
    telemetry: Telemetry = field(default_factory=Telemetry)
    """OTEL_*."""
    watch: Watch = field(default_factory=Watch)
    """MESH_STALL_SECONDS, MESH_STACKS."""

    def __post_init__(self) -> None:
        if self.max_streams > self.max_concurrent_calls:
            raise InvalidConfig.of([_too_many(self.max_streams, self.max_concurrent_calls)])

    @property
    def most_streams(self) -> int:
        """How many calls with a stream a server has in hand at most."""
        return self.max_streams or max(1, self.max_concurrent_calls * 9 // 10)

    @classmethod
    def from_env(cls, values: Mapping[str, str]) -> Self:
        """Parse variables. Raises `InvalidConfig` with all problems."""
        variables = Variables(values)
        settings = cls.read(variables)
        variables.check()
        return settings

    @classmethod
    def read(cls, variables: Variables) -> Self:
        """As `from_env`, but problems stay in `variables`, for programs with variables of their own."""
        calls = variables.integer("MESH_MAX_CONCURRENT_CALLS", cls.max_concurrent_calls, minimum=1)
        return cls(
            host=variables.text("MESH_HOST", cls.host),
            port=variables.integer("PORT", cls.port, maximum=65535),
            metrics_port=variables.integer("METRICS_PORT", cls.metrics_port, maximum=65535),
            grace_seconds=variables.number("MESH_GRACE_SECONDS", cls.grace_seconds),
            max_concurrent_calls=calls,
            max_streams=_streams(variables, calls),
            max_message_bytes=variables.integer("MESH_MAX_MESSAGE_BYTES", cls.max_message_bytes, minimum=1024),
            keepalive_seconds=variables.number("MESH_KEEPALIVE_SECONDS", cls.keepalive_seconds, minimum=1.0),
            keepalive_timeout_seconds=variables.number(
                "MESH_KEEPALIVE_TIMEOUT_SECONDS", cls.keepalive_timeout_seconds, minimum=0.1
            ),
            bootstrap_file=variables.text("GRPC_XDS_BOOTSTRAP"),
            bootstrap=variables.text("GRPC_XDS_BOOTSTRAP_CONFIG"),
            identity=variables.text("MESH_IDENTITY"),
            telemetry=Telemetry.read(variables),
            watch=Watch.read(variables),
        )


def _streams(variables: Variables, calls: int) -> int:
    asked = variables.integer("MESH_MAX_STREAMS", Settings.max_streams, minimum=1)
    if asked <= calls:
        return asked
    variables.problems.append(_too_many(asked, calls))
    return Settings.max_streams


def _too_many(streams: int, calls: int) -> str:
    return f"MESH_MAX_STREAMS={streams} is more than the calls that they are part of: MESH_MAX_CONCURRENT_CALLS={calls}"


def from_process() -> Settings:
    """Settings from the environment of this process."""
    return Settings.from_env(os.environ)
