"""The contracts of all services, merged into one set of files for transcoding and reflection. Pure.

A contract that cannot join takes nobody else down: the last good one of that service stays, and a problem
says who disagrees about what.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool

from gateway.fitting import Files, Misfit, fit, without_source
from gateway.reduced import reduced, unfit
from gateway.templates import BadTemplate, Binding, bindings
from mesh.contract import INFRASTRUCTURE, Contract
from mesh.json_names import with_json_names
from mesh.registry.model import EMPTY
from mesh.xds.snapshot import digest

OwnCopy = Callable[[str], FileDescriptorProto | None]
"""The gateway's own copy of a file by its name, when it has one."""

ALWAYS: Final = ("google/rpc/error_details.proto", "google/rpc/status.proto")
"""Files that every answer may need: the details of errors."""

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*")
_OWN: Final = re.compile(r"google/(?:api|longrunning|protobuf|rpc|type)/[a-z0-9_]+\.proto")


@dataclass(frozen=True, kw_only=True, order=True)
class Problem:
    """Why a contract, or a part of it, is not in force."""

    service: str
    """Service on the mesh."""

    text: str
    """One line for people."""


@dataclass(frozen=True, kw_only=True)
class Merged:
    """What the edge knows of all services at one moment."""

    accepted: Mapping[str, Contract] = field(default_factory=lambda: EMPTY)
    """The contract in force by service: the published one, or the last good one before it."""

    files: tuple[FileDescriptorProto, ...] = ()
    """Dependencies first."""

    owners: Mapping[str, str] = field(default_factory=lambda: EMPTY)
    """Service on the mesh by full name of each gRPC service that it offers."""

    bindings: tuple[Binding, ...] = ()
    """REST bindings in force."""

    transcoded: tuple[str, ...] = ()
    """gRPC services that have a REST API, sorted. Others are reached by gRPC only."""

    problems: tuple[Problem, ...] = ()

    @cached_property
    def serialized(self) -> bytes:
        """A google.protobuf.FileDescriptorSet, for the transcoder; equal content, equal bytes."""
        files = (reduced(file) for file in self.files)
        return FileDescriptorSet(file=files).SerializeToString(deterministic=True)

    @cached_property
    def version(self) -> str:
        """Hash of all but comments: when it is the same, so is what the transcoder is told."""
        files = FileDescriptorSet(file=(without_source(file) for file in self.files))
        return digest([files.SerializeToString(deterministic=True), *(name.encode() for name in self.transcoded)])

    @cached_property
    def pool(self) -> DescriptorPool:
        """All files, for reflection."""
        return _pool(self.files)


def merge(
    contracts: Mapping[str, Contract], previous: Merged, own_copy: OwnCopy, absent: Collection[str] = ()
) -> Merged:
    """The contracts as one.

    What is in force stays: newcomers displace nobody, whatever their names, and who was refused before is a newcomer
    still. Only services of `absent`, which have no instance left, yield to those that have.
    """
    building = _Building(own_copy)
    order = _Order(contracts, previous, frozenset(absent))
    for name in sorted(contracts, key=order.of_service):
        if not building.add(name, contracts[name]) and name in previous.accepted:
            building.add(name, previous.accepted[name])
    building.claim(order.of_paths)
    return building.merged()


@dataclass(frozen=True)
class _Order:
    """Who goes before whom when two want the same."""

    contracts: Mapping[str, Contract]
    previous: Merged
    absent: frozenset[str]

    def of_service(self, name: str) -> tuple[bool, bool, bool, str]:
        """For files and gRPC services: who has a contract in force, and of those who did not change it."""
        held = self.previous.accepted.get(name)
        return name in self.absent, held is None, held != self.contracts[name], name

    def of_paths(self, service: str, grpc_service: str) -> tuple[bool, bool, tuple[bool, bool, bool, str], str]:
        """For paths: whose REST API is in force. A contract may be without that its paths are."""
        in_force = grpc_service in self.previous.transcoded and self.previous.owners[grpc_service] == service
        return service in self.absent, not in_force, self.of_service(service), grpc_service


def installed(name: str) -> FileDescriptorProto | None:
    """The copy of a google/ file that is installed beside us; None for every other file."""
    if not _OWN.fullmatch(name):
        return None
    try:
        module = importlib.import_module(name.removesuffix(".proto").replace("/", ".") + "_pb2")
    except ImportError:
        return None
    return with_json_names(FileDescriptorProto.FromString(module.DESCRIPTOR.serialized_pb))


