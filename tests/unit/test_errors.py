"""The code table and the error tree."""

import pytest

from mesh.errors import Code, Error, InvalidConfig, Refused

TABLE = [
    # code, number, HTTP status, code that the HTTP status alone tells
    (Code.OK, 0, 200, Code.OK),
    (Code.CANCELLED, 1, 499, Code.CANCELLED),
    (Code.UNKNOWN, 2, 500, Code.INTERNAL),
    (Code.INVALID_ARGUMENT, 3, 400, Code.INVALID_ARGUMENT),
    (Code.DEADLINE_EXCEEDED, 4, 504, Code.DEADLINE_EXCEEDED),
    (Code.NOT_FOUND, 5, 404, Code.NOT_FOUND),
    (Code.ALREADY_EXISTS, 6, 409, Code.ABORTED),
    (Code.PERMISSION_DENIED, 7, 403, Code.PERMISSION_DENIED),
    (Code.RESOURCE_EXHAUSTED, 8, 429, Code.RESOURCE_EXHAUSTED),
    (Code.FAILED_PRECONDITION, 9, 400, Code.INVALID_ARGUMENT),
    (Code.ABORTED, 10, 409, Code.ABORTED),
    (Code.OUT_OF_RANGE, 11, 400, Code.INVALID_ARGUMENT),
    (Code.UNIMPLEMENTED, 12, 501, Code.UNIMPLEMENTED),
    (Code.INTERNAL, 13, 500, Code.INTERNAL),
    (Code.UNAVAILABLE, 14, 503, Code.UNAVAILABLE),
    (Code.DATA_LOSS, 15, 500, Code.INTERNAL),
    (Code.UNAUTHENTICATED, 16, 401, Code.UNAUTHENTICATED),
]


def test_every_code_is_in_the_table() -> None:
    assert [code for code, *_ in TABLE] == list(Code)


@pytest.mark.parametrize(("code", "number", "http", "back"), TABLE)
def test_codes_and_http(code: Code, number: int, http: int, back: Code) -> None:
    assert (int(code), code.http_status, Code.from_http_status(http)) == (number, http, back)


@pytest.mark.parametrize(
    ("status", "code"),
    [(204, Code.OK), (302, Code.UNKNOWN), (418, Code.INVALID_ARGUMENT), (502, Code.UNAVAILABLE)],
)
def test_other_http_statuses_fall_into_their_class(status: int, code: Code) -> None:
    assert Code.from_http_status(status) is code


def test_the_reason_is_the_code_unless_given() -> None:
    assert Error(Code.NOT_FOUND, "gone").reason == "NOT_FOUND"
    assert Error(Code.NOT_FOUND, "gone", reason="ORDER_NOT_FOUND").reason == "ORDER_NOT_FOUND"
    assert str(Error(Code.NOT_FOUND, "gone")) == "NOT_FOUND: gone"


def test_all_problems_of_a_configuration_are_listed() -> None:
    assert InvalidConfig.of(["a is wrong", "b too"]).message == "a is wrong\nb too"


def test_a_refusal_repeats_its_first_violation() -> None:
    error = Refused.of([("id", "is required"), ("name", "holds NUL")])
    assert (error.code, error.reason, error.message) == (Code.INVALID_ARGUMENT, "INVALID_FIELD", "id: is required")
    assert error.violations == (("id", "is required"), ("name", "holds NUL"))
