"""Envoy's part in ending streams once an intention denies them, where the service cannot tell who calls. Pure.

Envoy looks at intentions when a call begins (`gateway.intentions`). Of a call that streams it tells the control process
as well (`gateway.ending`), which lets it go on at once, and says so when it may be no more. The bytes of the stream
stay in Envoy; without the control process streams go on.
https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/ext_proc_filter
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Final

from envoy.config.core.v3.grpc_service_pb2 import GrpcService
from envoy.config.route.v3.route_components_pb2 import Route, VirtualHost
from envoy.extensions.filters.http.ext_proc.v3.ext_proc_pb2 import ExternalProcessor, ExtProcOverrides, ExtProcPerRoute
from envoy.extensions.filters.http.ext_proc.v3.processing_mode_pb2 import ProcessingMode
from google.protobuf.duration_pb2 import Duration

from mesh.contract import Contract
from mesh.policy import Match
from mesh.xds.parts import packed

STREAMS: Final = "edge/streams"
"""Name of the filter, and of the cluster that it asks."""

SERVICE: Final = "envoy.service.ext_proc.v3.ExternalProcessor"
CLUSTER: Final = "xds.cluster_name"
"""What Envoy tells beside the headers."""

MOST_OPEN: Final = 100_000
"""Streams that Envoy tells of at one time; those beyond are not ended."""

_NOTHING: Final = ProcessingMode(request_header_mode=ProcessingMode.SKIP, response_header_mode=ProcessingMode.SKIP)

# It goes on at once, and the last word is waited for: with nothing to wait for Envoy would not listen any more.
_BOTH_ENDS: Final = ProcessingMode(
    request_header_mode=ProcessingMode.SEND,
    response_header_mode=ProcessingMode.SKIP,
    response_trailer_mode=ProcessingMode.SEND,
)


def streams_filter() -> ExternalProcessor:
    """For the listener: it tells of no call by itself. A control process that hangs holds up the begin of a stream, and
    its end, for as long as `message_timeout`; a shorter one would let more of them begin unseen on a busy host.
    """
    return ExternalProcessor(
        grpc_service=GrpcService(envoy_grpc=GrpcService.EnvoyGrpc(cluster_name=STREAMS)),
        failure_mode_allow=True,
        processing_mode=_NOTHING,
        request_attributes=[CLUSTER],
        message_timeout=Duration(seconds=1),
    )


def followable(host: VirtualHost) -> VirtualHost:
    """A host some of whose calls are told of. The filter has to be there before it is known which: Envoy asks when a
    request comes, and the route of gRPC is found when it has been transcoded.
    """
    host.typed_per_filter_config[STREAMS].CopyFrom(packed(ExtProcPerRoute(overrides=ExtProcOverrides())))
    return host


def followed(route: Route) -> Route:
    """A route whose calls are told of."""
    overrides = ExtProcOverrides(processing_mode=_BOTH_ENDS)
    route.typed_per_filter_config[STREAMS].CopyFrom(packed(ExtProcPerRoute(overrides=overrides)))
    return route


def narrowed(match: Match, paths: Iterable[str]) -> Iterator[Match]:
    """What a match takes of each of these paths."""
    yield from (replace(match, path=path, prefix="", regex="") for path in paths if match.covers(path))


def unary(contract: Contract) -> tuple[str, ...]:
    """Paths of the methods that do not stream. Whoever offers a contract wrote it: it may lack services that it names,
    and methods that its servers have.
    """
    return tuple(path for path, method in contract.methods.items() if method.unary)
