"""The one listener of the edge and its HTTP connection manager. Pure; depends on settings only, never on services.

A changed listener is drained, which ends long streams: so whatever changes while the edge runs comes by RDS,
ECDS, CDS and EDS.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Final

from envoy.config.accesslog.v3.accesslog_pb2 import AccessLog
from envoy.config.common.mutation_rules.v3.mutation_rules_pb2 import HeaderMutation as OneMutation
from envoy.config.core.v3.address_pb2 import Address, CidrRange, SocketAddress
from envoy.config.core.v3.base_pb2 import HeaderValue, HeaderValueOption
from envoy.config.core.v3.config_source_pb2 import ExtensionConfigSource
from envoy.config.core.v3.extension_pb2 import TypedExtensionConfig
from envoy.config.core.v3.grpc_service_pb2 import GrpcService
from envoy.config.core.v3.http_service_pb2 import HttpService
from envoy.config.core.v3.http_uri_pb2 import HttpUri
from envoy.config.core.v3.protocol_pb2 import Http1ProtocolOptions, Http2ProtocolOptions, HttpProtocolOptions
from envoy.config.core.v3.socket_option_pb2 import SocketOption
from envoy.config.core.v3.substitution_format_string_pb2 import SubstitutionFormatString
from envoy.config.listener.v3.listener_components_pb2 import Filter, FilterChain
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.rbac.v3.rbac_pb2 import RBAC, Permission, Policy, Principal
from envoy.config.route.v3.route_components_pb2 import HeaderMatcher
from envoy.config.trace.v3.http_tracer_pb2 import Tracing
from envoy.config.trace.v3.opentelemetry_pb2 import OpenTelemetryConfig
from envoy.extensions.access_loggers.file.v3.file_pb2 import FileAccessLog
from envoy.extensions.common.matching.v3.extension_matcher_pb2 import ExtensionWithMatcher
from envoy.extensions.filters.http.buffer.v3.buffer_pb2 import Buffer
from envoy.extensions.filters.http.cors.v3.cors_pb2 import Cors
from envoy.extensions.filters.http.grpc_web.v3.grpc_web_pb2 import GrpcWeb
from envoy.extensions.filters.http.header_mutation.v3.header_mutation_pb2 import HeaderMutation, Mutations
from envoy.extensions.filters.http.rbac.v3.rbac_pb2 import RBAC as RbacFilter
from envoy.extensions.filters.http.router.v3.router_pb2 import Router
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
    HttpFilter,
    Rds,
)
from envoy.extensions.http.early_header_mutation.header_mutation.v3.header_mutation_pb2 import (
    HeaderMutation as EarlyHeaderMutation,
)
from envoy.type.matcher.v3.regex_pb2 import RegexMatcher
from envoy.type.matcher.v3.string_pb2 import StringMatcher
from envoy.type.tracing.v3.custom_tag_pb2 import CustomTag
from envoy.type.v3.percent_pb2 import Percent
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.wrappers_pb2 import BoolValue, UInt32Value

from gateway.deadlines import longer
from gateway.intentions import INTENTIONS, STATISTICS
from gateway.lines import content_type
from gateway.refusals import FAULT, local_replies
from gateway.rest import TOLD, error_info, plain_bodies, plain_headers
from gateway.settings import MAX_HEADERS, MAX_HEADERS_KIB, Collector, EdgeSettings
from gateway.streams import STREAMS, streams_filter
from mesh.errors import Code
from mesh.load import REPORT_KEY
from mesh.xds.faults import NO_FAULT
from mesh.xds.parts import ads, packed

LISTENER_NAME: Final = "edge"
ROUTES_NAME: Final = "edge"
TRANSCODER: Final = "edge/transcoder"
LINES_TRANSCODER: Final = "edge/transcoder-lines"
"""For callers who accept lines of JSON: how a stream is written is fixed for each transcoder."""

COLLECTOR_CLUSTER: Final = "edge/collector"
BUFFER: Final = "edge/buffer"
CORS: Final = "edge/cors"
LINES: Final = "edge/lines"
PLAIN_BODIES: Final = "edge/plain-bodies"
PLAIN_HEADERS: Final = "edge/plain-headers"

_HEX: Final = "[0-9A-Fa-f]"
_TAIL: Final = f"%[89ABab]{_HEX}"
UTF8_PATH: Final = "(?:" + "|".join((
    r"[^%]",
    rf"%[0-7]{_HEX}",
    rf"%(?:[Cc][2-9A-Fa-f]|[Dd]{_HEX}){_TAIL}",
    rf"%(?:[Ee]0%[ABab]{_HEX}|[Ee][Dd]%[89]{_HEX}|[Ee][1-9ABCEFabcef]{_TAIL}){_TAIL}",
    rf"%(?:[Ff]0%[9ABab]{_HEX}|[Ff][1-3]{_TAIL}|[Ff]4%8{_HEX}){_TAIL}{_TAIL}",
)) + ")*"
"""Paths whose percent escapes are UTF-8 (RFC 3629). Protobuf text is UTF-8, and the transcoder does not look."""


def listener(settings: EdgeSettings) -> Listener:
    """The listener."""
    address = SocketAddress(address=settings.address, port_value=settings.port)
    manager = Filter(name="http", typed_config=packed(connection_manager(settings)))
    return Listener(
        name=LISTENER_NAME,
        address=Address(socket_address=address),
        # With SO_REUSEPORT a second edge would take half of the connections, and nobody would know why.
        enable_reuse_port=BoolValue(value=False),
        filter_chains=[FilterChain(filters=[manager])],
        socket_options=_KEEPALIVE,
    )


def connection_manager(settings: EdgeSettings) -> HttpConnectionManager:
    """HTTP/1.1 and HTTP/2 on one port, and what happens to a request before it is routed."""
    manager = HttpConnectionManager(
        codec_type=HttpConnectionManager.AUTO,
        stat_prefix="edge",
        rds=Rds(config_source=ads(), route_config_name=ROUTES_NAME),
        http_filters=_filters(settings),
        local_reply_config=local_replies(),
        max_request_headers_kb=UInt32Value(value=MAX_HEADERS_KIB),
        normalize_path=BoolValue(value=True),
        use_remote_address=BoolValue(value=True),
        generate_request_id=BoolValue(value=True),
        preserve_external_request_id=True,
        # No caller is trusted to set x-envoy-* headers: they could make a call be sent twice.
        internal_address_config=_NOBODY,
        early_header_mutation_extensions=[_early()],
        # A request whose body never comes; routes of streams say otherwise.
        common_http_protocol_options=HttpProtocolOptions(
            idle_timeout=seconds(3600),
            max_stream_duration=seconds(settings.request_seconds),
            max_headers_count=UInt32Value(value=MAX_HEADERS),
        ),
        http_protocol_options=Http1ProtocolOptions(accept_http_10=True, default_host_for_http_10="edge"),
        http2_protocol_options=Http2ProtocolOptions(max_concurrent_streams=UInt32Value(value=1000)),
        stream_idle_timeout=seconds(settings.stream_idle_seconds),
        request_headers_timeout=seconds(15),
    )
    if settings.collector:
        manager.tracing.CopyFrom(_tracing(settings.collector))
    if settings.access_log:
        manager.access_log.append(_access_log(settings.access_log))
    return manager


_NOBODY: Final = HttpConnectionManager.InternalAddressConfig(
    cidr_ranges=[CidrRange(address_prefix="255.255.255.255", prefix_len=UInt32Value(value=32))]
)
"""Left empty it would mean every private address."""


def _early() -> TypedExtensionConfig:
    """What is done to a request before all else.

    By `x-envoy-original-method` REST requests are told from gRPC calls, so no caller may set it.
    """
    mutations = [OneMutation(remove="x-envoy-original-method"), longer()]
    return TypedExtensionConfig(name="early", typed_config=packed(EarlyHeaderMutation(mutations=mutations)))


def seconds(value: float) -> Duration:
    """A duration."""
    made = Duration()
    made.FromTimedelta(timedelta(seconds=value))
    return made


def _filters(settings: EdgeSettings) -> list[HttpFilter]:
    """In the order in which a request meets them."""
    discovery = ExtensionConfigSource(
        config_source=ads(), type_urls=["type.googleapis.com/" + ExtensionWithMatcher.DESCRIPTOR.full_name]
    )
    return [
        _filter(LINES, content_type()),
        _filter(CORS, Cors()),
        _filter("edge/utf8", _refuse_bad_paths()),
        _filter(PLAIN_BODIES, plain_bodies()),
        _filter(PLAIN_HEADERS, plain_headers()),
        # The transcoder's own limit does not hold for bodies that it can parse as they come (seen: 20 MB).
        _filter(BUFFER, Buffer(max_request_bytes=UInt32Value(value=settings.max_body_bytes))),
        _filter("edge/grpc-web", GrpcWeb()),
        *(HttpFilter(name=name, config_discovery=discovery) for name in (TRANSCODER, LINES_TRANSCODER)),
        _filter("edge/error-info", error_info()),
        *(_intended() if settings.identity else ()),
        _filter(FAULT, NO_FAULT),  # after the transcoder, so that it meets the routes of gRPC
        _filter("edge/load", _load_stays_within()),
        _filter("edge/router", Router()),
    ]


def _intended() -> Iterator[HttpFilter]:
    """For routes to services that cannot tell who calls: each says so itself."""
    yield _filter(INTENTIONS, RbacFilter(rules_stat_prefix=STATISTICS))
    yield HttpFilter(name=STREAMS, typed_config=packed(streams_filter()), disabled=True)  # see `followable`


def _filter(name: str, config: Message) -> HttpFilter:
    return HttpFilter(name=name, typed_config=packed(config))


def _load_stays_within() -> HeaderMutation:
    """What instances say of their load is for Envoy's own balancing, which has read it by then, not for callers."""
    report = [OneMutation(remove=REPORT_KEY)]
    return HeaderMutation(mutations=Mutations(response_mutations=report, response_trailers_mutations=report))


