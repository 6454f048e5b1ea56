"""Config entries in words that can be compared: as our compiler has it, and as Consul's discovery chain does."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from mesh.contract import Contract
from mesh.errors import Code
from mesh.policy import Destination, Policy, Route, Target, compiled
from mesh.policy.model import Match
from mesh.policy.reading import go_seconds
from tests.unit.policy.tables import BUY, GET, WATCH, contract, entries

DEFAULT_SECONDS: Mapping[str, float | None] = {GET: 5.0, BUY: 5.0, WATCH: None}
"""Deadlines of the methods that `tables.contract` has, where no entry says one."""

ONCE = BUY
"""The method that may not be sent again, whatever an entry says."""

CODES = {429: Code.RESOURCE_EXHAUSTED, 500: Code.INTERNAL, 503: Code.UNAVAILABLE, 504: Code.DEADLINE_EXCEEDED}
"""https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md, and what gRPC calls these at an edge."""


class Header(NamedTuple):
    """A condition on a header."""

    name: str
    kind: str
    value: str
    inverted: bool


class Way(NamedTuple):
    """One route: which calls it takes, where they go (in percent), and what it says of their deadline."""

    path: tuple[str, str]
    headers: tuple[Header, ...]
    weights: Mapping[str, float]
    timeout_seconds: float | None


class Held(NamedTuple):
    """What holds for the calls of a method that have these headers."""

    headers: tuple[Header, ...]
    weights: Mapping[str, float]
    timeout_seconds: float | None
    attempts: int
    codes: tuple[Code, ...]


class Reached(NamedTuple):
    """How a target is reached; no seconds where nobody said any."""

    filter: str
    only_passing: bool
    failover: tuple[str, ...]
    connect_timeout_seconds: float | None


@dataclass(frozen=True)
class Chain:
    """All of it: the routes in order, what holds for each method by path, and the targets by name."""

    ways: tuple[Way, ...]
    methods: Mapping[str, tuple[Held, ...]]
    targets: Mapping[str, Reached]


def ours(raw: list[dict[str, Any]]) -> Chain:
    """What our compiler says of the shop."""
    given = entries(*raw)
    bare, policy = (compiled("shop", made, entries=given) for made in (Contract(), contract()))
    targets = {share.target for route in bare.routes for share in route.shares}

    def destination(target: Target) -> Destination:
        return compiled(target.service, Contract(), entries=given).destinations[target.subset]

    return Chain(
        tuple(map(_way, bare.routes)),
        {path: tuple(_held(policy, path)) for path in DEFAULT_SECONDS},
        {str(target): _reached(destination(target)) for target in targets},
    )


def _way(route: Route) -> Way:
    return Way(_path(route.match), _headers(route.match), _weights(route), route.method.timeout_seconds)


def _held(policy: Policy, path: str) -> Iterator[Held]:
    for route in policy.routes:
        if route.match.path == path:
            method, retry = route.method, route.method.retry
            again = (retry.attempts, retry.codes) if retry else (1, ())
            yield Held(_headers(route.match), _weights(route), method.timeout_seconds, *again)


def _path(match: Match) -> tuple[str, str]:
    found = {"Exact": match.path, "Regex": match.regex, "Prefix": match.prefix}
    return next(((kind, text) for kind, text in found.items() if text), ("Prefix", "/"))


def _headers(match: Match) -> tuple[Header, ...]:
    return tuple(Header(h.name, h.comparison.value.capitalize(), h.value, h.inverted) for h in match.conditions)


def _weights(route: Route) -> Mapping[str, float]:
    return {str(share.target): share.weight / 100 for share in route.shares}


def _reached(found: Destination) -> Reached:
    is_default = found.connect_timeout_source == "default"
    return Reached(
        found.selection.filter.text if found.selection.filter else "",
        found.selection.only_passing,
        tuple(map(str, found.failover)),
        None if is_default else found.connect_timeout_seconds,
    )


def theirs(chain: Any) -> Chain:
    """What Consul says, given the `Chain` of its answer."""
    return _Theirs(chain["Nodes"], chain["Targets"]).read(chain["StartNode"])


@dataclass(frozen=True)
class _Theirs:
    nodes: Mapping[str, Any]
    known: Mapping[str, Any]

    def read(self, start: str) -> Chain:
        plain = [{"Definition": {}, "NextNode": start}]
        routes = self.nodes[start]["Routes"] if self.nodes[start]["Type"] == "router" else plain
        ways = tuple(map(self.way, routes))
        reached = {target for way in ways for target in way.weights}
        resolved = [node["Resolver"] for node in self.nodes.values() if node["Type"] == "resolver"]
        return Chain(
            ways,
            {path: tuple(self.held(path, routes)) for path in DEFAULT_SECONDS},
            {self.name(one["Target"]): self.target(one) for one in resolved if self.name(one["Target"]) in reached},
        )

    def name(self, target: str) -> str:
        found = self.known[target]
        return ":".join(filter(None, (found["Service"], found.get("ServiceSubset"))))

    def way(self, route: Any) -> Way:
        http, to = _definition(route)
        return Way(_their_path(http), _their_headers(http), self.weights(route["NextNode"]), _seconds(to))

    def held(self, path: str, routes: list[Any]) -> Iterator[Held]:
        """For a method: its routes up to the first that takes all its calls, each with what it says or leaves."""
        for route in routes:
            http, to = _definition(route)
            if not _covers(*_their_path(http), path):
                continue
            headers, timeout = _their_headers(http), _seconds(to) or DEFAULT_SECONDS[path]
            codes = tuple(CODES[status] for status in to.get("RetryOnStatusCodes") or (503,))
            again = (1, ()) if path == ONCE else (to.get("NumRetries", 2) + 1, codes)
            yield Held(headers, self.weights(route["NextNode"]), timeout, *again)
            if not headers:
                return

    def weights(self, node: str) -> dict[str, float]:
        exact: dict[str, float] = {}
        for target, weight in self.spread(node, 100.0):
            exact[target] = exact.get(target, 0) + weight
        return {target: round(weight, 2) for target, weight in exact.items() if weight}

    def spread(self, node: str, share: float) -> Iterator[tuple[str, float]]:
        found = self.nodes[node]
        if found["Type"] == "resolver":
            yield self.name(found["Resolver"]["Target"]), share
        for split in found.get("Splits", ()):
            yield from self.spread(split["NextNode"], share * split.get("Weight", 0) / 100)

    def target(self, resolved: Any) -> Reached:
        subset = self.known[resolved["Target"]].get("Subset") or {}
        failover = resolved.get("Failover", {}).get("Targets", ())
        seconds = go_seconds(resolved["ConnectTimeout"])
        return Reached(
            subset.get("Filter", ""),
            subset.get("OnlyPassing", False),
            tuple(map(self.name, failover)),
            None if seconds == 5 else seconds,
        )


def _definition(route: Any) -> tuple[Any, Any]:
    made = route["Definition"]
    return (made.get("Match") or {}).get("HTTP") or {}, made.get("Destination") or {}


def _their_path(http: Any) -> tuple[str, str]:
    found = ((kind, http.get(f"Path{kind}")) for kind in ("Exact", "Regex", "Prefix"))
    return next(((kind, text) for kind, text in found if text), ("Prefix", "/"))


def _their_headers(http: Any) -> tuple[Header, ...]:
    return tuple(
        Header(given["Name"].lower(), kind, "" if kind == "Present" else given[kind], given.get("Invert", False))
        for given in http.get("Header") or ()
        for kind in ("Exact", "Prefix", "Suffix", "Regex", "Present")
        if given.get(kind)
    )


def _covers(kind: str, text: str, path: str) -> bool:
    if kind == "Regex":
        return bool(re.fullmatch(text, path))
    return path == text if kind == "Exact" else path.startswith(text)


def _seconds(to: Any) -> float | None:
    return go_seconds(to.get("RequestTimeout")) or None
