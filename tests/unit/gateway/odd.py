"""Contracts as nobody's compiler writes them: parsers differ in what they take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from google.protobuf.descriptor_pb2 import FieldDescriptorProto as Field
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from mesh.contract import Contract
from tests.unit.gateway.contracts import file_of, google_files

Change = Callable[[FileDescriptorProto], Any]


def odd(name: str, change: Change) -> Contract:
    """A contract of one service whose file was changed."""
    file = file_of(name, Get=f"GET /{name}/{{id}}")
    change(file)
    return Contract((f"{name}.Api",), (*google_files(), file))


def field(file: FileDescriptorProto, **more: Any) -> Field:
    """One more field of its message."""
    return file.message_type[0].field.add(
        **{"name": "one", "number": 90, "type": Field.TYPE_STRING, "label": Field.LABEL_OPTIONAL, **more}
    )


def enum(*values: tuple[str, int]) -> Change:
    """One more enum."""

    def change(file: FileDescriptorProto) -> None:
        made = file.enum_type.add(name="Colour")
        for name, number in (("COLOUR_UNSPECIFIED", 0), *values):
            made.value.add(name=name, number=number)

    return change


def nested(depth: int) -> Change:
    """So many messages within each other."""

    def change(file: FileDescriptorProto) -> None:
        inner = file.message_type.add(name="Deep")
        for _ in range(depth - 1):
            inner = inner.nested_type.add(name="Deep")

    return change


def split_oneof(file: FileDescriptorProto) -> None:
    """With another field between its own."""
    file.message_type[0].oneof_decl.add(name="either")
    for number, place in enumerate(({"oneof_index": 0}, {}, {"oneof_index": 0}), start=80):
        field(file, name=f"part{number}", number=number, **place)


TAKEN: Final[dict[str, Change]] = {
    "imports": lambda file: file.dependency.append(file.dependency[0]),
    "later": lambda file: file.option_dependency.append("nowhere.proto"),
    "reserved": lambda file: file.message_type[0].reserved_range.add(start=1, end=2),
    "names": lambda file: file.message_type[0].reserved_name.extend(["id", "id"]),
    "extensions": lambda file: file.message_type[0].extension_range.add(start=1, end=5),
    "unread": lambda file: file.options.uninterpreted_option.add(string_value=b"x"),
    "unknown": lambda file: file.service[0].method[0].options.uninterpreted_option.add(string_value=b"x"),
    "lazy": lambda file: setattr(file.message_type[0].field[0].options, "lazy", True),
    "packed": lambda file: setattr(file.message_type[0].field[0].options, "packed", True),
    "jstype": lambda file: setattr(file.message_type[0].field[0].options, "jstype", 1),
    "extended": lambda file: setattr(field(file), "extendee", ".extended.Any"),
    "alias": enum(("RED", 1), ("CRIMSON", 1)),
    "cases": enum(("AB_C", 1), ("ABC", 2)),
    "deep": nested(30),
}
"""What the gateway takes, and Envoy's transcoder would not as it is."""

REFUSED: Final[dict[str, Change]] = {
    "nameless": lambda file: setattr(file, "name", ""),
    "group": lambda file: field(file, type=Field.TYPE_GROUP, type_name=".group.Any"),
    "null": lambda file: setattr(field(file), "json_name", "a\0b"),
    "bracket": lambda file: setattr(field(file), "json_name", "[x]"),
    "oneof": split_oneof,
    "alike": enum(("COLOUR_RED", 1), ("RED", 2)),
    "deeper": nested(31),
}
"""What it refuses, as Envoy's transcoder would."""
