"""What Envoy itself answers when it refuses a request: the one JSON error shape, or a readable gRPC status. Pure.

Services answer with errors of their own (`mesh.errors`); these are the ones that no service has seen.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

from envoy.config.accesslog.v3.accesslog_pb2 import (
    AccessLogFilter,
    AndFilter,
    ComparisonFilter,
    ExtensionFilter,
    HeaderFilter,
    ResponseFlagFilter,
    StatusCodeFilter,
)
from envoy.config.core.v3.base_pb2 import DataSource, RuntimeUInt32
from envoy.config.core.v3.substitution_format_string_pb2 import SubstitutionFormatString
from envoy.config.route.v3.route_components_pb2 import HeaderMatcher
from envoy.extensions.access_loggers.filters.cel.v3.cel_pb2 import ExpressionFilter
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    LocalReplyConfig,
    ResponseMapper,
)
from envoy.type.matcher.v3.regex_pb2 import RegexMatcher
from envoy.type.matcher.v3.string_pb2 import StringMatcher
from google.protobuf.wrappers_pb2 import UInt32Value

from gateway.settings import MAX_HEADERS, MAX_HEADERS_KIB
from mesh.errors import DOMAIN, Code
from mesh.xds.parts import packed

PLAIN_BODIES: Final = "plain-bodies"
"""Name of the rule that refuses packed bodies, as Envoy repeats it in the details of a refusal."""

INTENTIONS: Final = "intentions"
"""Name of the rules that intentions make, as Envoy repeats it in the details of a refusal."""

OWN_WORDS: Final = "%LOCAL_REPLY_BODY%"
"""What Envoy or one of its filters says."""

FAULT: Final = "edge/fault"
"""Name of the fault filter, under which it also notes what its configuration says of itself."""

_ERROR_INFO: Final = "type.googleapis.com/google.rpc.ErrorInfo"


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """One kind of refusal: how Envoy names it, and what the caller is told."""

    status: int
    """HTTP status that Envoy gives it; with `or_above`, also every higher one."""

    flags: tuple[str, ...] = ()
    """Response flags that Envoy gives it; empty for any."""

    or_above: bool = False
    code: Code
    reason: str
    message: str = OWN_WORDS
    """In Envoy's format strings."""

    answer: int = 0
    """HTTP status for the caller; 0 for Envoy's own."""

    header: HeaderMatcher | None = None
    """What the request must be like; Envoy has no words for some refusals."""

    when: str = ""
    """In CEL, what else must hold."""


def _malformed(message: str, when: str = "") -> Refusal:
    return Refusal(status=400, code=Code.INVALID_ARGUMENT, reason="MALFORMED_REQUEST", message=message, when=when)


_PAGES: Final = HeaderMatcher(
    name=":path", string_match=StringMatcher(safe_regex=RegexMatcher(regex=r"/(?:docs|openapi\.json)(?:[/?].*)?"))
)


def _on_purpose(code: Code) -> Refusal:
    """For REST callers: the fault filter takes them for callers of gRPC, whose answers have status 200.

    The code is what the filter's configuration says of itself (`gateway.routes`), and for 0 what the call asked for.
    """
    said = f"metadata.filter_metadata['{FAULT}']['code']"
    asked = f"request.headers['x-envoy-fault-abort-grpc-request'] == '{int(code)}'"
    return Refusal(
        status=200,
        flags=("FI",),
        code=code,
        reason="FAULT_INJECTED",
        message="aborted on purpose: see `mesh fault`",
        answer=code.http_status,
        when=f"{said} == {int(code)}.0 || ({said} == 0.0 && {asked})",
    )


_UNAVAILABLE: Final = "%UPSTREAM_CLUSTER%: %LOCAL_REPLY_BODY%"

