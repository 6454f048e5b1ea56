"""Moments between Postgres and protobuf. Pure."""

from __future__ import annotations

from datetime import UTC
from typing import TYPE_CHECKING, overload

from google.protobuf.timestamp_pb2 import Timestamp

if TYPE_CHECKING:
    from datetime import datetime


@overload
def timestamp(moment: datetime) -> Timestamp: ...
@overload
def timestamp(moment: None) -> None: ...
def timestamp(moment: datetime | None) -> Timestamp | None:
    """The moment, exact to the microsecond; None stays None."""
    if moment is None:
        return None
    message = Timestamp()
    message.FromDatetime(moment)
    return message


def moment(message: Timestamp) -> datetime:
    """The moment, UTC, cut to the microsecond. Raises ValueError for one that no datetime can hold."""
    try:
        return message.ToDatetime(UTC)
    except OverflowError as error:
        raise ValueError(str(error)) from error
