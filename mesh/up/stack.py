"""The stack file `mesh.toml`: which stores, programs and services `mesh up` runs. Pure but for `load`."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from mesh.errors import InvalidConfig

FILE = "mesh.toml"

BUILT_IN = frozenset({"registry", "postgres", "valkey", "sidecar", "console", "gateway", "envoy", "launcher", "mesh"})
"""Names that no stack file may take: those of the mesh's own processes, and what a sidecar proves to be."""

_NAME = re.compile(r"[a-z][a-z0-9-]{0,62}")


@dataclass(frozen=True, kw_only=True)
class Program:
    """A plain program, not on the mesh. It gets `PORT`, and `{port}` in its command is replaced."""

    name: str
    command: tuple[str, ...]

    ready_path: str = ""
    """HTTP path that answers below 400 when it is ready; empty: its port accepts a connection."""

    provides: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Environment for the services; `{port}` stands for its port."""

    environ: Mapping[str, str] = field(default_factory=dict, repr=False)
    """More environment for the program itself."""


@dataclass(frozen=True, kw_only=True)
class Service:
    """A service of which some replicas are put on the mesh."""

    name: str
    command: tuple[str, ...]
    replicas: int = 1
    protocol: str = "grpc"
    plaintext: bool = False
    """Whether it speaks no TLS, in a stack that otherwise does."""

    http_prefixes: tuple[str, ...] = ()

    service_config: Path | None = None
    """gRPC service config as JSON, relative to the folder of the stack file."""

    descriptors: Path | None = None
    """Serialized FileDescriptorSet, relative to the folder of the stack file."""

    zone: str = ""
    tags: tuple[str, ...] = ()
    meta: Mapping[str, str] = field(default_factory=dict)
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def speaks_tls(self) -> bool:
        """Whether it proves itself where others do: plain HTTP does not."""
        return not self.plaintext and self.protocol != "http"

    def process_names(self) -> tuple[str, ...]:
        """Names of its processes: numbered when there are several."""
        numbers = range(1, self.replicas + 1)
        return (self.name,) if self.replicas == 1 else tuple(f"{self.name}-{number}" for number in numbers)


@dataclass(frozen=True, kw_only=True)
class Stack:
    """All that a stack file says."""

    postgres: bool = True
    valkey: bool = True
    programs: tuple[Program, ...] = ()
    services: tuple[Service, ...] = ()

    try_out: tuple[str, ...] = ()
    """Key `try`: commands to show when all is ready; `{gateway}` stands for the gateway's host and port."""

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> Self:
        """Read a document. Raises `InvalidConfig` with every problem in it."""
        root = _Table(document, "", [])
        stores = root.table("stores")
        stack = cls(
            postgres=stores.flag("postgres", default=True),
            valkey=stores.flag("valkey", default=True),
            programs=tuple(_program(name, table) for name, table in root.named_tables("programs")),
            services=tuple(_service(name, table) for name, table in root.named_tables("services")),
            try_out=root.words("try"),
        )
        stores.finish()
        root.finish()
        root.problems.extend(_clashes(stack))
        if root.problems:
            raise InvalidConfig.of(f"{FILE}: {problem}" for problem in root.problems)
        return stack

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read the stack file of a folder; without one there are the built-in parts alone."""
        try:
            return cls.parse(tomllib.loads((folder / FILE).read_text(encoding="utf-8")))
        except FileNotFoundError:
            return cls()
        except OSError as error:
            raise InvalidConfig.of([f"{FILE}: cannot be read: {error.strerror}"]) from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InvalidConfig.of([f"{FILE}: {error}"]) from None


def _program(name: str, table: _Table) -> Program:
    program = Program(
        name=name,
        command=table.words("command", required=True),
        ready_path=table.text("ready_path"),
        provides=table.mapping("provides"),
        environ=table.mapping("environ"),
    )
    table.finish()
    return program


def _service(name: str, table: _Table) -> Service:
    service = Service(
        name=name,
        command=table.words("command", required=True),
        replicas=table.number("replicas", default=1),
        protocol=table.choice("protocol", ("grpc", "http")),
        plaintext=table.flag("plaintext", default=False),
        http_prefixes=table.words("http_prefixes"),
        service_config=table.path("service_config"),
        descriptors=table.path("descriptors"),
        zone=table.text("zone"),
        tags=table.words("tags"),
        meta=table.mapping("meta"),
        environ=table.mapping("environ"),
    )
    table.finish()
    return service


def _clashes(stack: Stack) -> Iterator[str]:
    programs = [program.name for program in stack.programs]
    names = programs + [service.name for service in stack.services]
    processes = programs + [name for service in stack.services for name in service.process_names()]
    for name in sorted(set(names)):
        if not _NAME.fullmatch(name):
            yield f"the name {name!r} must be lower-case letters, digits and hyphens, a letter first"
        if name in BUILT_IN:
            yield f"the name {name!r} belongs to a built-in part"
    for name in sorted({*names, *processes}):
        if names.count(name) > 1 or processes.count(name) > 1:
            yield f"the name {name!r} is used twice"


@dataclass(frozen=True)
class _Table:
    """One table of the document; it remembers what was wrong in it and which keys nobody asked for."""

    values: Mapping[str, Any]
    where: str
    problems: list[str]
    seen: set[str] = field(default_factory=set)

    def table(self, key: str) -> _Table:
        return _Table(self._get(key, dict, "a table", {}), self._at(key), self.problems)

    def named_tables(self, key: str) -> Iterator[tuple[str, _Table]]:
        parent = self.table(key)
        for name in parent.values:
            yield name, parent.table(name)

    def flag(self, key: str, *, default: bool) -> bool:
        return bool(self._get(key, bool, "true or false", default))

    def text(self, key: str) -> str:
        return str(self._get(key, str, "a text", ""))

    def number(self, key: str, *, default: int) -> int:
        value = self._get(key, int, "a number", default)
        if isinstance(value, bool) or not 0 <= value <= 100:
            self._fault(key, "must be a number from 0 to 100")
            return default
        return int(value)

    def choice(self, key: str, choices: tuple[str, ...]) -> str:
        value = self.text(key) or choices[0]
        if value not in choices:
            self._fault(key, f"must be one of {', '.join(choices)}")
        return value

    def words(self, key: str, *, required: bool = False) -> tuple[str, ...]:
        values = self._get(key, list, "a list of texts", [])
        if not all(isinstance(value, str) for value in values):
            self._fault(key, "must be a list of texts")
        if required and not values:
            self._fault(key, "must be a list with the program and its arguments")
        return tuple(str(value) for value in values)

    def mapping(self, key: str) -> Mapping[str, str]:
        values = self._get(key, dict, "a table of texts", {})
        if not all(isinstance(value, str) for value in values.values()):
            self._fault(key, "must be a table of texts")
        return MappingProxyType({name: str(value) for name, value in values.items()})

    def path(self, key: str) -> Path | None:
        value = self.text(key)
        return Path(value) if value else None

    def finish(self) -> None:
        """Report the keys that nobody asked for."""
        for key in sorted(set(self.values) - self.seen):
            self._fault(key, "is not a known key")

    def _get(self, key: str, kind: type, what: str, default: Any) -> Any:
        self.seen.add(key)
        value = self.values.get(key, default)
        if not isinstance(value, kind):
            self._fault(key, f"must be {what}")
            return default
        return value

    def _at(self, key: str) -> str:
        return f"{self.where}.{key}" if self.where else key

    def _fault(self, key: str, text: str) -> None:
        self.problems.append(f"{self._at(key)} {text}")
