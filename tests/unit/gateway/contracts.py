"""Small contracts for tests of the edge."""

from __future__ import annotations

from google.api import annotations_pb2
from google.protobuf.descriptor_pb2 import FieldDescriptorProto as Field
from google.protobuf.descriptor_pb2 import FileDescriptorProto, MethodOptions

from gateway.descriptors import installed
from mesh.contract import Contract

ANNOTATIONS = "google/api/annotations.proto"


def google_files() -> list[FileDescriptorProto]:
    """What `google.api.http` needs."""
    names = ("google/protobuf/descriptor.proto", "google/api/http.proto", ANNOTATIONS)
    return [file for name in names if (file := installed(name))]


def file_of(package: str, name: str = "", **paths: str) -> FileDescriptorProto:
    """`<package>/api.proto` with a service `Api`: a keyword for each method, `Get="GET /v1/x/{id}"`; "" for no rule."""
    file = FileDescriptorProto(
        name=name or f"{package}/api.proto", package=package, syntax="proto3", dependency=[ANNOTATIONS]
    )
    message = file.message_type.add(name="Any")
    message.field.add(name="id", number=1, type=Field.TYPE_STRING, label=Field.LABEL_OPTIONAL)
    message.field.add(name="all", number=2, type=Field.TYPE_STRING, label=Field.LABEL_REPEATED)
    own = message.field.add(name="self", number=3, type=Field.TYPE_MESSAGE, label=Field.LABEL_OPTIONAL)
    own.type_name = f".{package}.Any"
    service = file.service.add(name="Api")
    for method, rule in paths.items():
        made = service.method.add(name=method, input_type=f".{package}.Any", output_type=f".{package}.Any")
        if rule:
            verb, _, path = rule.partition(" ")
            setattr(made.options.Extensions[annotations_pb2.http], verb.lower(), path)
        if method.startswith("Get"):
            made.options.idempotency_level = MethodOptions.NO_SIDE_EFFECTS
    return file


def contract_of(package: str, *others: FileDescriptorProto, **paths: str) -> Contract:
    """A contract with that file; `others` come with it and are imported by it."""
    file = file_of(package, **(paths or {"Get": f"GET /{package}/{{id}}"}))
    file.dependency.extend(other.name for other in others)
    return Contract.of([f"{package}.Api"], [*google_files(), *others, file])
