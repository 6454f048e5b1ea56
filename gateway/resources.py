"""Clusters, endpoints and the transcoder, from the catalog and the merged contracts. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from envoy.config.cluster.v3.cluster_pb2 import Cluster, UpstreamConnectionOptions
from envoy.config.core.v3.address_pb2 import Address, BindConfig, Pipe, SocketAddress, TcpKeepalive
from envoy.config.core.v3.base_pb2 import TransportSocket
from envoy.config.core.v3.extension_pb2 import TypedExtensionConfig
from envoy.config.core.v3.protocol_pb2 import Http2ProtocolOptions
from envoy.config.core.v3.socket_option_pb2 import SocketOption
from envoy.config.endpoint.v3.endpoint_components_pb2 import Endpoint, LbEndpoint, LocalityLbEndpoints
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.extensions.filters.http.grpc_json_transcoder.v3.transcoder_pb2 import GrpcJsonTranscoder
from envoy.extensions.transport_sockets.tls.v3.common_pb2 import SubjectAltNameMatcher
from envoy.extensions.transport_sockets.tls.v3.tls_pb2 import UpstreamTlsContext
from envoy.extensions.upstreams.http.v3.http_protocol_options_pb2 import HttpProtocolOptions
from envoy.type.matcher.v3.string_pb2 import StringMatcher
from google.protobuf.wrappers_pb2 import UInt32Value

from gateway.descriptors import Merged
from gateway.lines import WANTED, inverse, unless
from gateway.listener import COLLECTOR_CLUSTER, LINES_TRANSCODER, TRANSCODER, seconds
from gateway.routes import CONSOLE_CLUSTER, PAGES_CLUSTER, REFLECTION_CLUSTER
from gateway.security import transport_socket
from gateway.settings import MAX_BODY_BYTES, Collector, EdgeSettings
from gateway.streams import MOST_OPEN, STREAMS
from mesh.registry.model import is_ip
from mesh.xds.dialect import ENVOY
from mesh.xds.parts import packed
from mesh.xds.resources import Peer, Peers, destination_resources

_OPTIONS: Final = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_HTTP2: Final = HttpProtocolOptions(
    explicit_http_config=HttpProtocolOptions.ExplicitHttpConfig(http2_protocol_options=Http2ProtocolOptions())
)


def service_resources(
    peer: Peer, peers: Peers, *, http1: bool, identity: Path | None = None
) -> Iterator[Cluster | ClusterLoadAssignment]:
    """Cluster and endpoints of each of a service's targets. Their names stay while the last instance is gone, so that
    nothing is rebuilt."""
    for destination in peer.policy.destinations.values():
        made, found, ids = destination_resources(destination, peers, ENVOY)
        made.upstream_connection_options.CopyFrom(_PROBED)
        made.upstream_bind_config.CopyFrom(_IMPATIENT)
        if not http1:
            made.typed_extension_protocol_options[_OPTIONS].CopyFrom(packed(_HTTP2))
        if ids and identity:
            made.transport_socket.CopyFrom(transport_socket(ids, identity, http1=http1))
        yield from (made, found)


_PROBED: Final = UpstreamConnectionOptions(
    tcp_keepalive=TcpKeepalive(
        keepalive_probes=UInt32Value(value=3),
        keepalive_time=UInt32Value(value=10),
        keepalive_interval=UInt32Value(value=5),
    )
)
"""TCP's own probes: gRPC servers close connections that ping them more often than every five minutes."""

_IPPROTO_TCP, _TCP_USER_TIMEOUT = 6, 18
_IMPATIENT: Final = BindConfig(socket_options=[
    SocketOption(
        level=_IPPROTO_TCP, name=_TCP_USER_TIMEOUT, int_value=5000, state=SocketOption.STATE_PREBIND,
        description="what was sent is acknowledged within 5 s",
    )
])  # fmt: skip
"""For a path that is swallowed under calls: while something waits to be acknowledged TCP does not probe, but sends it
again for a quarter of an hour (tcp(7)). gRPC sets the same by its keepalive (gRFC A18), `mesh.channel` to 5 s too."""


