"""The names of fields in JSON, as descriptors should have them. Pure.

Generated Python code carries descriptors without them; clients that print JSON by those show the names of the proto.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto


def with_json_names(file: FileDescriptorProto) -> FileDescriptorProto:
    """A copy in which every field of a message has its `json_name`, as protoc writes them."""
    copy = FileDescriptorProto()
    copy.CopyFrom(file)
    for message in _all(copy.message_type):
        for field in message.field:
            if not field.json_name:
                field.json_name = json_name(field.name)
    return copy


def json_name(name: str) -> str:
    """The name in JSON that a field has by default: https://protobuf.dev/programming-guides/json/."""
    first, *rest = name.split("_")
    return first + "".join(word[:1].upper() + word[1:] for word in rest)


def _all(messages: Iterable[DescriptorProto]) -> Iterator[DescriptorProto]:
    for message in messages:
        yield message
        yield from _all(message.nested_type)
