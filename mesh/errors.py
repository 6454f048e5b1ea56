"""The one error tree and the one code table.

    Error                 a call failed: code, message, reason, details
    ├── InvalidConfig     what a user configured cannot work; lists every problem
    └── Refused           a message or file broke a rule; lists every violation

Codes, their meaning and their HTTP status: google.rpc.Code (https://github.com/googleapis/googleapis,
google/rpc/code.proto). Error bodies: AIP-193 (https://google.aip.dev/193).
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from typing import Self

DOMAIN = "meshwright"
"""`domain` of every google.rpc.ErrorInfo that this mesh makes."""


class Code(enum.IntEnum):
    """Canonical status codes by their number on the wire."""

    OK = 0
    """Success."""
    CANCELLED = 1
    """The caller went away."""
    UNKNOWN = 2
    """Nothing better is known."""
    INVALID_ARGUMENT = 3
    """The request is wrong whatever the state of the system."""
    DEADLINE_EXCEEDED = 4
    """Time ran out; the call may have had its effect."""
    NOT_FOUND = 5
    """No such resource."""
    ALREADY_EXISTS = 6
    """The resource to create is there, with another content."""
    PERMISSION_DENIED = 7
    """The caller may not do this."""
    RESOURCE_EXHAUSTED = 8
    """A quota or a limit is reached."""
    FAILED_PRECONDITION = 9
    """The state of the system forbids it; do not retry before that is changed."""
    ABORTED = 10
    """A conflict with another call; retry at a higher level."""
    OUT_OF_RANGE = 11
    """Past the valid range."""
    UNIMPLEMENTED = 12
    """Not offered here."""
    INTERNAL = 13
    """An invariant is broken."""
    UNAVAILABLE = 14
    """Not now; retry with back-off."""
    DATA_LOSS = 15
    """Data is lost or corrupt."""
    UNAUTHENTICATED = 16
    """The caller did not say who it is."""

    @property
    def http_status(self) -> int:
        """Status of the HTTP answer, as google/rpc/code.proto maps it."""
        return _HTTP_STATUS[self]

    @classmethod
    def from_http_status(cls, status: int) -> Code:
        """The code that fits an HTTP status: exact where the table has it, else by its class."""
        if 200 <= status < 300:
            return cls.OK
        return _FROM_HTTP.get(status) or (
            cls.INVALID_ARGUMENT if 400 <= status < 500 else cls.UNAVAILABLE if status >= 500 else cls.UNKNOWN
        )


FAULTS = frozenset({
    Code.UNKNOWN, Code.DEADLINE_EXCEEDED, Code.RESOURCE_EXHAUSTED, Code.UNIMPLEMENTED, Code.INTERNAL, Code.UNAVAILABLE,
    Code.DATA_LOSS,
})
"""Codes of calls that failed by no fault of the caller: what the console, dashboards and alerts count as failed."""

_HTTP_STATUS: Mapping[Code, int] = {
    Code.OK: 200,
    Code.CANCELLED: 499,
    Code.UNKNOWN: 500,
    Code.INVALID_ARGUMENT: 400,
    Code.DEADLINE_EXCEEDED: 504,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.PERMISSION_DENIED: 403,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.FAILED_PRECONDITION: 400,
    Code.ABORTED: 409,
    Code.OUT_OF_RANGE: 400,
    Code.UNIMPLEMENTED: 501,
    Code.INTERNAL: 500,
    Code.UNAVAILABLE: 503,
    Code.DATA_LOSS: 500,
    Code.UNAUTHENTICATED: 401,
}

_FROM_HTTP: Mapping[int, Code] = {
    400: Code.INVALID_ARGUMENT,
    401: Code.UNAUTHENTICATED,
    403: Code.PERMISSION_DENIED,
    404: Code.NOT_FOUND,
    409: Code.ABORTED,
    429: Code.RESOURCE_EXHAUSTED,
    499: Code.CANCELLED,
    500: Code.INTERNAL,
    501: Code.UNIMPLEMENTED,
    503: Code.UNAVAILABLE,
    504: Code.DEADLINE_EXCEEDED,
}


class Error(Exception):
    """A call failed, or is to fail, with this status.

    `reason` is UPPER_SNAKE and stable, for programs; `message` is for people and says what to do.
    `metadata` goes into the ErrorInfo. `violations` are (field path, description) pairs of a BadRequest.
    `retry_after_seconds` becomes a RetryInfo.
    """

    def __init__(
        self,
        code: Code,
        message: str,
        *,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        violations: Iterable[tuple[str, str]] = (),
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.reason = reason or code.name
        self.metadata = dict(metadata or {})
        self.violations = tuple(violations)
        self.retry_after_seconds = retry_after_seconds

    def __str__(self) -> str:
        return f"{self.code.name}: {self.message}"


class InvalidConfig(Error):
    """What a user configured cannot work; the message has one problem a line."""

    @classmethod
    def of(cls, problems: Iterable[str]) -> Self:
        """All problems at once."""
        return cls(Code.INVALID_ARGUMENT, "\n".join(problems), reason="INVALID_CONFIG")


class Refused(Error):
    """A message broke the rules that its contract declares; `violations` has them all."""

    @classmethod
    def of(cls, violations: Iterable[tuple[str, str]]) -> Self:
        """All violations at once; the message repeats the first."""
        found = tuple(violations)
        field, description = found[0]
        return cls(
            Code.INVALID_ARGUMENT, f"{field}: {description}" if field else description,
            reason="INVALID_FIELD", violations=found,
        )
