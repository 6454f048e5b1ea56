"""Path and query of a REST binding, as OpenAPI has them. Pure.

Rules: google/api/http.proto. Names are those of the JSON mapping; the edge takes the proto's own as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from gateway.schema import WELL_KNOWN, Schemas, is_map, must_be_there

Parameter = dict[str, Any]

_VARIABLE: Final = re.compile(r"\{([^{}=]+)(?:=([^{}]*))?\}|(\*\*?)")
_WILDCARD: Final = re.compile(r"\*\*?")
_NO_TEXT: Final = frozenset(
    f"google.protobuf.{name}" for name in ("Any", "BytesValue", "Empty", "ListValue", "Struct", "Value")
)
"""Well-known messages that no query parameter can be."""


@dataclass(frozen=True, kw_only=True)
class Path:
    """A path template in OpenAPI's words: `{name}` is one parameter, and there are no patterns."""

    template: str
    parameters: tuple[Parameter, ...]
    bound: frozenset[str]
    """Paths of the fields that it takes from the request message, by their proto names."""

    @property
    def shape(self) -> str:
        """The template without the names: OpenAPI takes two paths of one shape for the same."""
        return re.sub(r"\{[^}]*\}", "{}", self.template)

    def like(self, template: str) -> Path:
        """This path with the names of another one of the same shape."""
        names = re.findall(r"\{([^}]*)\}", template)
        renamed = tuple({**one, "name": name} for one, name in zip(self.parameters, names, strict=True))
        return Path(template=template, parameters=renamed, bound=self.bound)


def path_of(template: str, message: Descriptor, schemas: Schemas) -> Path:
    """The path of a template that `gateway.templates.parse` takes."""
    building = _Building(message, schemas)
    made = _VARIABLE.sub(building.variable, template)
    return Path(template=made, parameters=tuple(building.parameters), bound=frozenset(building.bound))


class _Building:
    """A path under way."""

    def __init__(self, message: Descriptor, schemas: Schemas) -> None:
        self._message = message
        self._schemas = schemas
        self.parameters: list[Parameter] = []
        self.bound: list[str] = []

    def variable(self, match: re.Match[str]) -> str:
        """What stands for `{id}`, `{name=shelves/*}` or a wildcard without a name."""
        if match[3]:
            return self._add(f"segment{len(self.parameters) + 1}", {"type": "string"}, _any_text(match[3]))
        self.bound.append(match[1])
        fields = _along(self._message, match[1])
        name, pattern = ".".join(each.json_name for each in fields), match[2] or "*"
        if pattern in ("*", "**"):
            schema = self._schemas.field(fields[-1])
            text = schema.pop("description", "")
            return self._add(name, schema, " ".join(filter(None, (text, _any_text(pattern)))))
        return self._parts(name, pattern)

    def _parts(self, name: str, pattern: str) -> str:
        """A variable of several segments: literals stay, and each wildcard is a parameter."""
        several = len(_WILDCARD.findall(pattern)) > 1
        numbers = iter(range(1, 100))

        def part(match: re.Match[str]) -> str:
            called = f"{name}{next(numbers)}" if several else name
            told = f"Part of `{name}`, `{pattern}`. {_any_text(match[0])}"
            return self._add(called, {"type": "string"}, told.strip())

        return _WILDCARD.sub(part, pattern)

    def _add(self, name: str, schema: dict[str, Any], description: str) -> str:
        made: Parameter = {"name": name, "in": "path", "required": True, "schema": schema}
        if description:
            made["description"] = description
        self.parameters.append(made)
        return "{" + name + "}"


def query_of(message: Descriptor, taken: frozenset[str], schemas: Schemas) -> Iterator[Parameter]:
    """Parameters for every field that neither the path nor the body takes (`taken`, by their proto paths)."""
    return _below(message, _Place(), taken, schemas)


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Where in the request message we are."""

    proto: str = ""
    json: str = ""
    required: bool = True
    messages: tuple[str, ...] = ()
    """Types that contain this one: a message may contain itself, and a URL has an end."""

    def inside(self, each: FieldDescriptor, message: Descriptor) -> _Place:
        return _Place(
            proto=f"{self.proto}{each.name}.",
            json=f"{self.json}{each.json_name}.",
            required=self.required and must_be_there(each),
            messages=(*self.messages, message.full_name),
        )


def _below(message: Descriptor, place: _Place, taken: frozenset[str], schemas: Schemas) -> Iterator[Parameter]:
    for each in message.fields:
        if f"{place.proto}{each.name}" in taken:
            continue
        if _is_leaf(each):
            yield _parameter(each, place, schemas)
        elif (inner := _nested(each)) and inner.full_name not in (message.full_name, *place.messages):
            yield from _below(inner, place.inside(each, inner), taken, schemas)


def _is_leaf(each: FieldDescriptor) -> bool:
    if each.message_type is None:
        return True
    name = each.message_type.full_name
    return name in WELL_KNOWN and name not in _NO_TEXT and not is_map(each)


def _nested(each: FieldDescriptor) -> Descriptor | None:
    """The message whose fields can be parameters themselves."""
    inner = each.message_type
    return inner if inner and not each.is_repeated and inner.full_name not in WELL_KNOWN else None


def _parameter(each: FieldDescriptor, place: _Place, schemas: Schemas) -> Parameter:
    schema = schemas.field(each)
    made: Parameter = {"name": place.json + each.json_name, "in": "query"}
    if text := schema.pop("description", ""):
        made["description"] = text
    if place.required and must_be_there(each):
        made["required"] = True
    if schema.pop("deprecated", False):
        made["deprecated"] = True
    return made | {"schema": schema}


def _along(message: Descriptor, path: str) -> list[FieldDescriptor]:
    """The fields of a path such as `order.id`."""
    found: list[FieldDescriptor] = []
    for name in path.split("."):
        fields: Mapping[str, FieldDescriptor] = message.fields_by_name
        found.append(fields[name])
        message = found[-1].message_type or message
    return found


def _any_text(wildcard: str) -> str:
    return "May hold slashes." if wildcard == "**" else ""
