"""What Consul's intentions say of calls through the edge to services that cannot tell who calls. Pure.

A service with mutual TLS keeps to them itself (`mesh.access`). For one that is reached in plaintext Envoy does, when a
call begins: as the edge is who calls there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from envoy.config.rbac.v3.rbac_pb2 import RBAC, Permission, Policy, Principal
from envoy.config.route.v3.route_components_pb2 import HeaderMatcher, Route
from envoy.extensions.filters.http.rbac.v3.rbac_pb2 import RBAC as RbacFilter
from envoy.extensions.filters.http.rbac.v3.rbac_pb2 import RBACPerRoute
from envoy.type.matcher.v3.path_pb2 import PathMatcher
from envoy.type.matcher.v3.regex_pb2 import RegexMatcher
from envoy.type.matcher.v3.string_pb2 import StringMatcher

from gateway.refusals import INTENTIONS as NAME
from gateway.security import EDGE
from mesh import intentions as said
from mesh.intentions import Intentions
from mesh.policy.model import Match
from mesh.xds.dialect import ENVOY
from mesh.xds.parts import packed
from mesh.xds.routes import header_matcher

INTENTIONS: Final = "edge/intentions"
"""Name of the filter, whose configuration is that of each route."""

_ALL: Final = Permission(any=True)


def denied(service: str, intentions: Intentions | None) -> tuple[Permission, ...]:
    """The calls that the edge may not send to a service: those that fit any. All, as long as nobody knows."""
    if intentions is None:
        return (_ALL,)
    found = intentions.between(EDGE, service)
    if found is None or found.fault or not found.permissions:
        is_allowed = intentions.default_allow if found is None else found.allow and not found.fault
        return () if is_allowed else (_ALL,)
    return tuple(_denied(found.permissions, default_allow=intentions.default_allow))


def plainly(denials: Mapping[str, tuple[Permission, ...]]) -> Mapping[str, tuple[Permission, ...]]:
    """The same of plain HTTP, whose servers may read a path in another way than it is written: not where it matters."""
    return {cluster: (*rules, _AMBIGUOUS) for cluster, rules in denials.items()}


def guard(route: Route, denials: Mapping[str, tuple[Permission, ...]]) -> Route:
    """A route whose calls are refused where they may not be sent; by the name of the cluster that they go to."""
    if not denials:
        return route
    action = route.route
    if rules := denials.get(action.cluster):
        route.typed_per_filter_config[INTENTIONS].CopyFrom(packed(_refusing(rules)))
    for share in action.weighted_clusters.clusters:
        if rules := denials.get(share.name):
            share.typed_per_filter_config[INTENTIONS].CopyFrom(packed(_refusing(rules)))
    return route


def _refusing(rules: Iterable[Permission]) -> RBACPerRoute:
    policy = Policy(permissions=rules, principals=[Principal(any=True)])
    return RBACPerRoute(rbac=RbacFilter(rules=RBAC(action=RBAC.DENY, policies={NAME: policy})))


def _denied(permissions: Iterable[said.Permission], *, default_allow: bool) -> Iterator[Permission]:
    """The first that takes a call decides: so each is for what none before it takes."""
    before: list[Permission] = []
    for one in permissions:
        taken = _taken(one)
        if not one.allow:
            yield _all_of([taken, *before])
        before.append(Permission(not_rule=taken))
    if not default_allow:
        yield _all_of(before)


def _taken(permission: said.Permission) -> Permission:
    rules = [*_paths(permission.match), *(_header(header_matcher(one, ENVOY)) for one in permission.match.conditions)]
    if permission.verbs:
        rules.append(Permission(or_rules=Permission.Set(rules=map(_verb, permission.verbs))))
    return _all_of(rules) if rules else _ALL


def _paths(match: Match) -> Iterator[Permission]:
    if match.path:
        yield _path(StringMatcher(exact=match.path))
    elif match.regex:
        yield _path(StringMatcher(safe_regex=RegexMatcher(regex=match.regex)))
    elif match.prefix:
        yield _path(StringMatcher(prefix=match.prefix))


def _verb(verb: str) -> Permission:
    return _header(HeaderMatcher(name=":method", string_match=StringMatcher(exact=verb)))


def _path(matcher: StringMatcher) -> Permission:
    return Permission(url_path=PathMatcher(path=matcher))


_AMBIGUOUS: Final = _path(StringMatcher(safe_regex=RegexMatcher(regex=r".*(//|\\|%2[fF]|%5[cC]).*")))
"""Slashes that some servers take for one, and what some take for a slash. Envoy has resolved `.` and `..` before."""


def _header(matcher: HeaderMatcher) -> Permission:
    return Permission(header=matcher)


def _all_of(rules: list[Permission]) -> Permission:
    return rules[0] if len(rules) == 1 else Permission(and_rules=Permission.Set(rules=rules))
