"""google.rpc.Status <-> `mesh.Error`: how an error travels in `grpc-status-details-bin` and in a REST body."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol

from google.protobuf import json_format
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from mesh.errors import DOMAIN, Code, Error

if TYPE_CHECKING:
    from google.protobuf.message import Message

DETAILS_KEY = "grpc-status-details-bin"
"""Trailing metadata that carries a serialized google.rpc.Status."""


MAX_MESSAGE = 1000
"""Longest message on the wire, in characters."""


class RpcError(Protocol):
    """What is used of `grpc.aio.AioRpcError`, so that this module needs no gRPC."""

    def code(self) -> Any:
        """A `grpc.StatusCode`."""

    def details(self) -> str | None:
        """The message."""

    def trailing_metadata(self) -> Iterable[tuple[str, str | bytes]] | None:
        """The trailer."""


def to_status(error: Error) -> Status:
    """The Status of an error: exactly one ErrorInfo, then BadRequest and RetryInfo where they apply."""
    status = Status(code=int(error.code), message=clipped(error.message))
    for detail in _details(error):
        status.details.add().Pack(detail)
    return status


def from_status(status: Status) -> Error:
    """The error that a Status describes; details of unknown types are dropped."""
    info, bad, retry = ErrorInfo(), BadRequest(), RetryInfo()
    found = {detail.TypeName() for detail in status.details if _unpack(detail, info, bad, retry)}
    return Error(
        _code(status.code),
        status.message,
        reason=info.reason,
        metadata=dict(info.metadata),
        violations=[(violation.field, violation.description) for violation in bad.field_violations],
        retry_after_seconds=_seconds(retry.retry_delay) if RetryInfo.DESCRIPTOR.full_name in found else None,
    )


def from_rpc(error: RpcError) -> Error:
    """The error behind a failed call: from its details where the server sent them, else from code and message."""
    code = _code(int(error.code().value[0]))
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_KEY and isinstance(value, bytes):
            status = _parse(value)
            if status is not None and status.code == code:
                return from_status(status)
    return Error(code, error.details() or "")


def to_json(error: Error) -> dict[str, Any]:
    """The body of a REST answer: google.rpc.Status in proto3's JSON mapping, always with code and message."""
    status = to_status(error)
    return {"code": status.code, "message": status.message} | json_format.MessageToDict(status)


def clipped(message: str) -> str:
    """A message short enough for a trailer: peers refuse more than 8 KiB of those, details included."""
    return message if len(message) <= MAX_MESSAGE else message[: MAX_MESSAGE - 1] + "…"


def _details(error: Error) -> Iterable[Message]:
    yield ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.metadata)
    if error.violations:
        yield BadRequest(field_violations=[
            BadRequest.FieldViolation(field=field, description=description)
            for field, description in error.violations
        ])
    if error.retry_after_seconds is not None:
        delay = Duration()
        delay.FromNanoseconds(round(error.retry_after_seconds * 1e9))
        yield RetryInfo(retry_delay=delay)


def _unpack(detail: AnyMessage, *targets: Message) -> bool:
    try:
        return any(detail.Unpack(target) for target in targets)
    except DecodeError:
        return False


def _parse(value: bytes) -> Status | None:
    try:
        return Status.FromString(value)
    except DecodeError:
        return None


def _code(number: int) -> Code:
    return Code(number) if number in Code._value2member_map_ else Code.UNKNOWN


def _seconds(duration: Duration) -> float:
    return duration.ToNanoseconds() / 1e9