def _refuse_bad_paths() -> RbacFilter:
    good = HeaderMatcher(name=":path", string_match=StringMatcher(safe_regex=RegexMatcher(regex=UTF8_PATH)))
    policy = Policy(permissions=[Permission(not_rule=Permission(header=good))], principals=[Principal(any=True)])
    return RbacFilter(rules=RBAC(action=RBAC.DENY, policies={"utf8": policy}))


def _tracing(collector: Collector) -> HttpConnectionManager.Tracing:
    provider = OpenTelemetryConfig(service_name="gateway")
    if collector.url:
        provider.http_service.CopyFrom(_http_service(collector))
    else:
        provider.grpc_service.CopyFrom(_grpc_service(collector))
    return HttpConnectionManager.Tracing(
        provider=Tracing.Http(name="otlp", typed_config=packed(provider)),
        random_sampling=Percent(value=collector.sampled_percent),
        # One span for the request and one for each attempt.
        spawn_upstream_span=BoolValue(value=True),
        upstream_operation="%ROUTE_NAME%",
        custom_tags=[CustomTag(tag=tag, value=value) for tag, value in _TAGS.items()],
    )


_OF_REQUEST: Final = "has(request.duration)"
"""Whether a tag is made for the span of the whole request, which is over by then, and not for one of an attempt."""

