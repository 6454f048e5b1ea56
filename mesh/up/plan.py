"""What a stack is going to be, settled before anything starts: stores, ports, environment. Pure but for the ports."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

from mesh.config import MTLS_VARIABLE, is_secured
from mesh.errors import InvalidConfig
from mesh.paths import Paths
from mesh.ports import LOOPBACK, free_port, is_here, with_port
from mesh.up.stack import FILE, Stack
from mesh.up.stores import Postgres, Valkey

_NEW_POSTGRES_BYTES = 128 << 20
_WORKING_BYTES = 16 << 20
OTLP_VARIABLE = "OTEL_EXPORTER_OTLP_ENDPOINT"


@dataclass(frozen=True, kw_only=True)
class Ports:
    """Ports that people know; all others are chosen free."""

    gateway: int = 8080
    registry: int = 8500
    otlp_grpc: int = 4317
    otlp_http: int = 4318


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that decides what runs, settled before anything starts."""

    stack: Stack
    paths: Paths
    folder: Path
    """Folder of the stack file; programs and services start in it."""

    environ: Mapping[str, str] = field(repr=False)
    """Environment of the launcher."""

    ports: Ports = field(default_factory=Ports)
    address: str = LOOPBACK
    """IP address of this host at which others reach the gateway and the services."""

    program_ports: Mapping[str, int] = field(default_factory=dict)
    """Chosen once, so that what a program provides stays true when it is started again."""

    console_port: int = 0
    """Chosen once, as the gateway is told."""

    console_token: str = field(default="", repr=False)
    """What readers of the console must have; there is one as soon as others can reach the gateway."""

    @classmethod
    def of(
        cls,
        stack: Stack,
        paths: Paths,
        folder: Path,
        environ: Mapping[str, str],
        ports: Ports,
        address: str = LOOPBACK,
        *,
        console_token: str = "",
    ) -> Plan:
        """A plan with ports for the programs and the console."""
        chosen = {program.name: free_port() for program in stack.programs}
        return cls(
            stack=stack, paths=paths, folder=folder, environ=environ, ports=ports, address=address,
            program_ports=chosen, console_port=free_port(),
            console_token=console_token,
        )  # fmt: skip

    def lacks(self, variable: str) -> bool:
        """Whether the user named no server of their own."""
        return not self.environ.get(variable, "").strip()

    @property
    def has_stack_file(self) -> bool:
        """Whether the folder says what is to run."""
        return (self.folder / FILE).exists()

    @property
    def has_postgres(self) -> bool:
        """Whether Postgres is a part."""
        return self.stack.postgres and self.lacks("DATABASE_URL")

    @property
    def has_valkey(self) -> bool:
        """Whether Valkey is a part."""
        return self.stack.valkey and self.lacks("REDIS_URL")

    @property
    def has_console(self) -> bool:
        """Whether the console is a part."""
        return self.lacks(OTLP_VARIABLE)

    @property
    def host(self) -> str:
        """What the gateway listens on: as for a service, `MESH_HOST` where that differs from what others are told."""
        named = "" if self.address == LOOPBACK else self.environ.get("MESH_HOST", "").strip()
        return named or self.address

    @property
    def gateway(self) -> str:
        """Host and port at which people reach the gateway."""
        return with_port("localhost" if self.address == LOOPBACK else self.address, self.ports.gateway)

    @property
    def needed_bytes(self) -> int:
        """Free disk space without which there is no use in starting: a new Postgres takes some to begin with."""
        is_new = self.has_postgres and not self.paths.postgres.exists()
        return _NEW_POSTGRES_BYTES if is_new else _WORKING_BYTES

    def postgres(self) -> Postgres:
        """The store behind DATABASE_URL."""
        return Postgres.at(self.paths.postgres, self.paths.run, self.environ)

    def valkey(self) -> Valkey:
        """The store behind REDIS_URL."""
        return Valkey.at(self.paths.valkey, self.paths.run, self.environ)

    def fixed_ports(self) -> Iterator[tuple[int, str, str, str]]:
        """Port, purpose, flag and host of every port that is not chosen."""
        yield self.ports.gateway, "gateway", "--gateway-port", self.host
        if self.lacks("CONSUL_HTTP_ADDR"):
            yield self.ports.registry, "registry", "--registry-port", LOOPBACK
        if self.has_console:
            yield self.ports.otlp_grpc, "OTLP over gRPC", "--otlp-grpc-port", LOOPBACK
            yield self.ports.otlp_http, "OTLP over HTTP", "--otlp-http-port", LOOPBACK

    def prove_address(self) -> None:
        """Raises `InvalidConfig` when others cannot reach anything at the address, or nothing can listen there."""
        if not _is_reachable(self.address):
            problem = f"--address {self.address!r} must be an IP address that other hosts reach this one at"
            raise InvalidConfig.of([problem])
        if not is_here(self.host):
            problem = f"{self.host} is no address of this host: correct --address, or set MESH_HOST to listen elsewhere"
            raise InvalidConfig.of([problem])

    def prove_ports(self) -> None:
        """Raises `InvalidConfig` with a line for each port that two parts are to listen on."""
        flags: dict[int, list[str]] = {}
        for port, _, flag, _ in self.fixed_ports():
            flags.setdefault(port, []).append(flag)
        if shared := {port: names for port, names in flags.items() if len(names) > 1}:
            lines = (f"{' and '.join(names)} are both {port}: choose two ports" for port, names in shared.items())
            raise InvalidConfig.of(lines)

    @property
    def is_secured(self) -> bool:
        """Whether its services demand mutual TLS of each other."""
        return is_secured(self.environ)

    def shared_environ(self) -> dict[str, str]:
        """Environment of every part: the user's, completed by what this stack provides.

        One port for the metrics of all can only be 0, for none.
        """
        environ = {name: value for name, value in self.environ.items() if name != "METRICS_PORT" or value == "0"}
        folders = {"MESH_DIR": str(self.paths.state), "MESH_STACKS": str(self.paths.run)}
        return {**environ, **self.provided(), **folders}

    def provided(self) -> dict[str, str]:
        """What this stack provides in place of what the user did not set, and whether it speaks TLS."""
        provided = {
            "CONSUL_HTTP_ADDR": f"127.0.0.1:{self.ports.registry}",
            OTLP_VARIABLE: f"http://127.0.0.1:{self.ports.otlp_grpc}",
            "OTEL_BSP_SCHEDULE_DELAY": "200",
            "PYTHONUNBUFFERED": "1",
            **({"DATABASE_URL": self.postgres().url} if self.has_postgres else {}),
            **({"REDIS_URL": self.valkey().url} if self.has_valkey else {}),
            **({} if self.address == LOOPBACK or not is_here(self.address) else {"METRICS_HOST": self.address}),
            **self._program_urls(),
        }
        lacking = {name: value for name, value in provided.items() if self.lacks(name)}
        return {**lacking, MTLS_VARIABLE: str(self.is_secured).lower()}

    def _program_urls(self) -> dict[str, str]:
        return {
            name: template.replace("{port}", str(self.program_ports[program.name]))
            for program in self.stack.programs
            for name, template in program.provides.items()
        }


def _is_reachable(address: str) -> bool:
    try:
        return not ip_address(address).is_unspecified
    except ValueError:
        return False
