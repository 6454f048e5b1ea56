"""What Envoy's transcoder is told of a file: what it needs to turn JSON into messages and back, and nothing else. Pure.

It builds all files with protobuf's C++, which refuses what the parser here takes (numbers that are reserved and in use,
options that do not apply, imports twice); then it would take no contract of anybody any more. Contracts are what their
services say.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import chain, groupby
from typing import Any, Final

from google.api import annotations_pb2
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    ServiceDescriptorProto,
)

DEEPEST: Final = 30
"""Messages within messages; protobuf's C++ takes 32."""


def unfit(file: FileDescriptorProto) -> Iterator[str]:
    """What the transcoder would refuse all the same, a line each."""
    if not file.name:
        yield "one of its files has no name"
    enums = _unclear(file.enum_type, file.syntax)
    for text in chain(enums, *(_unfit(message, file.syntax, 1) for message in file.message_type)):
        yield f"{file.name}: {text}"


def _unfit(message: DescriptorProto, syntax: str, depth: int) -> Iterator[str]:
    for field in message.field:
        if syntax == "proto3" and field.type == FieldDescriptorProto.TYPE_GROUP:
            yield f"{message.name}.{field.name} is a group"
        if "\0" in field.json_name or field.json_name.startswith("["):
            yield f"{message.name}.{field.name} cannot be {field.json_name!r} in JSON"
    places = [field.oneof_index if field.HasField("oneof_index") else -1 for field in message.field]
    if _repeat(place for place, _ in groupby(places) if place >= 0):
        yield f"{message.name} has a oneof whose fields do not follow each other"
    yield from _unclear(message.enum_type, syntax)
    if depth > DEEPEST:
        yield f"more than {DEEPEST} messages are within each other"
    else:
        yield from chain.from_iterable(_unfit(inner, syntax, depth + 1) for inner in message.nested_type)


def _unclear(enums: Iterable[EnumDescriptorProto], syntax: str) -> Iterator[str]:
    """Values that are one in JSON for some languages, which leave the enum's own name out of theirs."""
    for enum in enums if syntax in ("proto3", "editions") else ():
        numbers: dict[str, int] = {}
        for value in enum.value:
            if numbers.setdefault(_in_json(enum.name, value.name), value.number) != value.number:
                yield f"{enum.name}.{value.name} is too like another value"


def _in_json(enum: str, value: str) -> str:
    """As in protobuf's descriptor.cc: `COLOR_DARK_RED` of `Color` is `DarkRed`."""
    prefix = "_*" + "_*".join(map(re.escape, enum.replace("_", "")))
    rest = re.sub(rf"^{prefix}_*(?=[^_])", "", value, flags=re.IGNORECASE)
    return "".join(part[:1].upper() + part[1:].lower() for part in rest.split("_"))


def reduced(file: FileDescriptorProto) -> FileDescriptorProto:
    """The file without extensions, comments, what is reserved, and options but for paths, maps and features."""
    imports = list(dict.fromkeys(file.dependency))
    made = FileDescriptorProto(
        name=file.name,
        package=file.package,
        syntax=file.syntax,
        dependency=imports,
        public_dependency=sorted({imports.index(file.dependency[index]) for index in file.public_dependency}),
        message_type=map(_message, file.message_type),
        enum_type=map(_enum, file.enum_type),
        service=map(_service, file.service),
    )
    if file.edition:
        made.edition = file.edition
        made.options.features.CopyFrom(file.options.features)
    return made


def _message(message: DescriptorProto) -> DescriptorProto:
    made = DescriptorProto(
        name=message.name,
        field=map(_field, message.field),
        nested_type=map(_message, message.nested_type),
        enum_type=map(_enum, message.enum_type),
    )
    for one in message.oneof_decl:
        made.oneof_decl.add(name=one.name)
    _keep(message.options, made.options, "map_entry", "deprecated_legacy_json_field_conflicts", "features")
    return made


def _field(field: FieldDescriptorProto) -> FieldDescriptorProto:
    made = FieldDescriptorProto()
    made.CopyFrom(field)
    made.ClearField("extendee")
    made.ClearField("options")
    _keep(field.options, made.options, "features")
    return made


def _enum(enum: EnumDescriptorProto) -> EnumDescriptorProto:
    made = EnumDescriptorProto(name=enum.name)
    for value in enum.value:
        made.value.add(name=value.name, number=value.number)
    if _repeat(value.number for value in enum.value):
        made.options.allow_alias = True
    _keep(enum.options, made.options, "features")
    return made


def _keep(given: Any, made: Any, *names: str) -> None:
    """Options of these names."""
    for name in names:
        if name == "features" and given.HasField(name):
            made.features.CopyFrom(given.features)
        elif given.HasField(name):
            setattr(made, name, getattr(given, name))


def _repeat(numbers: Iterable[int]) -> bool:
    found = list(numbers)
    return len(set(found)) < len(found)


def _service(service: ServiceDescriptorProto) -> ServiceDescriptorProto:
    made = ServiceDescriptorProto(name=service.name)
    for given in service.method:
        method = made.method.add()
        method.CopyFrom(given)
        method.ClearField("options")
        if given.options.HasExtension(annotations_pb2.http):
            rule = given.options.Extensions[annotations_pb2.http]
            method.options.Extensions[annotations_pb2.http].CopyFrom(rule)
    return made
