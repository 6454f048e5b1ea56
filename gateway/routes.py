"""Where the edge sends what: one route table for REST, gRPC, reflection and plain HTTP. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from envoy.config.core.v3.base_pb2 import DataSource, HeaderValue, HeaderValueOption
from envoy.config.route.v3.route_components_pb2 import (
    Decorator,
    DirectResponseAction,
    FilterConfig,
    HeaderMatcher,
    RedirectAction,
    RetryPolicy,
    Route,
    RouteAction,
    RouteMatch,
    Tracing,
    VirtualHost,
)
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.http.buffer.v3.buffer_pb2 import BufferPerRoute
from envoy.extensions.filters.http.cors.v3.cors_pb2 import CorsPolicy
from envoy.type.matcher.v3.regex_pb2 import RegexMatcher
from envoy.type.matcher.v3.string_pb2 import StringMatcher
from envoy.type.v3.percent_pb2 import FractionalPercent
from google.protobuf.duration_pb2 import Duration
from google.protobuf.wrappers_pb2 import BoolValue, UInt32Value

from gateway.deadlines import patient
from gateway.intentions import Denial, guard, plainly
from gateway.listener import BUFFER, CORS, LINES, PLAIN_BODIES, PLAIN_HEADERS, ROUTES_NAME
from gateway.refusals import FAULT
from gateway.rest import GRPC_TYPE
from gateway.streams import followable, followed, narrowed
from gateway.templates import Binding, Shape
from mesh.policy import Fault, Match, Policy, Target, fault_on
from mesh.policy.model import Comparison, HeaderMatch
from mesh.policy.model import Route as Planned
from mesh.reflection import NAMES as REFLECTION
from mesh.xds.dialect import ENVOY
from mesh.xds.faults import http_fault
from mesh.xds.parts import packed
from mesh.xds.routes import xds_route

REFLECTION_CLUSTER: Final = "edge/reflection"
PAGES_CLUSTER: Final = "edge/pages"
CONSOLE_CLUSTER: Final = "edge/console"
CONSOLE_PREFIXES: Final = ("/api/", "/console/")
_NEVER: Final = FractionalPercent(numerator=0)
_UNTRACED: Final = Tracing(client_sampling=_NEVER, random_sampling=_NEVER, overall_sampling=_NEVER)


@dataclass(frozen=True, kw_only=True)
class Routed:
    """One service on the mesh as the edge routes to it."""

    name: str
    """Also that of its cluster."""

    grpc_services: tuple[str, ...] = ()
    policy: Policy = field(default_factory=Policy)
    hashed: Mapping[Target, tuple[str, ...]] = field(default_factory=dict)
    """By which headers the calls to its targets are spread."""

    prefixes: tuple[str, ...] = ()
    """Paths that go to it as plain HTTP/1.1."""

    faults: tuple[Fault, ...] = ()
    """What is to go wrong on purpose with its gRPC calls."""

    denials: Mapping[str, tuple[Denial, ...]] = field(default_factory=dict)
    """What may not be called, by the clusters that its calls go to."""

    followed: bool = False
    """Whether its streams are to be ended when they are denied."""

    unary: tuple[str, ...] = ()
    """Paths of methods that are known not to stream."""


def route_configuration(
    targets: Iterable[Routed], bindings: Iterable[Binding], cors: CorsPolicy
) -> RouteConfiguration:
    """The whole table. The transcoder has turned REST into gRPC paths before it is asked."""
    held = tuple(targets)
    host = VirtualHost(
        name="edge",
        domains=["*"],
        include_request_attempt_count=True,
        routes=[
            *(route for target in held for route in _grpc_routes(target)),
            *(_reflection_route(name) for name in REFLECTION),
            *(route for name in _grpc_services(held) for route in _no_grpc_routes(name)),
            *_page_routes(),
            *_other_verb_routes(bindings),
            *_prefix_routes(held),
            *_slash_routes(held),
            _health_route(),
        ],
    )
    host.typed_per_filter_config[CORS].CopyFrom(packed(cors))
    if any(target.followed for target in held):
        followable(host)
    return RouteConfiguration(
        name=ROUTES_NAME, virtual_hosts=[host], ignore_port_in_host_matching=True, validate_clusters=_FALSE
    )


_FALSE: Final = BoolValue(value=False)


def _grpc_services(targets: Iterable[Routed]) -> Iterator[str]:
    yield from (name for target in targets for name in target.grpc_services)
    yield from REFLECTION


def _grpc_routes(target: Routed) -> Iterator[Route]:
    def hashed(to: Target) -> tuple[str, ...]:
        return target.hashed.get(to, ())

    def made_for(route: Planned, match: Match, name: str) -> Route:
        made = _calls_only(_streamed(xds_route(replace(route, match=match), ENVOY, hashed), name=name))
        return guard(_gone_wrong(made, fault_on(match, target.faults)), target.denials)

    for route in target.policy.routes:
        for name, match in _narrowed(route.match, target.grpc_services):
            if not target.followed or match.path in target.unary:
                yield made_for(route, match, name)
            else:
                yield from (made_for(route, one, name) for one in narrowed(match, target.unary))
                yield followed(made_for(route, match, name))


def _gone_wrong(route: Route, fault: Fault | None) -> Route:
    """A route with what is to happen on purpose to its calls."""
    if fault:
        made = http_fault(fault)
        made.filter_metadata.update({"code": int(fault.abort or 0)})  # for `gateway.refusals`
        route.typed_per_filter_config[FAULT].CopyFrom(packed(made))
    return route


def _narrowed(match: Match, grpc_services: Iterable[str]) -> Iterator[tuple[str, Match]]:
    """What a route takes of each of its service's own paths, with the name of its spans: other services have theirs."""
    for name in grpc_services:
        own = f"/{name}/"
        if match.path:
            if match.path.startswith(own):
                yield match.path.removeprefix("/"), match
        elif match.regex:
            here = HeaderMatch(name=":path", comparison=Comparison.PREFIX, value=own)
            yield name, replace(match, conditions=(*match.conditions, here))
        elif match.prefix.startswith(own) or own.startswith(match.prefix):
            yield name, replace(match, prefix=max(own, match.prefix, key=len))