REFUSALS: Final = (
    _malformed("the path holds NUL", when="request.path.contains('%00')"),
    _malformed("the request has no Host", when="response.code_details == 'missing_host_header'"),
    _malformed("the Host is not valid", when="response.code_details == 'http.invalid_authority'"),
    _malformed("a fragment (#) is no part of a request", when="request.path.contains('#')"),
    _malformed(OWN_WORDS, when="response.code_details.contains('transcode_failure')"),
    _malformed("malformed HTTP request: %RESPONSE_CODE_DETAILS%"),
    Refusal(
        status=403,
        code=Code.UNIMPLEMENTED,
        reason="METHOD_NOT_ALLOWED",
        message="CONNECT is not supported",
        answer=501,
        header=HeaderMatcher(name=":method", string_match=StringMatcher(exact="CONNECT")),
    ),
    Refusal(
        status=403,
        code=Code.UNIMPLEMENTED,
        reason="UPGRADE_NOT_SUPPORTED",
        message="upgrades to other protocols, such as WebSocket, are not supported",
        answer=501,
        when="response.code_details == 'upgrade_failed'",
    ),
    Refusal(
        status=403,
        code=Code.INVALID_ARGUMENT,
        reason="UNSUPPORTED_MEDIA_TYPE",
        message="a body with Content-Encoding is not supported: send it as it is",
        answer=415,
        when=f"response.code_details.contains('[{PLAIN_BODIES}]')",
    ),
    Refusal(
        status=403,
        code=Code.PERMISSION_DENIED,
        reason="INTENTION_DENIES",
        message="gateway may not call %UPSTREAM_CLUSTER%: `mesh explain --from gateway %UPSTREAM_CLUSTER%` says why",
        when=f"response.code_details.contains('[{INTENTIONS}]')",
    ),
    Refusal(
        status=403,
        code=Code.INVALID_ARGUMENT,
        reason="MALFORMED_REQUEST",
        message="the path or the query is not percent-encoded UTF-8",
        answer=400,
    ),
    Refusal(
        status=404,
        code=Code.NOT_FOUND,
        reason="PATH_NOT_FOUND",
        message="nothing on the mesh answers to %REQUEST_HEADER(:PATH)%",
    ),
    Refusal(
        status=405,
        code=Code.UNIMPLEMENTED,
        reason="METHOD_NOT_ALLOWED",
        message="%REQUEST_HEADER(:METHOD)% is not allowed here; allowed: %LOCAL_REPLY_BODY%",
    ),
    Refusal(status=408, code=Code.DEADLINE_EXCEEDED, reason="REQUEST_TIMEOUT", message="the request took too long"),
    Refusal(
        status=413,
        code=Code.INVALID_ARGUMENT,
        reason="BODY_TOO_LARGE",
        message="the body is larger than 4 MiB",
    ),
    Refusal(status=415, code=Code.INVALID_ARGUMENT, reason="UNSUPPORTED_MEDIA_TYPE"),
    Refusal(
        status=431,
        code=Code.INVALID_ARGUMENT,
        reason="HEADERS_TOO_LARGE",
        message=f"the headers are more than {MAX_HEADERS} or larger than {MAX_HEADERS_KIB} KiB",
    ),
    Refusal(
        status=503,
        code=Code.UNAVAILABLE,
        reason="CONTROL_PROCESS_DOWN",
        message="the control process of the gateway does not answer; calls go on without it",
        header=_PAGES,
    ),
    Refusal(
        status=503,
        flags=("UH", "NC"),
        code=Code.UNAVAILABLE,
        reason="NO_HEALTHY_INSTANCE",
        message="no healthy instance of %UPSTREAM_CLUSTER% that may be called: see `mesh check`",
    ),
    Refusal(status=503, flags=("UO", "OM"), code=Code.UNAVAILABLE, reason="OVERLOADED", message=_UNAVAILABLE),
    Refusal(status=503, code=Code.UNAVAILABLE, reason="CONNECTION_FAILED", message=_UNAVAILABLE),
    Refusal(
        status=504,
        code=Code.DEADLINE_EXCEEDED,
        reason="DEADLINE_EXCEEDED",
        message="%UPSTREAM_CLUSTER% did not answer in time",
    ),
    Refusal(status=502, code=Code.UNAVAILABLE, reason="CONNECTION_FAILED", message=_UNAVAILABLE),
    Refusal(status=500, or_above=True, code=Code.INTERNAL, reason="INTERNAL"),
    Refusal(status=400, or_above=True, code=Code.INVALID_ARGUMENT, reason="REFUSED"),
)
"""The first that fits holds."""

