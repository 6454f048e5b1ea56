"""What a service publishes about itself: its descriptors and its default policy. Pure."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from google.protobuf import descriptor_pb2
from google.protobuf.message import DecodeError

from mesh.errors import Code, Error
from mesh.json_names import with_json_names
from meshwright.sidecar.v1 import contract_pb2

PREFIX = "mesh/contracts/"
"""Where contracts are kept in the registry's KV store: this prefix and the name of the service."""

MAX_BYTES = 32 * 1024 * 1024
"""Of a contract that is unpacked: Consul keeps 512 KiB of packed ones, in which a thousand times as much could be."""

INFRASTRUCTURE = ("grpc.health.", "grpc.reflection.", "grpc.channelz.", "envoy.")
"""Services that every server may offer and that no contract is about."""

_IDEMPOTENT = (
    descriptor_pb2.MethodOptions.NO_SIDE_EFFECTS,
    descriptor_pb2.MethodOptions.IDEMPOTENT,
)


@dataclass(frozen=True, kw_only=True)
class Method:
    """One RPC of a contract."""

    path: str
    """Full path, as in `/meshwright.order.v1.OrderService/GetOrder`."""

    idempotent: bool = False
    """Whether the contract says NO_SIDE_EFFECTS or IDEMPOTENT, so that it may be sent again."""

    client_streaming: bool = False
    server_streaming: bool = False

    @property
    def unary(self) -> bool:
        """One request, one response."""
        return not (self.client_streaming or self.server_streaming)


@dataclass(frozen=True)
class Contract:
    """Services, files and default policy of one service on the mesh."""

    services: tuple[str, ...] = ()
    """Full names of gRPC services, sorted."""

    files: tuple[descriptor_pb2.FileDescriptorProto, ...] = field(default=(), hash=False)
    """Dependencies first; made by `of`, with the names of all fields in JSON."""

    service_config: str = ""
    """gRPC service config as JSON; empty for none."""

    reports_load: bool = False
    """Whether its instances tell their load in trailers."""

    @cached_property
    def methods(self) -> Mapping[str, Method]:
        """All methods of the services by path, in the contract's order."""
        return {method.path: method for method in _methods(self.files, frozenset(self.services))}

    def serialize(self) -> bytes:
        """Bytes for the registry; equal contracts give equal bytes."""
        message = contract_pb2.Contract(
            services=self.services, service_config=self.service_config, reports_load=self.reports_load
        )
        message.descriptors.file.extend(self.files)
        return gzip.compress(message.SerializeToString(deterministic=True), mtime=0)

    @classmethod
    def parse(cls, data: bytes) -> Contract:
        """The contract that `serialize` wrote; DATA_LOSS for anything else."""
        if not data:
            raise Error(Code.DATA_LOSS, "not a published contract: empty")
        try:
            message = contract_pb2.Contract.FromString(_unpacked(data))
        except (DecodeError, OSError, EOFError, zlib.error) as error:
            raise Error(Code.DATA_LOSS, f"not a published contract: {error}") from error
        return cls(
            tuple(message.services), tuple(message.descriptors.file), message.service_config, message.reports_load
        )

    @classmethod
    def of(
        cls,
        services: Iterable[str],
        files: Iterable[descriptor_pb2.FileDescriptorProto],
        service_config: str = "",
        *,
        reports_load: bool = False,
    ) -> Contract:
        """A contract with only the files that the services need, dependencies first.

        FAILED_PRECONDITION when a service is defined in none of the files or a dependency is missing.
        """
        wanted = tuple(sorted(name for name in services if not name.startswith(INFRASTRUCTURE)))
        by_name = {file.name: file for file in files}
        homes = {f"{file.package}.{service.name}".lstrip("."): file.name for file in by_name.values()
                 for service in file.service}
        if missing := [name for name in wanted if name not in homes]:
            raise Error(Code.FAILED_PRECONDITION, f"no descriptor for service {', '.join(missing)}")
        needed = tuple(map(with_json_names, _closure([homes[name] for name in wanted], by_name)))
        return cls(wanted, needed, service_config, reports_load)


def services_in(files: Collection[descriptor_pb2.FileDescriptorProto]) -> tuple[str, ...]:
    """Services of the files that no other file imports: a set may come with what it is built on."""
    imported = {name for file in files for name in file.dependency}
    roots = [file for file in files if file.name not in imported]
    return tuple(f"{file.package}.{service.name}".lstrip(".") for file in roots for service in file.service)


def _unpacked(data: bytes) -> bytes:
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16)  # gzip
    unpacked = unpacker.decompress(data, MAX_BYTES)
    if unpacker.unconsumed_tail:
        raise OSError(f"unpacked it has more than {MAX_BYTES} bytes")
    if not unpacker.eof or unpacker.unused_data:
        raise EOFError("it ends too early, or goes on")
    return unpacked


def _methods(
    files: Iterable[descriptor_pb2.FileDescriptorProto], services: frozenset[str]
) -> Iterator[Method]:
    for file in files:
        for service in file.service:
            full_name = f"{file.package}.{service.name}".lstrip(".")
            if full_name in services:
                yield from (_method(full_name, method) for method in service.method)


def _method(service: str, method: descriptor_pb2.MethodDescriptorProto) -> Method:
    return Method(
        path=f"/{service}/{method.name}",
        idempotent=method.options.idempotency_level in _IDEMPOTENT,
        client_streaming=method.client_streaming,
        server_streaming=method.server_streaming,
    )


def _closure(
    roots: Iterable[str], by_name: Mapping[str, descriptor_pb2.FileDescriptorProto]
) -> Iterator[descriptor_pb2.FileDescriptorProto]:
    """Roots and all that they import, each once, dependencies first."""
    seen: set[str] = set()

    def visit(name: str) -> Iterator[descriptor_pb2.FileDescriptorProto]:
        if name in seen:
            return
        seen.add(name)
        if name not in by_name:
            raise Error(Code.FAILED_PRECONDITION, f"no descriptor for file {name}")
        for dependency in by_name[name].dependency:
            yield from visit(dependency)
        yield by_name[name]

    for root in sorted(set(roots)):
        yield from visit(root)