_IS_CALL: Final = "'content-type' in request.headers && request.headers['content-type'].startsWith('application/grpc')"
"""After transcoding."""

_NAMES: Final = "{" + ", ".join(f"'{int(code)}': '{code.name}'" for code in Code) + "}"
_STATUS: Final = (
    f"has(metadata.filter_metadata.{TOLD}) ? metadata.filter_metadata.{TOLD}.status : {_NAMES}"
    "['grpc-status' in response.trailers ? response.trailers['grpc-status'] : response.headers['grpc-status']]"
)
_HOST: Final = r"re.extract(request.host, '^(.*?)(:[0-9]*)?$', r'\1')"
_METHOD: Final = r"re.extract(request.path, '^/([^?]*)', r'\1')"

_TAGS: Final = {
    "http.request.method": "%REQUEST_HEADER(X-ENVOY-ORIGINAL-METHOD?:METHOD)%",
    "http.response.status_code": f"%CEL({_OF_REQUEST} || !({_IS_CALL}) ? response.code : '')%",
    "url.path": "%PATH(NQ:ORIG_OR_PATH)%",
    "http.route": "%ROUTE_NAME%",
    "rpc.system.name": f"%CEL({_IS_CALL} ? 'grpc' : '')%",
    "rpc.method": f"%CEL({_IS_CALL} ? {_METHOD} : '')%",
    "rpc.response.status_code": f"%CEL({_OF_REQUEST} && {_IS_CALL} ? ({_STATUS}) : '')%",
    "server.address": f"%CEL({_OF_REQUEST} ? {_HOST} : xds.cluster_name)%",
}
"""The caller's request, and the call that the transcoder made of it. What has no value is left out.

Of an attempt Envoy knows no more here than of the request: how it ended is in Envoy's own `grpc.status_code`.
https://opentelemetry.io/docs/specs/semconv/rpc/grpc/
"""


