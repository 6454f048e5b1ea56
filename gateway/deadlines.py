"""Deadlines at the edge: Envoy's own timers are set later, and what services are told is not. Pure.

A timer of Envoy begins at the last turn of its loop, by a clock that ticks 100 to 1,000 times a second
(CLOCK_MONOTONIC_COARSE, in libevent), so it may be early by a tick and that turn. But the same figure sets the timer
and goes to services as `grpc-timeout`. So the listener makes the caller's deadline longer before Envoy looks at it, a
route's own limits are longer by as much, and the route takes that off again from what goes on to the service:

    caller's deadline -- longer() --> the lesser of it and the longer limit is Envoy's timer -- patient() --> service
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from envoy.config.common.mutation_rules.v3.mutation_rules_pb2 import HeaderMutation as OneMutation
from envoy.config.core.v3.base_pb2 import HeaderValue, HeaderValueOption
from envoy.config.route.v3.route_components_pb2 import Route
from google.protobuf.duration_pb2 import Duration

from mesh.xds.parts import duration

LATER_MILLISECONDS: Final = 10
"""By how much: a tick of 4 ms, as most kernels have, and the turn of a busy loop; of the slowest clocks, the tick."""

_LONGEST: Final = 99_999_999
"""Milliseconds in the eight digits that gRPC takes."""

_HEADER: Final = "grpc-timeout"
_TOLD: Final = f"request.headers['{_HEADER}']"
_NUMBER: Final = rf"int(re.extract({_TOLD}, '^([0-9]+).$', r'\1'))"

_EIGHT: Final = "0*[0-9]{1,8}"
_UNITS: Final = {
    "n": (_EIGHT, f"({_NUMBER} + 999999) / 1000000"),
    "u": (_EIGHT, f"({_NUMBER} + 999) / 1000"),
    "m": (_EIGHT, _NUMBER),
    "S": ("0*[0-9]{1,5}", f"{_NUMBER} * 1000"),
    "M": ("0*(?:[0-9]{1,3}|1[0-5][0-9]{2}|16[0-5][0-9]|166[0-6])", f"{_NUMBER} * 60000"),
    "H": ("0*(?:1?[0-9]|2[0-7])", f"{_NUMBER} * 3600000"),
}
"""The numbers of each unit that stay within eight digits of milliseconds, and how many those are, rounded up."""


def longer() -> OneMutation:
    """Of a request, before its route is looked for: a later deadline, in milliseconds.

    One of 100,000 s (28 hours) or more stays, as Envoy writes it in a larger unit, which no route makes shorter. To be
    early by so little does not matter there.
    """
    *others, (_, last) = _UNITS.items()
    chosen = "".join(f"{_TOLD}.endsWith('{unit}') ? {value} : " for unit, (_, value) in others)
    shape = "|".join(f"{numbers}{unit}" for unit, (numbers, _) in _UNITS.items())
    return OneMutation(append=_in_milliseconds(shape, f"({chosen}{last[1]}) + {LATER_MILLISECONDS}"))


def patient(route: Route) -> Route:
    """A route of gRPC calls that ends them no earlier than its limit and the caller's deadline say, and tells its
    service of no more than those.

    What Envoy makes of the deadline is in milliseconds here, or 100,000 s or more. That of gRPC-Web it leaves as it is.
    """
    limits = route.route.max_stream_duration
    limit = round(limits.max_stream_duration.ToTimedelta() / timedelta(milliseconds=1))
    limits.grpc_timeout_header_max.CopyFrom(Duration())  # which is: no limit but the caller's
    if limit:
        limits.max_stream_duration.CopyFrom(duration((limit + LATER_MILLISECONDS) / 1000))
        limits.grpc_timeout_header_max.CopyFrom(limits.max_stream_duration)
    route.request_headers_to_add.append(_told(limit))
    return route


def _told(limit: int) -> HeaderValueOption:
    """The deadline that Envoy has as it was, at most so many milliseconds if there is a limit."""
    before = f"{_NUMBER} - {LATER_MILLISECONDS}"
    if not 0 < limit <= _LONGEST:
        return _in_milliseconds("[0-9]+m", before)
    made = HeaderValueOption(append_action=HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD)
    is_less = f"'{_HEADER}' in request.headers && {_fits('[0-9]+m')} && {before} < {limit}"
    made.header.CopyFrom(HeaderValue(key=_HEADER, value=f"%CEL({is_less} ? {before} : {limit})%m"))
    return made


def _in_milliseconds(shape: str, value: str) -> HeaderValueOption:
    """The deadline that a request has, if it has that shape, as another; one that becomes nothing stays as it is."""
    text = f"%CEL({_fits(shape)} ? {value} : '')%%CEL({_fits(shape)} ? 'm' : '')%"
    return HeaderValueOption(
        header=HeaderValue(key=_HEADER, value=text), append_action=HeaderValueOption.OVERWRITE_IF_EXISTS
    )


def _fits(shape: str) -> str:
    return f"{_TOLD}.matches('^({shape})$')"
