"""gRPC server reflection under both its names, from a provider that may change while streams are open.

The messages of `v1alpha` and `v1` are the same on the wire, and grpcio-reflection ships the former only.
Protocol: https://github.com/grpc/grpc/blob/master/doc/server-reflection.md
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha.reflection_pb2 import (
    ErrorResponse,
    ExtensionNumberResponse,
    FileDescriptorResponse,
    ListServiceResponse,
    ServerReflectionRequest,
    ServerReflectionResponse,
    ServiceResponse,
)

from mesh.errors import Code
from mesh.json_names import with_json_names

if TYPE_CHECKING:
    from google.protobuf.descriptor import FileDescriptor, ServiceDescriptor
    from google.protobuf.descriptor_pool import DescriptorPool

NAMES = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
"""Both services; a server that has reflection lists them too."""

Provider = Callable[[], "tuple[Iterable[str], DescriptorPool]"]
"""Full names of the services served now, and a pool that knows their files. Asked for each question."""


def of_services(names: Callable[[], Iterable[str]]) -> Provider:
    """A provider of services whose generated code this process has imported."""
    return lambda: (names(), descriptor_pool.Default())


def add_reflection(server: grpc.aio.Server, provider: Provider, *metadata: tuple[str, str]) -> None:
    """Register reflection, by both names, with any `grpc.aio` server that has not started.

    What else it says of itself goes into the metadata of its answers.
    """

    async def answers(requests: AsyncIterator[ServerReflectionRequest], context: Any) -> AsyncIterator[Any]:
        await context.send_initial_metadata(metadata)
        async for request in requests:
            yield answer(request, provider)

    handler = grpc.stream_stream_rpc_method_handler(
        answers,
        request_deserializer=ServerReflectionRequest.FromString,
        response_serializer=ServerReflectionResponse.SerializeToString,
    )
    for name in NAMES:
        server.add_registered_method_handlers(name, {"ServerReflectionInfo": handler})
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": handler}),)
        )


def answer(request: ServerReflectionRequest, provider: Provider) -> ServerReflectionResponse:
    """One question, one answer; what is unknown is a NOT_FOUND inside the answer, and the stream goes on."""
    question = request.WhichOneof("message_request")
    response = ServerReflectionResponse(valid_host=request.host, original_request=request)
    names, pool = provider()
    try:
        _fill(response, question, request, names, pool)
    except KeyError:
        _refuse(response, Code.NOT_FOUND, "not known to this server")
    return response


def _fill(
    response: ServerReflectionResponse, question: str | None, request: ServerReflectionRequest,
    names: Iterable[str], pool: DescriptorPool,
) -> None:
    match question:
        case "list_services":
            listed = [ServiceResponse(name=name) for name in sorted(names)]
            response.list_services_response.CopyFrom(ListServiceResponse(service=listed))
        case "file_by_filename":
            _add_files(response, pool.FindFileByName(request.file_by_filename))
        case "file_containing_symbol":
            _add_files(response, _file_of(request.file_containing_symbol, pool))
        case "file_containing_extension":
            asked = request.file_containing_extension
            extended = pool.FindMessageTypeByName(asked.containing_type)
            extension: Any = pool.FindExtensionByNumber(extended, asked.extension_number)
            _add_files(response, extension.file)
        case "all_extension_numbers_of_type":
            extended = pool.FindMessageTypeByName(request.all_extension_numbers_of_type)
            numbers = sorted(extension.number for extension in pool.FindAllExtensions(extended))
            response.all_extension_numbers_response.CopyFrom(
                ExtensionNumberResponse(base_type_name=extended.full_name, extension_number=numbers)
            )
        case _:
            _refuse(response, Code.INVALID_ARGUMENT, "no such question")


def _file_of(symbol: str, pool: DescriptorPool) -> FileDescriptor:
    """The file of whatever has this full name. KeyError where nothing has; the pool itself finds no methods."""
    try:
        return pool.FindFileContainingSymbol(symbol)
    except KeyError:
        service, _, method = symbol.rpartition(".")
        found: ServiceDescriptor = pool.FindServiceByName(service)
        return found.methods_by_name[method].containing_service.file


def _refuse(response: ServerReflectionResponse, code: Code, message: str) -> None:
    response.error_response.CopyFrom(ErrorResponse(error_code=int(code), error_message=message))


def _add_files(response: ServerReflectionResponse, file: FileDescriptor) -> None:
    """The file asked for first, then everything that it needs."""
    files: dict[str, bytes] = {}
    _collect(file, files)
    response.file_descriptor_response.CopyFrom(FileDescriptorResponse(file_descriptor_proto=files.values()))


def _collect(file: FileDescriptor, files: dict[str, bytes]) -> None:
    if file.name not in files:
        files[file.name] = with_json_names(FileDescriptorProto.FromString(file.serialized_pb)).SerializeToString()
        for dependency in file.dependencies:
            _collect(dependency, files)
