"""One REST binding of a method as an OpenAPI operation. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from google.api import annotations_pb2
from google.api.http_pb2 import HttpRule
from google.protobuf.descriptor import Descriptor, MethodDescriptor, ServiceDescriptor

from gateway.comments import summary
from gateway.parameters import Path, path_of, query_of
from gateway.schema import Schema, Schemas
from mesh.errors import Code

VERBS: Final = frozenset({"get", "put", "post", "delete", "options", "head", "patch", "trace"})
"""All that OpenAPI 3.1 knows."""

ALWAYS: Final = frozenset({400, 500, 503, 504})
"""Statuses that every operation may answer: the edge itself does."""

_CODE: Final = re.compile(r"\b(?:" + "|".join(code.name for code in Code if code) + r")\b")
_RAW: Final = "google.api.HttpBody"


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One verb and path."""

    verb: str
    path: Path
    body: dict[str, Any]
    """OpenAPI's operation object, without the path's parameters."""

    statuses: frozenset[int]
    """Failures that it tells of."""

    def rendered(self, path: Path) -> dict[str, Any]:
        """The operation object at a path of the same shape."""
        parameters = [*path.parameters, *self.body.get("parameters", ())]
        return {**self.body, "parameters": parameters} if parameters else self.body


def operations(service: ServiceDescriptor, tag: str, schemas: Schemas) -> Iterator[Operation]:
    """Every binding of a service that OpenAPI can express; a custom verb such as LOCK is none."""
    for method in service.methods:
        options = method.GetOptions()
        if options.HasExtension(annotations_pb2.http):
            rule: HttpRule = options.Extensions[annotations_pb2.http]
            for number, one in enumerate((rule, *rule.additional_bindings), start=1):
                if _verb(one) in VERBS:
                    suffix = f"_{number}" if number > 1 else ""
                    yield _operation(method, one, tag, f"{tag}_{method.name}{suffix}", schemas)


def _verb(rule: HttpRule) -> str:
    pattern = rule.WhichOneof("pattern")
    return (rule.custom.kind if pattern == "custom" else pattern or "").lower()


def _template(rule: HttpRule) -> str:
    pattern = rule.WhichOneof("pattern")
    return str(rule.custom.path if pattern == "custom" else getattr(rule, pattern))


def _operation(method: MethodDescriptor, rule: HttpRule, tag: str, name: str, schemas: Schemas) -> Operation:
    path = path_of(_template(rule), method.input_type, schemas)
    comment = schemas.comment(method.full_name)
    made: dict[str, Any] = {"tags": [tag], "operationId": name}
    made |= _told(comment)
    if query := _query(method, rule, path, schemas):
        made["parameters"] = query
    if rule.body:
        made["requestBody"] = _request_body(method, rule, path, schemas)
    statuses = _statuses(comment, has_body=bool(rule.body))
    made["responses"] = {"200": _answer(method, rule, schemas), **{str(s): failure(s) for s in sorted(statuses)}}
    made["responses"]["default"] = {"$ref": "#/components/responses/Error"}
    if method.GetOptions().deprecated or method.containing_service.GetOptions().deprecated:
        made["deprecated"] = True
    made["x-grpc-method"] = f"/{method.containing_service.full_name}/{method.name}"
    return Operation(verb=_verb(rule), path=path, body=made, statuses=statuses)


def failure(status: int) -> dict[str, str]:
    """A reference to the description of a status."""
    return {"$ref": f"#/components/responses/{status}"}


def _told(comment: str) -> dict[str, str]:
    first, rest = summary(comment)
    return {key: text for key, text in (("summary", first), ("description", rest)) if text}


def _query(method: MethodDescriptor, rule: HttpRule, path: Path, schemas: Schemas) -> list[dict[str, Any]]:
    if rule.body == "*" or method.client_streaming:
        return []
    taken = path.bound | {rule.body} if rule.body else path.bound
    return list(query_of(method.input_type, frozenset(taken), schemas))


def _request_body(method: MethodDescriptor, rule: HttpRule, path: Path, schemas: Schemas) -> dict[str, Any]:
    message = method.input_type
    if rule.body == "*":
        schema = schemas.body(message, path.bound) if path.bound else schemas.message(message)
        content, required = _content(message, schema), bool(schemas.body(message, path.bound).get("required"))
    else:
        # The rest of the message is described by the path and the query.
        whole = schemas.body(message, path.bound)
        each = message.fields_by_name[rule.body]
        schema, required = whole["properties"][each.json_name], each.json_name in whole.get("required", ())
        content = _content(each.message_type, schema)
    if method.client_streaming:
        content = {"application/json": {"schema": {"type": "array", "items": schema}}}
    return {"required": True, "content": content} if required else {"content": content}


def _content(message: Descriptor | None, schema: Schema) -> dict[str, Any]:
    if message is not None and message.full_name == _RAW:
        return {"*/*": {}}
    return {"application/json": {"schema": schema}}


def _answer(method: MethodDescriptor, rule: HttpRule, schemas: Schemas) -> dict[str, Any]:
    """The answer of a call that went well; that of a stream describes each of its events."""
    message = method.output_type
    if rule.response_body:
        message = message.fields_by_name[rule.response_body].message_type or message
    told = " ".join(schemas.comment(message.full_name).split()) or message.name
    content = _content(message, {} if message.full_name == _RAW else schemas.message(message))
    if not method.server_streaming:
        return {"description": told, "content": content}
    event = content.get("application/json", {})
    return {
        "description": f"{told}\n\nA stream: server-sent events, the `data` of each being one such message; "
        "or lines, each one such message, when `Accept` names `application/x-ndjson`.",
        "content": {"text/event-stream": event, "application/x-ndjson": event},
    }


def _statuses(comment: str, *, has_body: bool) -> frozenset[int]:
    """What the edge answers, and what the comment names, as in `NOT_FOUND`."""
    named = {Code[name].http_status for name in _CODE.findall(comment)}
    return ALWAYS | named | ({413} if has_body else set())
