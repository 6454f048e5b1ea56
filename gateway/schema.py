"""Messages as JSON Schema (2020-12, the dialect of OpenAPI 3.1), by proto3's JSON mapping. Pure.

https://protobuf.dev/programming-guides/json/ tells what each type looks like. What a field declares about itself
(`google.api.field_behavior`, `google.api.field_info`, `(meshwright.rules.v1.field)`) becomes part of its schema;
what JSON Schema cannot say about it becomes part of its description.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

from gateway.constraints import constraints, described, is_input_only, is_output_only
from mesh.field_checks import is_required
from mesh.registry.model import EMPTY

Schema = dict[str, Any]

REFERENCE: Final = "#/components/schemas/"

_INT32: Final = (FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_SINT32, FieldDescriptor.TYPE_SFIXED32)
_UINT32: Final = (FieldDescriptor.TYPE_UINT32, FieldDescriptor.TYPE_FIXED32)
_INT64: Final = (FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_SINT64, FieldDescriptor.TYPE_SFIXED64)
_UINT64: Final = (FieldDescriptor.TYPE_UINT64, FieldDescriptor.TYPE_FIXED64)
_SCALARS: Final[Mapping[int, Schema]] = {
    FieldDescriptor.TYPE_DOUBLE: {"type": "number", "format": "double"},
    FieldDescriptor.TYPE_FLOAT: {"type": "number", "format": "float"},
    FieldDescriptor.TYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.TYPE_STRING: {"type": "string"},
    FieldDescriptor.TYPE_BYTES: {"type": "string", "contentEncoding": "base64"},
    **{kind: {"type": "integer", "format": "int32"} for kind in _INT32},
    **{kind: {"type": "integer", "format": "uint32", "minimum": 0} for kind in _UINT32},
    # Text, because beyond 2**53 a JSON number is not exact in every language.
    **{kind: {"type": "string", "format": "int64", "pattern": "^-?[0-9]+$"} for kind in _INT64},
    **{kind: {"type": "string", "format": "uint64", "pattern": "^[0-9]+$"} for kind in _UINT64},
}

_GOOGLE: Final = "google.protobuf."
WELL_KNOWN: Final[Mapping[str, Schema]] = {
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.Duration": {
        "type": "string",
        "pattern": r"^-?[0-9]+(\.[0-9]{1,9})?s$",
        "examples": ["1.5s"],
    },
    "google.protobuf.FieldMask": {"type": "string", "examples": ["displayName,address.city"]},
    "google.protobuf.Struct": {"type": "object", "additionalProperties": True},
    "google.protobuf.Value": {},
    "google.protobuf.ListValue": {"type": "array", "items": {}},
    "google.protobuf.Empty": {"type": "object"},
    "google.protobuf.Any": {
        "type": "object",
        "properties": {"@type": {"type": "string", "examples": ["type.googleapis.com/google.rpc.ErrorInfo"]}},
        "required": ["@type"],
        "additionalProperties": True,
    },
    "google.protobuf.BoolValue": _SCALARS[FieldDescriptor.TYPE_BOOL],
    "google.protobuf.BytesValue": _SCALARS[FieldDescriptor.TYPE_BYTES],
    "google.protobuf.DoubleValue": _SCALARS[FieldDescriptor.TYPE_DOUBLE],
    "google.protobuf.FloatValue": _SCALARS[FieldDescriptor.TYPE_FLOAT],
    "google.protobuf.Int32Value": _SCALARS[FieldDescriptor.TYPE_INT32],
    "google.protobuf.Int64Value": _SCALARS[FieldDescriptor.TYPE_INT64],
    "google.protobuf.StringValue": _SCALARS[FieldDescriptor.TYPE_STRING],
    "google.protobuf.UInt32Value": _SCALARS[FieldDescriptor.TYPE_UINT32],
    "google.protobuf.UInt64Value": _SCALARS[FieldDescriptor.TYPE_UINT64],
}
"""Messages that have a mapping of their own."""

_DESCRIPTIONS: Final[Mapping[str, str]] = {
    "google.type.Money": "An amount of money.",
    "google.type.Money.currency_code": "Three letters, as ISO 4217 has them.",
    "google.type.Money.units": "Whole units of the currency.",
    "google.type.Money.nanos": "Billionths of a unit, with the sign of `units`.",
}
"""For messages whose files come with us, which are installed without comments."""


@dataclass(frozen=True, kw_only=True)
class Schemas:
    """Schemas of messages and enums; those that are referred to are collected in `components`."""

    comments: Mapping[str, str] = field(default_factory=lambda: EMPTY)
    """By full name."""

    components: dict[str, Schema] = field(default_factory=dict)
    """By full name; filled by the methods."""

    def message(self, message: Descriptor) -> Schema:
        """The schema of a message wherever it is used: a reference, or what stands for a well-known type."""
        if message.full_name in WELL_KNOWN:
            return dict(WELL_KNOWN[message.full_name])
        if message.full_name not in self.components:
            self.components[message.full_name] = {}  # a message may contain itself
            self.components[message.full_name].update(self.body(message))
        return {"$ref": REFERENCE + message.full_name}

    def body(self, message: Descriptor, without: Iterable[str] = ()) -> Schema:
        """The schema itself, without the fields of these paths, such as `id` or `order.id`."""
        bound = frozenset(without)
        fields = [each for each in message.fields if each.name not in bound]
        made: Schema = {"type": "object"}
        _put(made, "description", self.comment(message.full_name))
        _put(made, "properties", {each.json_name: self._below(each, bound) for each in fields})
        _put(made, "required", [each.json_name for each in fields if must_be_there(each)])
        _put(made, "dependentSchemas", _one_of(fields))
        _put(made, "deprecated", message.GetOptions().deprecated)
        return made

    def field(self, each: FieldDescriptor) -> Schema:
        """The schema of a field, with all that the field says about itself."""
        made = self._map(each) if is_map(each) else self._values(each)
        _put(made, "description", described(each, self.comment(each.full_name)))
        _put(made, "readOnly", is_output_only(each))
        _put(made, "writeOnly", is_input_only(each))
        _put(made, "deprecated", each.GetOptions().deprecated)
        return made

    def comment(self, full_name: str) -> str:
        """What the contract says about a name; empty for nothing."""
        return self.comments.get(full_name, "") or _DESCRIPTIONS.get(full_name, "")

    def _below(self, each: FieldDescriptor, bound: frozenset[str]) -> Schema:
        """The schema of a field, of whose own fields some are bound elsewhere."""
        inner = [path.partition(".")[2] for path in bound if path.startswith(each.name + ".")]
        if not inner or each.message_type is None:
            return self.field(each)
        return self.body(each.message_type, inner)

    def _values(self, each: FieldDescriptor) -> Schema:
        one, many = constraints(each)
        item = self._type(each) | one
        return {"type": "array", "items": item} | many if each.is_repeated else item

    def _map(self, each: FieldDescriptor) -> Schema:
        assert each.message_type is not None
        entry, (_, many) = each.message_type.fields_by_name, constraints(each)
        value = self._type(entry["value"]) | constraints(entry["value"], of=each)[0]
        made: Schema = {"type": "object", "additionalProperties": value}
        _put(made, "propertyNames", _key(entry["key"]))
        for bound, count in many.items():
            made[bound.replace("Items", "Properties")] = count
        return made

    def _type(self, each: FieldDescriptor) -> Schema:
        if each.message_type is not None:
            return self.message(each.message_type)
        if each.enum_type is not None:
            return self._enum(each.enum_type)
        return dict(_SCALARS[each.type])

    def _enum(self, enum: EnumDescriptor) -> Schema:
        if enum.full_name == _GOOGLE + "NullValue":
            return {"type": "null"}
        if enum.full_name not in self.components:
            self.components[enum.full_name] = self._enum_body(enum)
        return {"$ref": REFERENCE + enum.full_name}

    def _enum_body(self, enum: EnumDescriptor) -> Schema:
        names = [value.name for value in enum.values]
        told = ((name, self.comment(f"{enum.full_name}.{name}")) for name in names)
        values = "\n".join(f"- `{name}`: {' '.join(text.split())}" for name, text in told if text)
        made: Schema = {"type": "string", "enum": names}
        _put(made, "description", "\n\n".join(filter(None, (self.comment(enum.full_name), values))))
        return made


def is_map(each: FieldDescriptor) -> bool:
    """Whether a field is a map."""
    return bool(each.message_type and each.message_type.GetOptions().map_entry)


def must_be_there(each: FieldDescriptor) -> bool:
    """Whether JSON without this field is wrong: REQUIRED, required in proto2, or at least one element."""
    return is_required(each) or each.is_required or bool(constraints(each)[1].get("minItems"))


def _key(key: FieldDescriptor) -> Schema:
    """Keys are text in JSON whatever they are in the map."""
    if key.type == FieldDescriptor.TYPE_BOOL:
        return {"enum": ["true", "false"]}
    return {} if key.type == FieldDescriptor.TYPE_STRING else {"pattern": "^-?[0-9]+$"}


def _one_of(fields: Iterable[FieldDescriptor]) -> dict[str, Schema]:
    """Fields of which at most one can be set: where one is, the others are not."""
    return {
        each.json_name: {"properties": dict.fromkeys(others, False)}
        for each in fields
        if (others := tuple(_others(each)))
    }


def _others(each: FieldDescriptor) -> Iterator[str]:
    """The rest of its oneof. `optional` makes a oneof of one."""
    if each.containing_oneof is not None:
        yield from (other.json_name for other in each.containing_oneof.fields if other.name != each.name)


def _put(made: Schema, key: str, value: Any) -> None:
    if value:
        made[key] = value