def _reflection_route(name: str) -> Route:
    action = RouteAction(cluster=REFLECTION_CLUSTER, timeout=Duration(), retry_policy=_FROM_THE_NEXT)
    return _calls_only(_streamed(Route(match=RouteMatch(prefix=f"/{name}/"), route=action), name=name))


def _calls_only(route: Route) -> Route:
    """What is no gRPC call would break the connection to a gRPC server. What was transcoded is one by now.

    Servers refuse a call that does not say that it takes trailers; whoever calls here gets them in its own way.
    """
    route.match.headers.extend((_GRPC_CALL, _POST))
    route.request_headers_to_add.append(_TAKES_TRAILERS)
    return patient(route)


_GRPC_CALL: Final = HeaderMatcher(name="content-type", string_match=StringMatcher(prefix=GRPC_TYPE))
_POST: Final = HeaderMatcher(name=":method", string_match=StringMatcher(exact="POST"))
_TAKES_TRAILERS: Final = HeaderValueOption(
    header=HeaderValue(key="te", value="trailers"), append_action=HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
)
_NO_GRPC_CALL: Final = HeaderMatcher(
    name="content-type", string_match=StringMatcher(prefix=GRPC_TYPE), invert_match=True,
    treat_missing_header_as_empty=True,
)  # fmt: skip


def _no_grpc_routes(grpc_service: str) -> Iterator[Route]:
    """What else comes to the paths of gRPC: preflights of gRPC-Web, and mistakes."""
    prefix = f"/{grpc_service}/"
    asking = [HeaderMatcher(name="origin", present_match=True), HeaderMatcher(name=":method", string_match=_OPTIONS)]
    yield Route(
        name=f"from elsewhere {grpc_service}",
        match=RouteMatch(prefix=prefix, headers=asking),
        route=RouteAction(cluster=PAGES_CLUSTER),
    )
    for name, conditions, status, text in (
        ("no POST", [_GRPC_CALL], 405, "POST"),
        ("no gRPC", [], 415, "this is a gRPC path: send application/grpc, or use its REST path"),
    ):
        yield Route(
            name=f"{name} {grpc_service}",
            match=RouteMatch(prefix=prefix, headers=conditions),
            direct_response=DirectResponseAction(status=status, body=DataSource(inline_string=text)),
        )


_OPTIONS: Final = StringMatcher(exact="OPTIONS")


def _page_routes() -> Iterator[Route]:
    """What the control process serves itself, and the way there."""
    to_docs = RedirectAction(path_redirect="/docs", response_code=RedirectAction.FOUND)
    yield Route(name="docs", match=RouteMatch(path="/", headers=[_READING]), redirect=to_docs)
    for match in (RouteMatch(path="/openapi.json"), RouteMatch(path="/docs"), RouteMatch(prefix="/docs/")):
        action = RouteAction(cluster=PAGES_CLUSTER, timeout=Duration(seconds=10), retry_policy=_FROM_THE_NEXT)
        yield Route(name="docs", match=match, route=action)


# A control process that gives way to the next may close a connection just when it is used.
_FROM_THE_NEXT: Final = RetryPolicy(
    retry_on="connect-failure,refused-stream,reset", num_retries=UInt32Value(value=3)
)
_READING: Final = HeaderMatcher(
    name=":method", string_match=StringMatcher(safe_regex=RegexMatcher(regex="GET|HEAD"))
)


def _health_route() -> Route:
    """For probes: the edge itself is up and has its routes, whatever the services do."""
    header = HeaderValueOption(header=HeaderValue(key="content-type", value="application/json"))
    header.append_action = HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
    return Route(
        name="health",
        match=RouteMatch(path="/healthz"),
        direct_response=DirectResponseAction(status=200, body=DataSource(inline_string='{"status":"SERVING"}\n')),
        response_headers_to_add=[header],
    )


