"""Faults on purpose as xDS. Pure.

A filter that does nothing is always in the listener, and what is to happen is in a route's own configuration for it
(gRFC A33): so a fault comes and goes without a changed listener, which would end streams.
"""

from __future__ import annotations

from typing import Final

from envoy.config.route.v3.route_components_pb2 import Route
from envoy.extensions.filters.common.fault.v3.fault_pb2 import FaultDelay
from envoy.extensions.filters.http.fault.v3.fault_pb2 import FaultAbort, HTTPFault
from envoy.type.v3.percent_pb2 import FractionalPercent

from mesh.policy import Fault
from mesh.xds.parts import duration, packed

NO_FAULT: Final = HTTPFault()
"""The filter's configuration in a listener."""


def injected(route: Route, fault: Fault | None, filter_name: str, *, marked: bool = False) -> Route:
    """A route with what is to happen on purpose to its calls; `marked` as `Dialect.marks_faults` says."""
    made = http_fault(fault) if fault else HTTPFault()
    made.disable_downstream_cluster_stats = marked
    if fault or marked:
        route.typed_per_filter_config[filter_name].CopyFrom(packed(made))
    return route


def http_fault(fault: Fault) -> HTTPFault:
    """A fault in Envoy's words."""
    made, share = HTTPFault(), _share(fault.percent)
    if fault.by_header:
        made.abort.CopyFrom(FaultAbort(header_abort=FaultAbort.HeaderAbort(), percentage=share))
        made.delay.CopyFrom(FaultDelay(header_delay=FaultDelay.HeaderDelay(), percentage=share))
    if fault.abort:
        made.abort.CopyFrom(FaultAbort(grpc_status=fault.abort, percentage=share))
    if fault.delay_seconds:
        made.delay.CopyFrom(FaultDelay(fixed_delay=duration(fault.delay_seconds), percentage=share))
    return made


def _share(percent: float) -> FractionalPercent:
    """In hundredths where it can be: the headers that ask for a share count in what the configuration does."""
    if percent == int(percent):
        return FractionalPercent(numerator=int(percent), denominator=FractionalPercent.HUNDRED)
    return FractionalPercent(numerator=round(percent * 10_000), denominator=FractionalPercent.MILLION)
