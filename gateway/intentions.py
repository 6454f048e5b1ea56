"""What Consul's intentions say of calls through the edge to services that cannot tell who calls. Pure.

A service with mutual TLS keeps to them itself (`mesh.access`). For one that is reached in plaintext Envoy does, when a
call begins: as the edge is who calls there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from envoy.config.rbac.v3.rbac_pb2 import RBAC, Permission, Policy, Principal
from envoy.config.route.v3.route_components_pb2 import HeaderMatcher, Route
from envoy.extensions.filters.http.rbac.v3.rbac_pb2 import RBAC as RbacFilter
from envoy.extensions.filters.http.rbac.v3.rbac_pb2 import RBACPerRoute
from envoy.type.matcher.v3.path_pb2 import PathMatcher
from envoy.type.matcher.v3.regex_pb2 import RegexMatcher
from envoy.type.matcher.v3.string_pb2 import StringMatcher

from gateway.refusals import BY_INTENTION
from gateway.security import EDGE
from mesh import intentions as said
from mesh.intentions import Intentions
from mesh.policy.model import Match
from mesh.xds.dialect import ENVOY
from mesh.xds.parts import packed
from mesh.xds.routes import header_matcher

INTENTIONS: Final = "edge/intentions"
"""Name of the filter, whose configuration is that of each route."""

STATISTICS: Final = "intentions"
"""What Envoy's statistics of it begin with."""

_ALL: Final = Permission(any=True)


class Denial(NamedTuple):
    """Calls that may not be sent."""

    by: str
    """What denies them, in one word, as Envoy takes out spaces: `gateway=>order#2` is permission 2 of that one."""

    rule: Permission
    """What is true of them."""


def denied(service: str, intentions: Intentions | None) -> tuple[Denial, ...]:
    """The calls that the edge may not send to a service: no two overlap. All, as long as nobody knows."""
    if intentions is None:
        return (Denial(f"nobody-knows:{EDGE}=>{service}", _ALL),)
    found = intentions.between(EDGE, service)
    if found is None:
        return () if intentions.default_allow else (Denial(_default(service), _ALL),)
    if found.fault or not found.permissions:
        return () if found.allow and not found.fault else (Denial(_word(found), _ALL),)
    return tuple(_denied(found, "" if intentions.default_allow else _default(service)))


def _default(service: str) -> str:
    return f"default:{EDGE}=>{service}"


def _word(intention: said.Intention) -> str:
    return str(intention).replace(" ", "")


def plainly(denials: Mapping[str, tuple[Denial, ...]]) -> Mapping[str, tuple[Denial, ...]]:
    """The same of plain HTTP, whose servers may read a path in another way than it is written: not where it matters."""
    return {
        cluster: (*rules, Denial(f"ambiguous-path:{EDGE}=>{cluster}", _AMBIGUOUS)) for cluster, rules in denials.items()
    }


def guard(route: Route, denials: Mapping[str, tuple[Denial, ...]]) -> Route:
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


def _refusing(denials: Iterable[Denial]) -> RBACPerRoute:
    policies = {
        BY_INTENTION + one.by: Policy(permissions=[one.rule], principals=[Principal(any=True)]) for one in denials
    }
    rules = RBAC(action=RBAC.DENY, policies=policies)
    return RBACPerRoute(rbac=RbacFilter(rules=rules, rules_stat_prefix=STATISTICS, track_per_rule_stats=True))


def _denied(intention: said.Intention, default: str) -> Iterator[Denial]:
    """The first permission that takes a call decides: so each is for what none before it takes.

    `default` denies what is left; empty where that is allowed.
    """
    before: list[Permission] = []
    for number, one in enumerate(intention.permissions, 1):
        taken = _taken(one)
        if not one.allow:
            yield Denial(f"{_word(intention)}#{number}", _all_of([taken, *before]))
        before.append(Permission(not_rule=taken))
    if default:
        yield Denial(default, _all_of(before))


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