def _prefix_routes(targets: Collection[Routed]) -> Iterator[Route]:
    """The longest prefix first."""
    denials = {target.name: plainly(target.denials) for target in targets}
    pairs = ((prefix, target.name) for target in targets for prefix in target.prefixes)
    for prefix, name in sorted(pairs, key=lambda pair: (-len(pair[0]), pair)):
        action = RouteAction(cluster=name, timeout=Duration())
        made = _streamed(Route(match=RouteMatch(prefix=prefix), route=action), name=f"{name} {prefix}")
        for filter_ in (CORS, LINES, PLAIN_BODIES, PLAIN_HEADERS):  # it has its own policy, and its own words
            made.typed_per_filter_config[filter_].CopyFrom(packed(FilterConfig(disabled=True)))
        if name == CONSOLE_CLUSTER:  # who looks at the traces is not to be seen in them
            made.tracing.CopyFrom(_UNTRACED)
        yield guard(made, denials[name])


def _slash_routes(targets: Iterable[Routed]) -> Iterator[Route]:
    """From a prefix without its last slash to the prefix, as people type it."""
    for prefix in sorted({prefix for target in targets for prefix in target.prefixes if prefix.endswith("/")}):
        to_prefix = RedirectAction(path_redirect=prefix, response_code=RedirectAction.FOUND)
        yield Route(name=f"slash {prefix}", match=RouteMatch(path=prefix[:-1], headers=[_READING]), redirect=to_prefix)


def _streamed(route: Route, *, name: str) -> Route:
    """A route whose bodies are passed on as they come, for as long as they come, and whose spans have a name."""
    made = Route(name=name, decorator=Decorator(operation=name, propagate=_FALSE))
    made.MergeFrom(route)
    made.typed_per_filter_config[BUFFER].CopyFrom(packed(BufferPerRoute(disabled=True)))
    if not made.route.HasField("max_stream_duration"):
        made.route.max_stream_duration.max_stream_duration.CopyFrom(Duration())
    return made


def _other_verb_routes(bindings: Iterable[Binding]) -> Iterator[Route]:
    """The paths of the REST API as they are before the transcoder takes the verbs that it knows; to the rest, 405."""
    verbs: dict[str, tuple[Shape, list[str]]] = {}
    for one in bindings:
        verbs.setdefault(str(one.shape), (one.shape, []))[1].append(one.http_method)
    for shape, allowed in sorted(verbs.values(), key=lambda entry: entry[0].rank):
        yield _from_elsewhere(shape, sorted(set(allowed)))
        yield _not_allowed(shape, ", ".join(sorted(set(allowed))))


def _from_elsewhere(shape: Shape, allowed: list[str]) -> Route:
    """For pages of other origins: CORS is looked at before transcoding, and only on routes that lead to a cluster.

    Nothing arrives there: preflights are answered by the CORS filter, and the rest is transcoded and routed again.
    """
    verbs = StringMatcher(safe_regex=RegexMatcher(regex="|".join(map(re.escape, ("OPTIONS", *allowed)))))
    match = RouteMatch(
        safe_regex=RegexMatcher(regex=shape.regex),
        headers=[HeaderMatcher(name="origin", present_match=True), HeaderMatcher(name=":method", string_match=verbs)],
    )
    return Route(name=f"from elsewhere {shape}", match=match, route=RouteAction(cluster=PAGES_CLUSTER))


def _not_allowed(shape: Shape, allowed: str) -> Route:
    header = HeaderValueOption(header=HeaderValue(key="allow", value=allowed))
    return Route(
        name=f"not allowed {shape}",
        match=RouteMatch(safe_regex=RegexMatcher(regex=shape.regex), headers=[_NO_GRPC_CALL]),
        direct_response=DirectResponseAction(status=405, body=DataSource(inline_string=allowed)),
        response_headers_to_add=[header],
    )


def prefix_owners(
    claims: Mapping[str, Iterable[str]], previous: Mapping[str, str], absent: Collection[str] = ()
) -> tuple[Mapping[str, str], tuple[str, ...]]:
    """The one owner of each prefix, sorted by prefix, and what is wrong with other claims.

    Who has a prefix keeps it, until it is one of `absent` and another is not.
    """
    owners: dict[str, str] = {}
    problems: list[str] = []
    pairs = ((prefix, service) for service, prefixes in claims.items() for prefix in prefixes)
    for prefix, service in sorted(pairs, key=lambda p: (p[0], p[1] in absent, previous.get(p[0]) != p[1], p[1])):
        if not prefix.startswith("/") or prefix == "/":
            problems.append(f"{service}: {prefix!r} is not a path below /")
        elif prefix not in owners:
            owners[prefix] = service
        elif service not in absent:
            problems.append(f"{service}: {prefix} already goes to {owners[prefix]}")
    return owners, tuple(problems)
