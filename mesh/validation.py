"""Field rules, compiled once for each message type and enforced before a request reaches a method. Pure.

Rules come from the contract: `google.api.field_behavior` REQUIRED, `google.api.field_info` UUID4 and
`(meshwright.rules.v1.field)`. They hold for values that are present; only REQUIRED and `min_items` ask for
presence. A field without explicit presence is absent when it has its default value. Beside the rules, text never
holds NUL, enums have known numbers, and a Timestamp or Duration is within its range.

Patterns are RE2's common subset with Python: ASCII classes, no look-around, no back-references.
Violations name fields as AIP-193 does, by their proto names: `lines[0].unit_price`, `labels["a"]`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from google.protobuf import descriptor_pool

from mesh.errors import InvalidConfig, Refused
from mesh.field_checks import (
    WELL_KNOWN,
    ValueCheck,
    few,
    is_required,
    items_check,
    key_checks,
    rules_of,
    rules_of_method,
    value_checks,
)

if TYPE_CHECKING:
    from google.protobuf.descriptor import Descriptor, FieldDescriptor
    from google.protobuf.message import Message

MAX_VIOLATIONS = 16
"""More are left out: they travel in a trailer, and peers limit those to 8 KiB."""

Check = Callable[[Any], None]
"""Raises `Refused` with all violations of a message."""

Violations = list[tuple[str, str]]


def check_of(path: str) -> Check | None:
    """The check of requests of a method by its path, `/package.Service/Name`; None when nothing can be wrong.

    None also for a method whose descriptors this process has not imported, and for one whose contract says that it
    checks its requests itself. Raises `InvalidConfig` for rules that cannot be kept, such as a pattern on a number.
    """
    service, _, name = path.lstrip("/").rpartition("/")
    try:
        method = descriptor_pool.Default().FindServiceByName(service).methods_by_name[name]
    except KeyError:
        return None
    check = check_message(method.input_type)
    return None if rules_of_method(method).checks_requests else check


def check(message: Message) -> None:
    """Hold a message to the rules of its contract, for methods that check their requests themselves.

    Raises `Refused` with its violations, and `InvalidConfig` for rules that cannot be kept.
    """
    hold = check_message(message.DESCRIPTOR)
    if hold:
        hold(message)


@cache
def check_message(descriptor: Descriptor) -> Check | None:
    """The check of one message type; None when nothing can be wrong with it."""
    rules = _compile(descriptor, {})
    return _checker(rules) if rules.matter else None


def _checker(rules: _MessageRules) -> Check:
    def check(message: Message) -> None:
        found: Violations = []
        rules.collect(message, "", found)
        if found:
            raise Refused.of(found[:MAX_VIOLATIONS])

    return check


@dataclass(frozen=True, kw_only=True, slots=True)
class _FieldRules:
    """What holds for one field: for each value of it, for how many there are, and below it."""

    name: str
    repeated: bool = False
    values: tuple[ValueCheck, ...] = ()
    items: ValueCheck | None = None
    nested: _MessageRules | None = None
    keys: tuple[ValueCheck, ...] = ()
    is_map: bool = False

    @property
    def matter(self) -> bool:
        return bool(self.values or self.items or self.keys or (self.nested and self.nested.matter))

    def collect(self, value: Any, prefix: str, found: Violations) -> None:
        path = prefix + self.name
        if self.is_map:
            self._each(((f"{path}[{_quoted(key)}]", key, value[key]) for key in value), found)
        elif self.repeated:
            self._count(value, path, found)
            self._each(((f"{path}[{index}]", None, item) for index, item in enumerate(value)), found)
        else:
            self._one(value, path, found)

    def _count(self, value: Any, path: str, found: Violations) -> None:
        problem = self.items(value) if self.items else None
        if problem:
            found.append((path, problem))

    def _each(self, entries: Iterable[tuple[str, Any, Any]], found: Violations) -> None:
        if not (self.values or self.nested or self.keys):
            return
        for path, key, item in entries:
            found.extend((path, problem) for check in self.keys if (problem := check(key)))
            self._one(item, path, found)
            if len(found) >= MAX_VIOLATIONS:
                return

    def _one(self, value: Any, path: str, found: Violations) -> None:
        for check in self.values:
            problem = check(value)
            if problem:
                found.append((path, problem))
                return
        if self.nested:
            self.nested.collect(value, path + ".", found)


@dataclass(slots=True)
class _MessageRules:
    """What holds for one message type. Filled after it is made, because types may contain themselves."""

    fields: dict[int, _FieldRules] = field(default_factory=dict)
    required: list[tuple[int, str, str]] = field(default_factory=list)
    """Number, name and complaint of the fields that must be present."""
    matter: bool = True
    """Whether anything can be wrong; True while it is being filled, for types that contain themselves."""

    def collect(self, message: Message, prefix: str, found: Violations) -> None:
        present = message.ListFields()
        if self.required:
            numbers = {field.number for field, _ in present}
            found.extend((prefix + name, why) for number, name, why in self.required if number not in numbers)
        for field_, value in present:
            rules = self.fields.get(field_.number)
            if rules:
                rules.collect(value, prefix, found)


def _compile(descriptor: Descriptor, known: dict[str, _MessageRules]) -> _MessageRules:
    if descriptor.full_name in known:
        return known[descriptor.full_name]
    rules = known[descriptor.full_name] = _MessageRules()
    problems: list[str] = []
    for each in descriptor.fields:
        try:
            _add_field(rules, each, known)
        except ValueError as error:
            problems.append(f"{each.full_name}: {error}")
    if problems:
        raise InvalidConfig.of(problems)
    rules.matter = bool(rules.fields or rules.required)
    return rules


def _add_field(rules: _MessageRules, each: FieldDescriptor, known: dict[str, _MessageRules]) -> None:
    declared = rules_of(each)
    if is_required(each):
        rules.required.append((each.number, each.name, "is required"))
    elif declared.min_items:
        rules.required.append((each.number, each.name, few(declared.min_items)))
    compiled = _map_rules(each, known) if _is_map(each) else _plain_rules(each, known)
    if compiled.matter:
        rules.fields[each.number] = compiled


def _plain_rules(each: FieldDescriptor, known: dict[str, _MessageRules]) -> _FieldRules:
    declared = rules_of(each)
    return _FieldRules(
        name=each.name,
        repeated=each.is_repeated,
        values=tuple(value_checks(each, declared)),
        items=items_check(each, declared),
        nested=_nested(each, known),
    )


def _map_rules(each: FieldDescriptor, known: dict[str, _MessageRules]) -> _FieldRules:
    declared = rules_of(each)
    assert each.message_type is not None
    entry = each.message_type.fields_by_name
    return _FieldRules(
        name=each.name,
        is_map=True,
        items=items_check(each, declared),
        values=tuple(value_checks(entry["value"], declared)),
        keys=tuple(key_checks(entry["key"])),
        nested=_nested(entry["value"], known),
    )


def _is_map(each: FieldDescriptor) -> bool:
    return bool(each.message_type and each.message_type.GetOptions().map_entry)


def _nested(each: FieldDescriptor, known: dict[str, _MessageRules]) -> _MessageRules | None:
    if each.message_type is None or each.message_type.full_name in WELL_KNOWN:
        return None
    rules = _compile(each.message_type, known)
    return rules if rules.matter else None


def _quoted(key: object) -> str:
    text = json.dumps(key[:40] if isinstance(key, str) else key)
    return text if isinstance(key, str) else text.strip('"')
