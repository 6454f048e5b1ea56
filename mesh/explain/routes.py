"""The routes that may take a call, and what holds for it there. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from mesh.explain.targets import destination_of
from mesh.policy import Match, MethodPolicy, Policy, Route, Share
from mesh.policy.model import Comparison, HeaderMatch
from mesh.xds.parts import duration
from mesh.xds.resources import Peers, members
from meshwright.sidecar.v1 import explanation_pb2 as pb

_FORMS: Final = {
    Comparison.EXACT: "{0} = {1}",
    Comparison.PREFIX: "{0} = {1}*",
    Comparison.SUFFIX: "{0} = *{1}",
    Comparison.CONTAINS: "{0} = *{1}*",
    Comparison.REGEX: "{0} like {1}",
    Comparison.PRESENT: "{0} is there",
}


def taking(policy: Policy, path: str) -> Iterator[Route]:
    """The routes that may take the calls of a method, up to the first that asks for no header."""
    seen: set[tuple[HeaderMatch, ...]] = set()
    for route in policy.routes:
        if route.match.covers(path) and route.match.conditions not in seen:
            seen.add(route.match.conditions)
            yield route
            if not route.match.conditions:
                return


def all_routes(policy: Policy) -> Iterator[Route]:
    """The routes of a service up to the first that takes every call, without those of single methods that only repeat
    where a wider one leads.
    """
    for route in policy.routes:
        if route.match.path not in policy.methods or not any(_widens(other, route, policy) for other in policy.routes):
            yield route
        if route.match.everything:
            return


def _widens(other: Route, route: Route, policy: Policy) -> bool:
    return (
        other.match.path not in policy.methods
        and other.match.covers(route.match.path)
        and (other.match.conditions, other.source, other.shares)
        == (route.match.conditions, route.source, route.shares)
    )


def deadline(policy: MethodPolicy) -> pb.Deadline:
    """The deadline of a policy."""
    made = pb.Deadline(source=policy.timeout_source)
    if policy.timeout_seconds is not None:
        made.timeout.CopyFrom(duration(policy.timeout_seconds))
    return made


def retry(policy: MethodPolicy) -> pb.Retry:
    """The retries of a policy; where the contract forbids them, it is their source."""
    if (found := policy.retry) is None:
        return pb.Retry(attempts=1, source=policy.retry_source)
    return pb.Retry(
        attempts=found.attempts,
        codes=[code.name for code in found.codes],
        base_delay=duration(found.base_seconds),
        max_delay=duration(max(found.base_seconds, found.max_seconds)),
        source=policy.retry_source,
    )


def route_message(route: Route, peers: Peers) -> pb.Route:
    """One route."""
    return pb.Route(
        match=told(route.match),
        source=route.source,
        deadline=deadline(route.method),
        retry=retry(route.method),
        shares=[_share(share, route, peers) for share in route.shares],
    )


def told(match: Match) -> str:
    """Which calls are taken, for people."""
    where = match.path or (match.regex and f"paths like {match.regex}") or (match.prefix and f"{match.prefix}*")
    conditions = [_condition(condition) for condition in match.conditions]
    return " and ".join([where, *conditions] if where not in ("", "/*") else conditions) or "every call"


def _condition(header: HeaderMatch) -> str:
    text = _FORMS[header.comparison].format(header.name, header.value)
    text += " in any case" if header.ignore_case else ""
    return f"not ({text})" if header.inverted else text


def _share(share: Share, route: Route, peers: Peers) -> pb.Share:
    destination = destination_of(share.target, peers)
    count = len(next(members(destination, peers))) if destination else 0
    whole = sum(other.weight for other in route.shares)
    return pb.Share(target=str(share.target), percent=round(100 * share.weight / whole, 2), instances=count)
