"""The REST API of everything on the mesh as one OpenAPI 3.1 document. Pure: equal contracts, equal document."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Final

from google.protobuf.descriptor import ServiceDescriptor

from gateway.comments import comments
from gateway.descriptors import Merged
from gateway.operations import ALWAYS, Operation, operations
from gateway.parameters import Path
from gateway.schema import REFERENCE, Schemas
from mesh.errors import DOMAIN, Code
from mesh.xds.snapshot import digest

ERROR: Final = "mesh-error"
"""Component of the error shape. A dash is in no message's name, so it can collide with none."""

_INTRODUCTION: Final = f"""\
Every service on the mesh whose contract has `google.api.http` annotations is here, as of now.

- JSON is proto3's mapping. Fields are taken in both spellings, `pageSize` and `page_size`; a field that has its
  default value is left out of answers. Unknown query parameters are refused, unknown fields of a body are ignored.
- Every error is a `google.rpc.Status`, with one `google.rpc.ErrorInfo` among its details, whose `reason` is for
  programs and whose `domain` is `{DOMAIN}`.
- The same port speaks gRPC and gRPC-Web; `x-grpc-method` is the path of the method behind an operation.
- A `traceparent` header is honoured."""


def openapi(merged: Merged) -> dict[str, Any]:
    """The document, in a fixed order."""
    schemas = Schemas(comments=comments(merged.files))
    services = [merged.pool.FindServiceByName(name) for name in merged.transcoded]
    tags = _tags(services)
    found = [one for service in services for one in operations(service, tags[service.full_name], schemas)]
    described = [_tag(tags[service.full_name], service, schemas) for service in services]
    return {
        "openapi": "3.1.0",
        "info": {"title": "Mesh", "version": digest([merged.version.encode()])[:12], "description": _INTRODUCTION},
        "servers": [{"url": "/"}],
        "tags": sorted(described, key=lambda tag: str(tag["name"])),
        "paths": _paths(found),
        "components": {
            "schemas": dict(sorted({**schemas.components, **_ERROR_SCHEMAS}.items())),
            "responses": _responses(frozenset(ALWAYS).union(*(one.statuses for one in found))),
        },
    }


def _tags(services: Iterable[ServiceDescriptor]) -> Mapping[str, str]:
    """Tag by full name of a service: its own name, or the full one where two have the same."""
    held = tuple(services)
    uses = Counter(service.name for service in held)
    return {s.full_name: s.name if uses[s.name] == 1 else s.full_name for s in held}


def _tag(name: str, service: ServiceDescriptor, schemas: Schemas) -> dict[str, str]:
    text = schemas.comment(service.full_name)
    return {"name": name, "description": text} if text else {"name": name}


def _paths(found: Iterable[Operation]) -> dict[str, Any]:
    """Operations by path. Where two name the variables of one path differently, the first names them for both."""
    names: dict[str, Path] = {}
    made: dict[str, dict[str, Any]] = {}
    for one in found:
        path = one.path.like(names.setdefault(one.path.shape, one.path).template)
        made.setdefault(path.template, {})[one.verb] = one.rendered(path)
    return {template: dict(sorted(made[template].items())) for template in sorted(made)}


def _responses(statuses: Iterable[int]) -> dict[str, Any]:
    made = {str(status): _response(_meaning(status)) for status in sorted(statuses)}
    return {**made, "Error": _response("Any other failure.")}


def _response(description: str) -> dict[str, Any]:
    return {
        "description": description,
        "content": {"application/json": {"schema": {"$ref": REFERENCE + ERROR}}},
    }


def _meaning(status: int) -> str:
    """The codes behind a status, and what they mean."""
    if status == 413:
        return "`INVALID_ARGUMENT`: The body is larger than 4 MiB."
    codes = (code for code in Code if code and code.http_status == status)
    return "\n".join(f"`{code.name}`: {_MEANINGS[code]}" for code in codes)


_MEANINGS: Final[Mapping[Code, str]] = {
    Code.CANCELLED: "The caller went away.",
    Code.UNKNOWN: "Nothing better is known.",
    Code.INVALID_ARGUMENT: "The request is wrong whatever the state of the system.",
    Code.DEADLINE_EXCEEDED: "Time ran out; the call may have had its effect.",
    Code.NOT_FOUND: "No such resource.",
    Code.ALREADY_EXISTS: "The resource to create is there, with another content.",
    Code.PERMISSION_DENIED: "The caller may not do this.",
    Code.RESOURCE_EXHAUSTED: "A quota or a limit is reached.",
    Code.FAILED_PRECONDITION: "The state of the system forbids it; do not retry before that is changed.",
    Code.ABORTED: "A conflict with another call; retry at a higher level.",
    Code.OUT_OF_RANGE: "Past the valid range.",
    Code.UNIMPLEMENTED: "Not offered here.",
    Code.INTERNAL: "An invariant is broken.",
    Code.UNAVAILABLE: "Not now; retry with back-off.",
    Code.DATA_LOSS: "Data is lost or corrupt.",
    Code.UNAUTHENTICATED: "The caller did not say who it is.",
}


def _detail(name: str, **properties: Any) -> dict[str, Any]:
    kind = {"const": f"type.googleapis.com/google.rpc.{name}"}
    return {"type": "object", "properties": {"@type": kind, **properties}, "required": ["@type"]}


def _text(description: str) -> dict[str, str]:
    return {"type": "string", "description": description}


_VIOLATION: Final = {
    "type": "object",
    "properties": {
        "field": _text("Path of the field by its proto names, such as `lines[0].unit_price`."),
        "description": _text("What is wrong with it."),
    },
}

_ERROR_SCHEMAS: Final[Mapping[str, Any]] = {
    ERROR: {
        "type": "object",
        "description": "The one shape of all errors.",
        "properties": {
            "code": {"type": "integer", "format": "int32", "description": "Number of the `google.rpc.Code`."},
            "message": _text("For people; says what to do."),
            "details": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {"@type": {"type": "string"}},
                    "required": ["@type"],
                    "anyOf": [
                        {"$ref": REFERENCE + "mesh-error-info"},
                        {"$ref": REFERENCE + "mesh-bad-request"},
                        {"$ref": REFERENCE + "mesh-retry-info"},
                        {"description": "A detail of another type."},
                    ],
                },
                "contains": {"$ref": REFERENCE + "mesh-error-info"},
            },
        },
        "required": ["code", "message", "details"],
    },
    "mesh-error-info": _detail(
        "ErrorInfo",
        reason={**_text("For programs; stable."), "examples": ["ORDER_NOT_FOUND"]},
        domain={**_text("Who defines the reason."), "examples": [DOMAIN]},
        metadata={"type": "object", "additionalProperties": {"type": "string"}},
    ),
    "mesh-bad-request": _detail("BadRequest", fieldViolations={"type": "array", "items": _VIOLATION}),
    "mesh-retry-info": _detail(
        "RetryInfo", retryDelay={**_text("When to try again."), "examples": ["1s"]}
    ),
}