def _grpc_service(collector: Collector) -> GrpcService:
    return GrpcService(
        envoy_grpc=GrpcService.EnvoyGrpc(cluster_name=COLLECTOR_CLUSTER),
        timeout=seconds(5),
        initial_metadata=_headers(collector),
    )


def _http_service(collector: Collector) -> HttpService:
    uri = HttpUri(uri=collector.url, cluster=COLLECTOR_CLUSTER, timeout=seconds(5))
    headers = [HeaderValueOption(header=header) for header in _headers(collector)]
    return HttpService(http_uri=uri, request_headers_to_add=headers)


def _headers(collector: Collector) -> list[HeaderValue]:
    return [HeaderValue(key=key, value=value) for key, value in sorted(collector.headers.items())]


def _access_log(path: str) -> AccessLog:
    log = FileAccessLog(path=path, log_format=SubstitutionFormatString())
    log.log_format.json_format.update(_ACCESS)
    return AccessLog(name="file", typed_config=packed(log))


_ACCESS: Final = {
    "time": "%START_TIME%",
    "method": "%REQUEST_HEADER(X-ENVOY-ORIGINAL-METHOD?:METHOD)%",
    "path": "%REQUEST_HEADER(X-ENVOY-ORIGINAL-PATH?:PATH)%",
    "status": "%RESPONSE_CODE%",
    "grpc_status": f"%CEL({_IS_CALL} ? ({_STATUS}) : '')%",
    "flags": "%RESPONSE_FLAGS%",
    "details": "%RESPONSE_CODE_DETAILS%",
    "milliseconds": "%DURATION%",
    "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
    "upstream": "%UPSTREAM_HOST%",
    "trace": "%TRACE_ID%",
}

_SOL_SOCKET, _SO_KEEPALIVE = 1, 9
_IPPROTO_TCP, _TCP_KEEPIDLE, _TCP_KEEPINTVL, _TCP_KEEPCNT = 6, 4, 5, 6
_KEEPALIVE: Final = [
    SocketOption(level=level, name=name, int_value=value, state=SocketOption.STATE_LISTENING)
    for level, name, value in (
        (_SOL_SOCKET, _SO_KEEPALIVE, 1),
        (_IPPROTO_TCP, _TCP_KEEPIDLE, 30),
        (_IPPROTO_TCP, _TCP_KEEPINTVL, 10),
        (_IPPROTO_TCP, _TCP_KEEPCNT, 3),
    )
]
"""A caller whose machine vanished is noticed within a minute, and its calls are cancelled."""
