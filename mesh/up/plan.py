"""What a stack is going to be, settled before anything starts: stores, ports, environment. Pure but for the ports."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mesh.errors import InvalidConfig
from mesh.paths import Paths
from mesh.ports import free_port
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
    program_ports: Mapping[str, int] = field(default_factory=dict)
    """Chosen once, so that what a program provides stays true when it is started again."""

    @classmethod
    def of(cls, stack: Stack, paths: Paths, folder: Path, environ: Mapping[str, str], ports: Ports) -> Plan:
        """A plan with ports for the programs."""
        chosen = {program.name: free_port() for program in stack.programs}
        return cls(stack=stack, paths=paths, folder=folder, environ=environ, ports=ports, program_ports=chosen)

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

    def fixed_ports(self) -> Iterator[tuple[int, str, str]]:
        """Port, purpose and flag of every port that is not chosen."""
        yield self.ports.gateway, "gateway", "--gateway-port"
        if self.lacks("CONSUL_HTTP_ADDR"):
            yield self.ports.registry, "registry", "--registry-port"
        if self.lacks(OTLP_VARIABLE):
            yield self.ports.otlp_grpc, "OTLP over gRPC", "--otlp-grpc-port"
            yield self.ports.otlp_http, "OTLP over HTTP", "--otlp-http-port"

    def prove_ports(self) -> None:
        """Raises `InvalidConfig` with a line for each port that two parts are to listen on."""
        flags: dict[int, list[str]] = {}
        for port, _, flag in self.fixed_ports():
            flags.setdefault(port, []).append(flag)
        if shared := {port: names for port, names in flags.items() if len(names) > 1}:
            lines = (f"{' and '.join(names)} are both {port}: choose two ports" for port, names in shared.items())
            raise InvalidConfig.of(lines)

    def shared_environ(self) -> dict[str, str]:
        """Environment of every part: the user's, completed by what this stack provides."""
        return {**self.environ, **self.provided(), "MESH_DIR": str(self.paths.state)}

    def provided(self) -> dict[str, str]:
        """What this stack provides in place of what the user did not set."""
        provided = {
            "CONSUL_HTTP_ADDR": f"127.0.0.1:{self.ports.registry}",
            OTLP_VARIABLE: f"http://127.0.0.1:{self.ports.otlp_grpc}",
            "OTEL_BSP_SCHEDULE_DELAY": "200",
            "PYTHONUNBUFFERED": "1",
            **({"DATABASE_URL": self.postgres().url} if self.has_postgres else {}),
            **({"REDIS_URL": self.valkey().url} if self.has_valkey else {}),
            **self._program_urls(),
        }
        return {name: value for name, value in provided.items() if self.lacks(name)}

    def _program_urls(self) -> dict[str, str]:
        return {
            name: template.replace("{port}", str(self.program_ports[program.name]))
            for program in self.stack.programs
            for name, template in program.provides.items()
        }
