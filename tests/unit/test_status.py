"""google.rpc.Status and `mesh.Error` say the same."""

from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, Help, RetryInfo
from google.rpc.status_pb2 import Status

from mesh.errors import Code, Error
from mesh.status import DETAILS_KEY, MAX_MESSAGE, from_rpc, from_status, to_json, to_status

FULL = Error(
    Code.UNAVAILABLE, "the store is away", reason="STORE_AWAY", metadata={"store": "postgres"},
    violations=[("lines[0].sku", "is required")], retry_after_seconds=1.5,
)


def rpc_error(code: grpc.StatusCode, details: str, status: bytes | None = None) -> Any:
    trailer = grpc.aio.Metadata() if status is None else grpc.aio.Metadata((DETAILS_KEY, status))
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailer, details)


def same(one: Error, other: Error) -> bool:
    return vars(one) == vars(other)


def test_the_details_are_those_of_aip_193() -> None:
    status = to_status(FULL)
    assert [detail.TypeName() for detail in status.details] == [
        ErrorInfo.DESCRIPTOR.full_name, BadRequest.DESCRIPTOR.full_name, RetryInfo.DESCRIPTOR.full_name,
    ]
    assert (status.code, status.message) == (14, "the store is away")


@pytest.mark.parametrize("code", [code for code in Code if code is not Code.OK])
def test_an_error_survives_the_wire_with_any_code(code: Code) -> None:
    error = Error(code, "why", reason="SOME_REASON")
    numbers = {each.value[0]: each for each in grpc.StatusCode}
    assert same(from_rpc(rpc_error(numbers[int(code)], "why", to_status(error).SerializeToString())), error)


def test_all_details_survive() -> None:
    assert same(from_status(to_status(FULL)), FULL)


@pytest.mark.parametrize("status", [None, b"\xff\xff", to_status(Error(Code.NOT_FOUND, "another")).SerializeToString()])
def test_without_details_that_fit_code_and_message_are_kept(status: bytes | None) -> None:
    assert same(from_rpc(rpc_error(grpc.StatusCode.ABORTED, "no luck", status)), Error(Code.ABORTED, "no luck"))


def test_unknown_and_broken_details_are_dropped() -> None:
    status = Status(code=99, message="odd")
    status.details.add().Pack(Help())
    status.details.add(type_url=f"type.googleapis.com/{ErrorInfo.DESCRIPTOR.full_name}", value=b"\xff")
    assert same(from_status(status), Error(Code.UNKNOWN, "odd"))


def test_the_json_body() -> None:
    assert to_json(Error(Code.NOT_FOUND, "", reason="ORDER_NOT_FOUND", metadata={"id": "1"})) == {
        "code": 5,
        "message": "",
        "details": [{
            "@type": "type.googleapis.com/google.rpc.ErrorInfo",
            "reason": "ORDER_NOT_FOUND", "domain": "meshwright", "metadata": {"id": "1"},
        }],
    }


def test_long_messages_are_cut_to_fit_a_trailer() -> None:
    assert len(to_status(Error(Code.INTERNAL, "x" * 100_000)).message) == MAX_MESSAGE
