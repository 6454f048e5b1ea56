"""Moments between Postgres and protobuf. Pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import overload

from google.protobuf.timestamp_pb2 import Timestamp

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST = datetime.max.replace(tzinfo=UTC)


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
    """The first microsecond that is not before a valid timestamp, so that comparing with it stays exact."""
    try:
        return _EPOCH + timedelta(seconds=message.seconds, microseconds=-(-message.nanos // 1000))
    except OverflowError:
        return _LAST
