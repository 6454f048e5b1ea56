"""What a running server offers, asked by gRPC reflection (v1, else v1alpha)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass

import grpc
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest, ServerReflectionResponse

from mesh.contract import INFRASTRUCTURE
from mesh.errors import Code, Error
from mesh.load import REPORTS_LOAD

VERSIONS = ("v1", "v1alpha")
"""Packages of the reflection service, best first; their messages are the same on the wire."""


@dataclass(frozen=True, kw_only=True)
class Described:
    """What a server says of itself."""

    services: tuple[str, ...] = ()
    files: tuple[FileDescriptorProto, ...] = ()
    """All that the services need."""

    reports_load: bool = False
    """Whether it tells its load in the trailers of its calls."""


async def describe(channel: grpc.aio.Channel, *, timeout_seconds: float = 5.0) -> Described:
    """What a running server offers.

    UNIMPLEMENTED when it offers no reflection; UNAVAILABLE when it does not answer in time.
    """
    for version in VERSIONS:
        try:
            return await _Asking(channel, version, timeout_seconds).all()
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNIMPLEMENTED:
                raise Error(Code.UNAVAILABLE, f"reflection failed: {error.details()}") from error
    raise Error(
        Code.UNIMPLEMENTED, "the server offers no reflection: add it, or give its descriptors with --descriptors"
    )


class _Asking:
    def __init__(self, channel: grpc.aio.Channel, version: str, timeout_seconds: float) -> None:
        self._call = channel.stream_stream(
            f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
            request_serializer=ServerReflectionRequest.SerializeToString,
            response_deserializer=ServerReflectionResponse.FromString,
        )
        self._timeout_seconds = timeout_seconds
        self._files: dict[str, FileDescriptorProto] = {}
        self._reports_load = False

    async def all(self) -> Described:
        listing = await self._ask([ServerReflectionRequest(list_services="*")])
        names = [s.name for answer in listing for s in answer.list_services_response.service]
        wanted = tuple(sorted(name for name in names if not name.startswith(INFRASTRUCTURE)))
        self._keep(await self._ask(ServerReflectionRequest(file_containing_symbol=name) for name in wanted))
        while missing := self._missing():
            self._keep(await self._ask(ServerReflectionRequest(file_by_filename=name) for name in missing))
        return Described(services=wanted, files=tuple(self._files.values()), reports_load=self._reports_load)

    async def _ask(self, requests: Iterable[ServerReflectionRequest]) -> list[ServerReflectionResponse]:
        """One short stream: all questions, then all answers."""

        async def send() -> AsyncIterator[ServerReflectionRequest]:
            for request in requests:
                yield request

        call = self._call(send(), timeout=self._timeout_seconds)
        answers = [answer async for answer in call]
        self._reports_load |= REPORTS_LOAD in tuple(map(tuple, await call.initial_metadata()))
        return answers

    def _keep(self, answers: Iterable[ServerReflectionResponse]) -> None:
        for answer in answers:
            if answer.HasField("error_response"):
                raise Error(Code.UNAVAILABLE, f"reflection failed: {answer.error_response.error_message}")
            for data in answer.file_descriptor_response.file_descriptor_proto:
                file = FileDescriptorProto.FromString(data)
                self._files[file.name] = file

    def _missing(self) -> list[str]:
        needed = {name for file in self._files.values() for name in file.dependency}
        return sorted(needed - self._files.keys())
