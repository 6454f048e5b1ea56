"""HTTP rules of a contract (google/api/http.proto): which verb and path maps to which method. Pure.

Envoy's transcoder refuses its whole configuration for one template that it cannot parse or that is there
twice, so templates are read here first.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from google.api import annotations_pb2
from google.api.http_pb2 import HttpRule
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor, ServiceDescriptor

_LITERAL: Final = re.compile(r"[A-Za-z0-9\-._~!$&'()+,;@%]+")
_FIELD_PATH: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*")
_VARIABLE: Final = re.compile(r"\{([^{}=]+)(?:=([^{}]*))?\}")
_ANY: Final = "*"
_REST: Final = "**"


class BadTemplate(ValueError):
    """A template that Envoy would refuse; says why."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A path template without the names of its variables; two with one shape match the same paths."""

    segments: tuple[str, ...]
    """Literals, `*` for one segment, `**` for the rest."""

    verb: str = ""
    """After the colon."""

    def __str__(self) -> str:
        return "/" + "/".join(self.segments) + (f":{self.verb}" if self.verb else "")

    @property
    def regex(self) -> str:
        """RE2 that matches whole paths of this shape."""
        parts = ("/" + _SEGMENT.get(segment, re.escape(segment)) for segment in self.segments)
        return "".join(parts) + (":" + re.escape(self.verb) if self.verb else "/?")

    @property
    def rank(self) -> tuple[bool, tuple[int, ...], str]:
        """Sorts the more exact shape first."""
        wildness = tuple({_ANY: 1, _REST: 2}.get(segment, 0) for segment in self.segments)
        return not self.verb, wildness, str(self)


_SEGMENT: Final = {_ANY: "[^/]+", _REST: ".*"}


@dataclass(frozen=True, kw_only=True)
class Binding:
    """One verb and path of one method."""

    http_method: str
    shape: Shape
    method: str
    """Full name, as in `meshwright.order.v1.OrderService.GetOrder`."""


def bindings(service: ServiceDescriptor) -> Iterator[Binding]:
    """Every binding of a gRPC service. BadTemplate for one that Envoy would refuse."""
    for method in service.methods:
        options = method.GetOptions()
        if options.HasExtension(annotations_pb2.http):
            rule: HttpRule = options.Extensions[annotations_pb2.http]
            yield from (_binding(method, one) for one in (rule, *rule.additional_bindings))


def parse(template: str) -> tuple[Shape, tuple[str, ...]]:
    """Shape and variables (field paths) of a template. BadTemplate when it is not one."""
    if not template.startswith("/"):
        raise BadTemplate(f"{template!r} does not start with a slash")
    variables = tuple(match[1] for match in _VARIABLE.finditer(template))
    plain = _VARIABLE.sub(lambda match: _ANY if match[2] is None else match[2], template)
    path, _, verb = plain[1:].partition(":")
    segments = tuple(path.split("/"))
    _prove(template, segments, verb, variables)
    return Shape(segments=segments, verb=verb), variables


def _prove(template: str, segments: tuple[str, ...], verb: str, variables: Iterable[str]) -> None:
    for segment in segments:
        if segment not in (_ANY, _REST) and not _LITERAL.fullmatch(segment):
            raise BadTemplate(f"{template!r}: {segment!r} is not a path segment")
    if _REST in segments[:-1]:
        raise BadTemplate(f"{template!r}: ** is not last")
    if template.endswith(":") or (verb and not _LITERAL.fullmatch(verb)):
        raise BadTemplate(f"{template!r}: {verb!r} is not a verb")
    for variable in variables:
        if not _FIELD_PATH.fullmatch(variable):
            raise BadTemplate(f"{template!r}: {variable!r} is not a field")


def _binding(method: MethodDescriptor, rule: HttpRule) -> Binding:
    pattern = rule.WhichOneof("pattern")
    if pattern is None:
        raise BadTemplate(f"{method.full_name}: an HTTP rule without a path")
    custom = pattern == "custom"
    template = rule.custom.path if custom else getattr(rule, pattern)
    shape, variables = parse(template)
    for variable in variables:
        _prove_variable(method, template, variable)
    _prove_body(method, rule)
    return Binding(
        http_method=rule.custom.kind if custom else pattern.upper(), shape=shape, method=method.full_name
    )


def _prove_variable(method: MethodDescriptor, template: str, path: str) -> None:
    """A variable names a singular field that is no message (google/api/http.proto, Path template syntax)."""
    message: Descriptor | None = method.input_type
    field: FieldDescriptor | None = None
    for name in path.split("."):
        field = message.fields_by_name.get(name) if message else None
        if field is None or field.is_repeated:
            raise BadTemplate(f"{template!r}: {method.input_type.full_name} has no singular field {path}")
        message = field.message_type
    if message is not None:
        raise BadTemplate(f"{template!r}: field {path} is a message")


def _prove_body(method: MethodDescriptor, rule: HttpRule) -> None:
    """Envoy takes any field as `body`, and as `response_body` only a google.api.HttpBody."""
    if rule.body not in ("", "*") and rule.body not in method.input_type.fields_by_name:
        raise BadTemplate(f"{method.full_name}: {method.input_type.full_name} has no field {rule.body} for the body")
    if rule.response_body:
        field = method.output_type.fields_by_name.get(rule.response_body)
        if field is None or field.message_type is None or field.message_type.full_name != "google.api.HttpBody":
            raise BadTemplate(f"{method.full_name}: response_body {rule.response_body} is no google.api.HttpBody")