class _Building:
    """A merge under way."""

    def __init__(self, own_copy: OwnCopy) -> None:
        self._own_copy = own_copy
        self._files = Files()
        self._sources: dict[str, str] = {}
        self._accepted: dict[str, Contract] = {}
        self._owners: dict[str, str] = {}
        self._claims: dict[tuple[str, str], str] = {}
        self._bindings: list[Binding] = []
        self._transcoded: list[str] = []
        self._problems: list[Problem] = []
        for name in ALWAYS:
            for file in self._own_closure(name):
                self._files.add(file)
        self._pool = _pool(self._files.by_name.values())

    def add(self, service: str, contract: Contract) -> bool:
        """Take a contract in, or say why not."""
        given = {file.name: file for given in contract.files for file in self._ours(given)}
        fitted = list(fit(given.values(), self._files, service))
        files = [file for file in fitted if isinstance(file, FileDescriptorProto)]
        objections = list(self._objections(contract, fitted)) or list(self._join(files))
        self._problems.extend(Problem(service=service, text=text) for text in objections)
        if objections:
            return False
        self._accept(service, contract, files)
        return True

    def claim(self, order: Callable[[str, str], Any]) -> None:
        """Give out the paths of all that were taken in."""
        for grpc_service, service in sorted(self._owners.items(), key=lambda pair: order(pair[1], pair[0])):
            self._claim(service, grpc_service)

    def merged(self) -> Merged:
        """What has been taken in; the same whatever the order was, but for files that share a name (see `fit`)."""
        return Merged(
            accepted=self._accepted,
            files=tuple(_in_order(self._files.by_name)),
            owners=self._owners,
            bindings=tuple(sorted(self._bindings, key=lambda one: (str(one.shape), one.http_method))),
            transcoded=tuple(sorted(self._transcoded)),
            problems=tuple(sorted(set(self._problems))),
        )

    def _ours(self, file: FileDescriptorProto) -> Iterator[FileDescriptorProto]:
        """The file, or what stands for it: the own copy and what that needs. Usual names in JSON may be left out."""
        if self._own_copy(file.name):
            yield from self._own_closure(file.name)
        else:
            yield with_json_names(file)

    def _own_closure(self, name: str) -> Iterator[FileDescriptorProto]:
        file = self._own_copy(name)
        if file is not None:
            for dependency in file.dependency:
                yield from self._own_closure(dependency)
            yield file

    def _objections(
        self, contract: Contract, fitted: Iterable[FileDescriptorProto | Misfit]
    ) -> Iterator[str]:
        yield from (text for file in contract.files for text in unfit(file))
        for misfit in fitted:
            if isinstance(misfit, Misfit):
                name, home = misfit.args
                yield f"its {name} differs from that of service {self._sources.get(home, 'gateway')}"
        for grpc_service in contract.services:
            if not _NAME.fullmatch(grpc_service) or grpc_service.startswith(INFRASTRUCTURE):
                yield f"{grpc_service!r} is no name of a gRPC service that it may offer"
            elif grpc_service in self._owners:
                yield f"{grpc_service} is already offered by service {self._owners[grpc_service]}"

    def _join(self, files: Iterable[FileDescriptorProto]) -> Iterator[str]:
        """Add files to the pool. A pool cannot forget, so a bad file means a new pool."""
        for file in files:
            try:
                self._pool.Add(file)
                self._pool.FindFileByName(file.name)
            except (TypeError, KeyError) as error:
                yield f"{file.name} cannot be used: {' '.join(str(error).split())}"
                self._pool = _pool(self._files.by_name.values())
                return

    def _accept(self, service: str, contract: Contract, files: Iterable[FileDescriptorProto]) -> None:
        for file in files:
            self._files.add(file)
            self._sources[file.name] = service
        self._accepted[service] = contract
        self._owners.update((grpc_service, service) for grpc_service in contract.services)

    def _claim(self, service: str, grpc_service: str) -> None:
        """Take its paths, all or none: half a REST API would surprise more than none."""
        try:
            found = tuple(bindings(self._pool.FindServiceByName(grpc_service)))
        except (BadTemplate, KeyError) as error:
            self._problems.append(Problem(service=service, text=f"no REST API for {grpc_service}: {error}"))
            return
        claims: dict[tuple[str, str], str] = {}
        for one in found:
            key = (one.http_method, str(one.shape))
            if rival := self._claims.get(key) or claims.get(key):
                text = f"no REST API for {grpc_service}: {' '.join(key)} is both {one.method} and {rival}"
                self._problems.append(Problem(service=service, text=text))
                return
            claims[key] = one.method
        self._claims.update(claims)
        self._bindings.extend(found)
        if found:
            self._transcoded.append(grpc_service)


def _in_order(files: Mapping[str, FileDescriptorProto]) -> Iterator[FileDescriptorProto]:
    """By name, but each after what it imports: the same files are the same, whoever came first."""
    done: set[str] = set()

    def visit(name: str) -> Iterator[FileDescriptorProto]:
        if name in done or name not in files:
            return
        done.add(name)
        for dependency in files[name].dependency:
            yield from visit(dependency)
        yield files[name]

    for name in sorted(files):
        yield from visit(name)


def _pool(files: Iterable[FileDescriptorProto]) -> DescriptorPool:
    pool = DescriptorPool()
    for file in files:
        pool.Add(file)
    return pool
