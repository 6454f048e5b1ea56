"""Checks of single values, made from the rules that a field declares. Pure.

Each check answers what is wrong with a value, in words that follow the field's name, or None.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from google.api import field_behavior_pb2, field_info_pb2
from google.protobuf.descriptor import FieldDescriptor

from meshwright.rules.v1 import field_rules_pb2

if TYPE_CHECKING:
    from google.protobuf.descriptor import EnumDescriptor, MethodDescriptor

    from meshwright.rules.v1.field_rules_pb2 import FieldRules, MethodRules

ValueCheck = Callable[[Any], "str | None"]
"""What is wrong with one value; None when it is right."""

_UUID4 = re.compile(r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-4[0-9a-fA-F]{3}-[89abAB][0-9a-fA-F]{3}-[0-9a-fA-F]{12}")
_BEYOND_RE2 = re.compile(r"(?<!\\)(?:\\\\)*(?:\\[1-9]|\(\?(?:[=!>(]|<[=!]|P[=]))")
_TEXT, _BYTES = FieldDescriptor.CPPTYPE_STRING, FieldDescriptor.TYPE_BYTES
_NUMBERS = frozenset({
    FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT32,
    FieldDescriptor.CPPTYPE_UINT64, FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE,
})
_NO_RULES = field_rules_pb2.FieldRules()


def rules_of(each: FieldDescriptor) -> FieldRules:
    """What a field declares as `(meshwright.rules.v1.field)`; empty for none."""
    rules: FieldRules = _option(each, field_rules_pb2.field)
    return rules


def rules_of_method(method: MethodDescriptor) -> MethodRules:
    """What a method declares as `(meshwright.rules.v1.method)`; empty for none."""
    rules: MethodRules = method.GetOptions().Extensions[field_rules_pb2.method]
    return rules


def is_required(each: FieldDescriptor) -> bool:
    """Whether a field declares `google.api.field_behavior` REQUIRED."""
    return field_behavior_pb2.REQUIRED in _option(each, field_behavior_pb2.field_behavior)


def key_checks(key: FieldDescriptor) -> Iterable[ValueCheck]:
    """Checks of the keys of a map."""
    return value_checks(key, _NO_RULES)


def value_checks(each: FieldDescriptor, declared: FieldRules) -> Iterable[ValueCheck]:
    """Checks of each value of a field; of each element where it is repeated. Raises ValueError for wrong rules."""
    is_text = each.cpp_type == _TEXT and each.type != _BYTES
    if is_text:
        yield _no_nul
    if each.enum_type is not None:
        yield _known_number(each.enum_type)
    if each.message_type is not None and each.message_type.full_name in WELL_KNOWN:
        yield WELL_KNOWN[each.message_type.full_name]
    if _option(each, field_info_pb2.field_info).format == field_info_pb2.FieldInfo.UUID4:
        yield _matching(_UUID4, "is not a UUID of version 4", allowed=is_text)
    if declared.min_length or declared.max_length:
        yield _length(declared, "bytes" if each.type == _BYTES else "characters", allowed=each.cpp_type == _TEXT)
    if declared.pattern:
        yield _matching(_re2(declared.pattern), f"does not match {declared.pattern}", allowed=is_text)
    if declared.HasField("minimum") or declared.HasField("maximum"):
        yield _range(declared, allowed=each.cpp_type in _NUMBERS)


def _no_nul(value: str) -> str | None:
    return "holds NUL" if "\0" in value else None


def _known_number(enum: EnumDescriptor) -> ValueCheck:
    known = frozenset(enum.values_by_number)
    return lambda value: None if value in known else f"{value} is no {enum.name}"


def _matching(pattern: re.Pattern[str], problem: str, *, allowed: bool) -> ValueCheck:
    _only(allowed, "a format or pattern is for text")
    return lambda value: None if pattern.fullmatch(value) else problem


def _length(declared: FieldRules, unit: str, *, allowed: bool) -> ValueCheck:
    _only(allowed, "a length is for text or bytes")
    shortest, longest = declared.min_length, declared.max_length or 2**32
    _only(shortest <= longest, "min_length is above max_length")

    def check(value: str | bytes) -> str | None:
        if len(value) < shortest:
            return f"is shorter than {shortest} {unit}"
        return f"is longer than {longest} {unit}" if len(value) > longest else None

    return check


def _range(declared: FieldRules, *, allowed: bool) -> ValueCheck:
    _only(allowed, "a range is for numbers")
    least = declared.minimum if declared.HasField("minimum") else None
    most = declared.maximum if declared.HasField("maximum") else None

    def check(value: float) -> str | None:
        if least is not None and not value >= least:
            return f"is less than {least}"
        return f"is more than {most}" if most is not None and not value <= most else None

    return check


def items_check(each: FieldDescriptor, declared: FieldRules) -> ValueCheck | None:
    """Check of the number of elements. Raises ValueError for wrong rules."""
    if not (declared.min_items or declared.max_items):
        return None
    _only(each.is_repeated, "a number of items is for repeated fields")
    fewest, most = declared.min_items, declared.max_items or 2**32

    def check(value: Any) -> str | None:
        if len(value) < fewest:
            return few(fewest)
        return f"has more than {most} items" if len(value) > most else None

    return check


def few(fewest: int) -> str:
    """The complaint about too few elements."""
    return f"has fewer than {fewest} items"


def _only(right: bool, problem: str) -> None:
    if not right:
        raise ValueError(problem)


def _re2(pattern: str) -> re.Pattern[str]:
    _only(not _BEYOND_RE2.search(pattern), f"pattern {pattern!r} is not RE2")
    try:
        return re.compile(pattern, re.ASCII)
    except re.error as error:
        raise ValueError(f"pattern {pattern!r}: {error}") from None


def _timestamp(value: Any) -> str | None:
    """https://protobuf.dev/reference/protobuf/google.protobuf/#timestamp"""
    right = -62_135_596_800 <= value.seconds <= 253_402_300_799 and 0 <= value.nanos < 10**9
    return None if right else "is no time between the years 1 and 9999"


def _duration(value: Any) -> str | None:
    """https://protobuf.dev/reference/protobuf/google.protobuf/#duration"""
    right = abs(value.seconds) <= 315_576_000_000 and abs(value.nanos) < 10**9 and value.seconds * value.nanos >= 0
    return None if right else "is no duration of at most 10,000 years"


WELL_KNOWN: Mapping[str, ValueCheck] = {
    "google.protobuf.Timestamp": _timestamp,
    "google.protobuf.Duration": _duration,
}
"""Messages whose range their own definition gives; nothing below them is looked at."""


def _option(each: FieldDescriptor, extension: Any) -> Any:
    return each.GetOptions().Extensions[extension]
