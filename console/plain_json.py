"""OTLP's JSON as exporters write it, read in a third of the time of protobuf's own reader, which is written in Python.

Whatever is written in another way that protobuf allows, and whatever is wrong, is left to that one: it knows all rules,
and says which is broken. https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding. Pure.
"""

from __future__ import annotations

import binascii
from collections.abc import Callable
from math import isfinite
from typing import Any, NoReturn, TypeAlias

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

Read: TypeAlias = Callable[[Any, int], Any]
"""What a constructor of protobuf takes, from a value of JSON in which so many messages may be nested."""


class Unusual(Exception):
    """Not as exporters write it."""


def export(tree: Any, max_depth: int) -> ExportTraceServiceRequest:
    """The export in parsed JSON. Raises `Unusual` for what protobuf's own reader has to judge."""
    try:
        return ExportTraceServiceRequest(**_EXPORT(tree, max_depth))
    except (TypeError, ValueError, OverflowError) as error:
        raise Unusual from error


def _text(value: Any, depth: int) -> str:
    return value if type(value) is str else _unusual(value, depth)


def _truth(value: Any, depth: int) -> bool:
    return value if type(value) is bool else _unusual(value, depth)


def _double(value: Any, depth: int) -> float:
    return float(value) if type(value) in (int, float) and isfinite(value) else _unusual(value, depth)


def _short(value: Any, depth: int) -> int:
    return value if type(value) is int else _unusual(value, depth)


def _long(value: Any, depth: int) -> int:
    """Digits in quotes, as JavaScript's numbers are too short, or a number."""
    if type(value) is str and value.isascii() and value.removeprefix("-").isdecimal():
        return int(value)
    return _short(value, depth)


def _id(value: Any, depth: int) -> bytes:
    return binascii.unhexlify(_text(value, depth))


def _unusual(value: Any, depth: int) -> NoReturn:
    raise Unusual


_IDS = ("trace_id", "span_id", "parent_span_id")
_SCALARS: dict[int, Read] = {
    FieldDescriptor.TYPE_STRING: _text, FieldDescriptor.TYPE_BOOL: _truth, FieldDescriptor.TYPE_DOUBLE: _double,
    FieldDescriptor.TYPE_INT64: _long, FieldDescriptor.TYPE_FIXED64: _long,
    FieldDescriptor.TYPE_UINT32: _short, FieldDescriptor.TYPE_FIXED32: _short, FieldDescriptor.TYPE_ENUM: _short,
}  # fmt: skip
_tables: dict[str, dict[str, tuple[str, Read]]] = {}
"""Of each message: its fields as JSON names them, with their own names."""


def _message(kind: Descriptor) -> Read:
    if kind.full_name not in _tables:
        table = _tables[kind.full_name] = {}  # before its fields, which may have such messages in them
        table.update({field.name: (field.name, _unusual) for field in kind.fields})
        table.update({field.json_name: (field.name, _field(field)) for field in kind.fields})
    table, one_of = _tables[kind.full_name], bool(kind.oneofs)

    def read(value: Any, depth: int) -> dict[str, Any]:
        if type(value) is not dict or not depth or (one_of and len(value) > 1):
            raise Unusual
        found = {}
        for name, one in value.items():
            if one is not None and (field := table.get(name)):
                found[field[0]] = field[1](one, depth - 1)
        return found

    return read


def _field(field: FieldDescriptor) -> Read:
    if field.message_type:
        one = _message(field.message_type)
    else:
        one = _id if field.name in _IDS else _SCALARS.get(field.type, _unusual)
    return _list(one) if field.is_repeated else one


def _list(one: Read) -> Read:
    def read(value: Any, depth: int) -> list[Any]:
        return [one(each, depth) for each in value] if type(value) is list else _unusual(value, depth)

    return read


_EXPORT = _message(ExportTraceServiceRequest.DESCRIPTOR)