def transcoders(merged: Merged) -> Iterator[TypedExtensionConfig]:
    """REST to gRPC by `google.api.http`, delivered apart from the listener so that streams outlive a change.

    There are two, which differ in how they write streams; what the caller accepts decides who is skipped.
    """
    events, lines = (_transcoder(merged, options) for options in (_EVENTS, _LINES))
    for name, made in (
        (TRANSCODER, unless(WANTED, TRANSCODER, events)),
        (LINES_TRANSCODER, unless(inverse(WANTED), LINES_TRANSCODER, lines)),
    ):
        yield TypedExtensionConfig(name=name, typed_config=packed(made))


_EVENTS: Final = GrpcJsonTranscoder.PrintOptions(stream_sse_style_delimited=True)
_LINES: Final = GrpcJsonTranscoder.PrintOptions(stream_newline_delimited=True)


def _transcoder(merged: Merged, print_options: GrpcJsonTranscoder.PrintOptions) -> GrpcJsonTranscoder:
    """JSON is proto3's mapping. Unknown query parameters are refused; unknown body fields are ignored."""
    return GrpcJsonTranscoder(
        proto_descriptor_bin=merged.serialized,
        services=merged.transcoded,
        convert_grpc_status=True,
        max_request_body_size=UInt32Value(value=MAX_BODY_BYTES),
        # JSON is longer than protobuf: this lets any message through that gRPC itself takes.
        max_response_body_size=UInt32Value(value=8 * MAX_BODY_BYTES),
        print_options=print_options,
        request_validation_options=GrpcJsonTranscoder.RequestValidationOptions(
            reject_unknown_query_parameters=True, reject_binding_body_field_collisions=True
        ),
    )


def own_clusters(settings: EdgeSettings) -> Iterator[Cluster]:
    """What the edge itself talks to."""
    reflection = Address(pipe=Pipe(path=str(settings.reflection_socket)))
    yield _fixed(REFLECTION_CLUSTER, Cluster.STATIC, reflection, http1=False)
    if settings.identity:
        yield _streams(reflection)
    pages = Address(pipe=Pipe(path=str(settings.http_socket)))
    yield _fixed(PAGES_CLUSTER, Cluster.STATIC, pages, http1=True)
    if settings.console_port:
        console = Address(socket_address=SocketAddress(address="127.0.0.1", port_value=settings.console_port))
        yield _fixed(CONSOLE_CLUSTER, Cluster.STATIC, console, http1=True)
    if settings.collector:
        yield _collector(settings.collector)


def _streams(address: Address) -> Cluster:
    """As many as there are streams open."""
    made = _fixed(STREAMS, Cluster.STATIC, address, http1=False)
    made.circuit_breakers.thresholds.add(max_requests=UInt32Value(value=MOST_OPEN))
    return made


def _collector(collector: Collector) -> Cluster:
    address = Address(socket_address=SocketAddress(address=collector.host, port_value=collector.port))
    kind = Cluster.STATIC if is_ip(collector.host) else Cluster.STRICT_DNS
    made = _fixed(COLLECTOR_CLUSTER, kind, address, http1=bool(collector.url))
    # A name that cannot be resolved must cost spans, not the edge.
    made.wait_for_warm_on_init.value = False
    if collector.ca_file:
        context = UpstreamTlsContext(sni=collector.host)
        validation = context.common_tls_context.validation_context
        validation.trusted_ca.filename = collector.ca_file
        validation.match_typed_subject_alt_names.add(
            san_type=SubjectAltNameMatcher.DNS, matcher=StringMatcher(exact=collector.host)
        )
        made.transport_socket.CopyFrom(TransportSocket(name="tls", typed_config=packed(context)))
    return made


def _fixed(name: str, kind: Cluster.DiscoveryType.ValueType, address: Address, *, http1: bool) -> Cluster:
    members = LocalityLbEndpoints(lb_endpoints=[LbEndpoint(endpoint=Endpoint(address=address))])
    made = Cluster(
        name=name,
        type=kind,
        connect_timeout=seconds(1),
        load_assignment=ClusterLoadAssignment(cluster_name=name, endpoints=[members]),
    )
    if not http1:
        made.typed_extension_protocol_options[_OPTIONS].CopyFrom(packed(_HTTP2))
    return made
