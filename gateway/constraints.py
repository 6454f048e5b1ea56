"""What a field declares about its values, as keywords of JSON Schema or as words. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from google.api import field_behavior_pb2, field_info_pb2
from google.protobuf.descriptor import FieldDescriptor

from mesh.field_checks import is_required, rules_of

Keywords = dict[str, Any]

_FORMATS: Final[Mapping[int, Keywords]] = {
    field_info_pb2.FieldInfo.UUID4: {"format": "uuid"},
    field_info_pb2.FieldInfo.IPV4: {"format": "ipv4"},
    field_info_pb2.FieldInfo.IPV6: {"format": "ipv6"},
    field_info_pb2.FieldInfo.IPV4_OR_IPV6: {"anyOf": [{"format": "ipv4"}, {"format": "ipv6"}]},
}
_RE2_ONLY: Final = re.compile(r"\(\?(?![:=!<])|\(\?P<|\\[AzQECpPaC]|\[\[:")
"""What RE2 has and ECMA-262, the syntax of JSON Schema, has not."""

_NUMBERS: Final = frozenset({
    FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_UINT32,
    FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE,
})  # fmt: skip
"""Numbers that are numbers in JSON."""


def constraints(each: FieldDescriptor, of: FieldDescriptor | None = None) -> tuple[Keywords, Keywords]:
    """What holds for each value of a field, and for their number. For the values of a map, `of` is the map."""
    declared = rules_of(of or each)
    one = _text(each, declared) | _number(each, declared) | _FORMATS.get(_format(of or each), {})
    many = {"minItems": declared.min_items, "maxItems": declared.max_items}
    if is_required(each) and each.is_repeated:
        many["minItems"] = max(1, declared.min_items)
    return one, {key: value for key, value in many.items() if value}


def described(each: FieldDescriptor, comment: str) -> str:
    """The comment, and the rules that no keyword can say."""
    return "\n\n".join(filter(None, (comment, " ".join(_words(each)))))


def is_output_only(each: FieldDescriptor) -> bool:
    """Whether only answers have it."""
    return field_behavior_pb2.OUTPUT_ONLY in _behavior(each)


def is_input_only(each: FieldDescriptor) -> bool:
    """Whether only requests have it."""
    return field_behavior_pb2.INPUT_ONLY in _behavior(each)


def _text(each: FieldDescriptor, declared: Any) -> Keywords:
    if each.type != FieldDescriptor.TYPE_STRING:
        return {}
    shortest = max(declared.min_length, int(is_required(each) and not each.is_repeated and not each.has_presence))
    made = {"minLength": shortest, "maxLength": declared.max_length}
    found: Keywords = {key: value for key, value in made.items() if value}
    if declared.pattern and not _RE2_ONLY.search(declared.pattern):
        found["pattern"] = f"^(?:{declared.pattern})$"
    return found


def _number(each: FieldDescriptor, declared: Any) -> Keywords:
    if each.cpp_type not in _NUMBERS:
        return {}
    return {key: getattr(declared, key) for key in ("minimum", "maximum") if declared.HasField(key)}


def _words(each: FieldDescriptor) -> Iterator[str]:
    declared: Any = rules_of(each)
    if declared.pattern and _RE2_ONLY.search(declared.pattern):
        yield f"Matches `{declared.pattern}` (RE2)."
    if each.cpp_type in (FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64):
        yield from (f"{words} {getattr(declared, key)}." for key, words in _BOUNDS if declared.HasField(key))
    if each.type == FieldDescriptor.TYPE_BYTES:
        yield from (f"{words} {value} bytes." for key, words in _SIZES if (value := getattr(declared, key)))
    if field_behavior_pb2.IMMUTABLE in _behavior(each):
        yield "Cannot be changed."
    if each.containing_oneof is not None and len(each.containing_oneof.fields) > 1:
        others = (f"`{other.json_name}`" for other in each.containing_oneof.fields if other.name != each.name)
        yield f"Excludes {', '.join(others)}."


_BOUNDS: Final = (("minimum", "At least"), ("maximum", "At most"))
_SIZES: Final = (("min_length", "At least"), ("max_length", "At most"))


def _behavior(each: FieldDescriptor) -> Any:
    return each.GetOptions().Extensions[field_behavior_pb2.field_behavior]


def _format(each: FieldDescriptor) -> int:
    return int(each.GetOptions().Extensions[field_info_pb2.field_info].format)
