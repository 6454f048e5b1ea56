"""A policy as xDS routes: which calls go to which clusters, and what holds for them. Pure.

For proxyless gRPC clients (gRFC A28, A31, A42, A44) and, with the same parts, for the edge.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Final

from envoy.config.route.v3.route_components_pb2 import (
    HeaderMatcher,
    RetryPolicy,
    RouteAction,
    RouteMatch,
    VirtualHost,
    WeightedCluster,
)
from envoy.config.route.v3.route_components_pb2 import Route as XdsRoute
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.retry.host.previous_hosts.v3.previous_hosts_pb2 import PreviousHostsPredicate
from envoy.type.matcher.v3.regex_pb2 import RegexMatcher
from envoy.type.matcher.v3.string_pb2 import StringMatcher
from google.protobuf.duration_pb2 import Duration
from google.protobuf.wrappers_pb2 import UInt32Value

from mesh.policy import Fault, MethodPolicy, Policy, Retry, Route, Target, fault_on
from mesh.policy.model import Comparison, HeaderMatch, Match
from mesh.xds.dialect import Dialect
from mesh.xds.faults import injected
from mesh.xds.parts import duration, packed

FAULT_FILTER: Final = "fault"
"""Name of the fault filter in the listeners of gRPC clients."""

NEVER_SEEN: Final = "connect-failure,refused-stream"
"""Envoy's words for a call that no server has seen: sent again whatever the method."""

MAY_HAVE_BEGUN: Final = "reset"
"""Envoy's word for a connection that broke under the call: sent again only for idempotent methods."""

_PUNCTUATION: Final = re.compile(r"[!-.:-@\[-^`{-~]")
"""What has a meaning in RE2, or may have. RE2 takes no backslash before anything beyond ASCII."""

Hashed = Callable[[Target], tuple[str, ...]]
"""The headers by which the calls to a target are spread."""


def route_configuration(name: str, routes: Iterable[XdsRoute]) -> RouteConfiguration:
    """Routes under one virtual host that matches every authority."""
    host = VirtualHost(name=name, domains=["*"], routes=routes)
    return RouteConfiguration(name=name, virtual_hosts=[host])


def xds_routes(
    policy: Policy, dialect: Dialect, hashed: Hashed, faults: Collection[Fault] = ()
) -> tuple[XdsRoute, ...]:
    """The routes of a policy, in its order, with the faults in force."""
    return tuple(
        injected(
            xds_route(route, dialect, hashed), fault_on(route.match, faults), FAULT_FILTER, marked=dialect.marks_faults
        )
        for route in policy.routes
    )


def xds_route(route: Route, dialect: Dialect, hashed: Hashed) -> XdsRoute:
    """One route."""
    return XdsRoute(match=_match(route.match, dialect), route=_action(route, dialect, hashed))


def _match(match: Match, dialect: Dialect) -> RouteMatch:
    headers = [header_matcher(header, dialect) for header in match.conditions]
    if match.path:
        return RouteMatch(path=match.path, headers=headers)
    if match.regex:
        return RouteMatch(safe_regex=RegexMatcher(regex=match.regex), headers=headers)
    return RouteMatch(prefix=match.prefix or "/", headers=headers)


def header_matcher(header: HeaderMatch, dialect: Dialect) -> HeaderMatcher:
    """A condition on one header."""
    made = HeaderMatcher(name=header.name, invert_match=header.inverted)
    if header.comparison is Comparison.PRESENT:
        made.present_match = True
    elif dialect.envoy:
        made.string_match.CopyFrom(_string(header))
    elif header.comparison is Comparison.EXACT and not header.ignore_case:
        made.exact_match = header.value
    else:  # What clients of every age take.
        made.safe_regex_match.regex = _regex(header)
    return made


def _string(header: HeaderMatch) -> StringMatcher:
    if header.comparison is Comparison.REGEX:
        return StringMatcher(safe_regex=RegexMatcher(regex=_regex(header)))
    return StringMatcher(**{header.comparison.value: header.value, "ignore_case": header.ignore_case})


def _regex(header: HeaderMatch) -> str:
    """The condition as a regular expression of the whole value."""
    literal = _PUNCTUATION.sub(r"\\\g<0>", header.value)
    patterns = {
        Comparison.EXACT: literal,
        Comparison.PREFIX: f"{literal}.*",
        Comparison.SUFFIX: f".*{literal}",
        Comparison.CONTAINS: f".*{literal}.*",
        Comparison.REGEX: header.value,
    }
    return ("(?i)" if header.ignore_case else "") + patterns[header.comparison]


def _action(route: Route, dialect: Dialect, hashed: Hashed) -> RouteAction:
    action = RouteAction(hash_policy=list(_hash_policies(route, hashed)))
    _send(action, route)
    policy = route.method
    if dialect.method_timeouts and policy.timeout_seconds is not None:
        limit = duration(policy.timeout_seconds)
        action.max_stream_duration.max_stream_duration.CopyFrom(limit)
        action.max_stream_duration.grpc_timeout_header_max.CopyFrom(limit)
    if dialect.envoy:
        action.timeout.CopyFrom(Duration())  # Envoy's own default of 15 s would end streams.
        action.retry_policy.CopyFrom(_envoy_retry(policy.retry))
        _hedge(action, policy)
    elif policy.retry:
        action.retry_policy.CopyFrom(_retry(policy.retry, _words(policy.retry)))
    return action


def _send(action: RouteAction, route: Route) -> None:
    if len(route.shares) == 1:
        action.cluster = str(route.shares[0].target)
        return
    action.weighted_clusters.CopyFrom(WeightedCluster(clusters=[
        WeightedCluster.ClusterWeight(name=str(share.target), weight=UInt32Value(value=share.weight))
        for share in route.shares
    ]))  # fmt: skip


def _hash_policies(route: Route, hashed: Hashed) -> Iterator[RouteAction.HashPolicy]:
    """Whatever any of its targets looks at; the others look at none of it."""
    for name in dict.fromkeys(name for share in route.shares for name in hashed(share.target)):
        yield RouteAction.HashPolicy(header=RouteAction.HashPolicy.Header(header_name=name))


def _hedge(action: RouteAction, policy: MethodPolicy) -> None:
    """An instance that hangs costs a share of the time: then the call is sent to another as well."""
    if policy.retry and policy.unary and policy.timeout_seconds is not None:
        action.retry_policy.per_try_timeout.CopyFrom(duration(policy.timeout_seconds / policy.retry.attempts))
        action.hedge_policy.hedge_on_per_try_timeout = True


def _words(retry: Retry) -> Iterator[str]:
    return (code.name.lower().replace("_", "-") for code in retry.codes)


def _retry(retry: Retry, retry_on: Iterable[str]) -> RetryPolicy:
    longest = max(retry.max_seconds, retry.base_seconds)
    back_off = RetryPolicy.RetryBackOff(base_interval=duration(retry.base_seconds), max_interval=duration(longest))
    return RetryPolicy(
        retry_on=",".join(retry_on), num_retries=UInt32Value(value=retry.attempts - 1), retry_back_off=back_off
    )


def _envoy_retry(retry: Retry | None) -> RetryPolicy:
    """Sent again elsewhere: what no server has seen always, what one may have begun only if idempotent."""
    words = (NEVER_SEEN, MAY_HAVE_BEGUN, *_words(retry)) if retry else (NEVER_SEEN,)
    made = _retry(retry or Retry(), words)
    made.host_selection_retry_max_attempts = 5
    made.retry_host_predicate.add(
        name="envoy.retry_host_predicates.previous_hosts", typed_config=packed(PreviousHostsPredicate())
    )
    return made