ON_PURPOSE: Final = tuple(_on_purpose(code) for code in Code if code)
"""What `mesh fault` asked for."""


def local_replies() -> LocalReplyConfig:
    """All refusals, for gRPC callers first: those get the text as grpc-message, never a JSON body."""
    mappers = [
        *(_grpc_mapper(refusal) for refusal in REFUSALS if refusal.message != OWN_WORDS),
        _grpc_mapper(replace(ON_PURPOSE[0], when="")),  # whose code is right as it is
        ResponseMapper(filter=_both(*_GRPC_CALLER), body_format_override=_text(OWN_WORDS)),
        *(_rest_mapper(refusal) for refusal in (*REFUSALS, *ON_PURPOSE)),
    ]
    return LocalReplyConfig(mappers=mappers)


def _grpc_mapper(refusal: Refusal) -> ResponseMapper:
    made = ResponseMapper(
        filter=_both(*_conditions(refusal), *_GRPC_CALLER), body_format_override=_text(refusal.message)
    )
    if refusal.code is Code.UNIMPLEMENTED:
        made.status_code.value = 404  # of which Envoy makes that code, and UNKNOWN of 405
    return made


def _rest_mapper(refusal: Refusal) -> ResponseMapper:
    made = ResponseMapper(filter=_both(*_conditions(refusal)), body_format_override=_json(refusal))
    if refusal.answer:
        made.status_code.CopyFrom(UInt32Value(value=refusal.answer))
    return made


def _conditions(refusal: Refusal) -> list[AccessLogFilter]:
    value = RuntimeUInt32(default_value=refusal.status, runtime_key="edge.refusal")
    operator = ComparisonFilter.GE if refusal.or_above else ComparisonFilter.EQ
    comparison = ComparisonFilter(op=operator, value=value)
    found = [AccessLogFilter(status_code_filter=StatusCodeFilter(comparison=comparison))]
    if refusal.flags:
        found.append(AccessLogFilter(response_flag_filter=ResponseFlagFilter(flags=refusal.flags)))
    if refusal.header:
        found.append(AccessLogFilter(header_filter=HeaderFilter(header=refusal.header)))
    if refusal.when:
        expression = packed(ExpressionFilter(expression=refusal.when))
        found.append(AccessLogFilter(extension_filter=ExtensionFilter(name="cel", typed_config=expression)))
    return found


_GRPC_CALLER: Final = (
    AccessLogFilter(
        header_filter=HeaderFilter(
            header=HeaderMatcher(name="content-type", string_match=StringMatcher(prefix="application/grpc"))
        )
    ),
    # The transcoder turns REST into gRPC in place; what it leaves of the original tells them apart.
    AccessLogFilter(
        header_filter=HeaderFilter(header=HeaderMatcher(name="x-envoy-original-method", present_match=False))
    ),
)


def _both(*filters: AccessLogFilter) -> AccessLogFilter:
    return filters[0] if len(filters) == 1 else AccessLogFilter(and_filter=AndFilter(filters=filters))


def _text(message: str) -> SubstitutionFormatString:
    return SubstitutionFormatString(text_format_source=DataSource(inline_string=message))


def _json(refusal: Refusal) -> SubstitutionFormatString:
    info: dict[str, Any] = {"@type": _ERROR_INFO, "reason": refusal.reason, "domain": DOMAIN}
    made = SubstitutionFormatString()
    made.json_format.update({"code": int(refusal.code), "message": refusal.message, "details": [info]})
    return made
