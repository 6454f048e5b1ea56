"""What config entries mean: our compiler and a real Consul's own `/v1/discovery-chain/<service>` say the same."""

from __future__ import annotations

import urllib.error
from collections.abc import Iterator
from typing import Any

import pytest

from mesh.contract import Contract
from mesh.errors import InvalidConfig
from mesh.policy import Policy, Target, compiled
from mesh.policy.model import Destination
from tests.fixtures.consul import RegistryProcess
from tests.unit.policy.tables import entries, resolver, route, router, splitter

NAMES = ("shop", "b", "c", "d")
SUBSETS = {"v1": "Service.Meta.version == 1", "v2": 'Service.Meta.version == "2" and not "slow" in Service.Tags'}
Said = tuple[list[Any], dict[str, Any]]
"""Routes as match and weights by target; targets as filter, passing only, failover, and seconds to connect."""


@pytest.fixture
def consul(real_consul: RegistryProcess) -> Iterator[RegistryProcess]:
    """A real Consul without entries, before and after."""
    for name in NAMES:
        real_consul.ask("PUT", "/v1/config", {"Kind": "service-defaults", "Name": name, "Protocol": "grpc"})
    yield real_consul
    for kind in ("service-router", "service-splitter", "service-resolver", "service-defaults"):
        _remove_all(real_consul, kind)


def _remove_all(consul: RegistryProcess, kind: str) -> None:
    """In whatever order Consul takes it: an entry that others lean on goes after them."""
    for _ in NAMES:
        for name in NAMES:
            try:
                consul.ask("DELETE", f"/v1/config/{kind}/{name}")
            except urllib.error.HTTPError as refused:
                refused.close()


CASES: dict[str, list[dict[str, Any]]] = {
    "nothing": [],
    "subsets that nobody asks for": [resolver(subsets=SUBSETS)],
    "a default subset": [resolver(subsets=SUBSETS, DefaultSubset="v2", ConnectTimeout="3s")],
    "only passing": [resolver(Subsets={"v1": {"OnlyPassing": True}}, DefaultSubset="v1")],
    "a redirect": [resolver(Redirect={"Service": "b"})],
    "a redirect to a subset": [
        resolver("b", subsets=SUBSETS), resolver(Redirect={"Service": "b", "ServiceSubset": "v1"}),
    ],
    "a redirect to what has a default subset": [
        resolver("b", subsets=SUBSETS, DefaultSubset="v1"), resolver(Redirect={"Service": "b"}),
    ],
    "two redirects": [resolver("b", Redirect={"Service": "c"}), resolver(Redirect={"Service": "b"})],
    "a split over subsets": [resolver(subsets=SUBSETS), splitter((90, "", "v1"), (10, "", "v2"))],
    "a split over services": [splitter((99.5, "", ""), (0.5, "b", ""))],
    "a split into a split": [
        splitter((50, "", ""), (50, "b", "")), splitter((20, "", ""), (80, "c", ""), name="b"),
    ],
    "a split into a subset of a service that is split": [
        resolver("b", subsets=SUBSETS), splitter((20, "", ""), (80, "c", ""), name="b"),
        splitter((50, "", ""), (50, "b", "v1")),
    ],
    "a redirect to what is split": [
        splitter((20, "", ""), (80, "c", ""), name="b"), resolver(Redirect={"Service": "b"}),
    ],
    "failover to a service": [resolver(Failover={"*": {"Service": "b"}})],
    "failover to a subset": [resolver(subsets=SUBSETS, DefaultSubset="v2", Failover={"v2": {"ServiceSubset": "v1"}})],
    "failover to a redirected service": [
        resolver("b", Redirect={"Service": "c"}), resolver(Failover={"*": {"Service": "b"}}),
    ],
    "failover to a service with a default subset": [
        resolver("b", subsets=SUBSETS, DefaultSubset="v1"), resolver(Failover={"*": {"Service": "b"}}),
    ],
    "the failover of a failover does not count": [
        resolver("b", Failover={"*": {"Service": "c"}}), resolver(Failover={"*": {"Service": "b"}}),
    ],
    "its own failover beside that for all": [
        resolver(subsets=SUBSETS, DefaultSubset="v1", Failover={"v1": {"Service": "b"}, "*": {"Service": "c"}}),
    ],
    "routes": [
        resolver(subsets=SUBSETS, DefaultSubset="v1"),
        splitter((50, "", ""), (50, "c", ""), name="b"),
        router(
            route(path="/a.B/C", Service="b", RequestTimeout="2s", NumRetries=3),
            route(prefix="/a.B/", headers=[("x-canary", "1")], ServiceSubset="v2"),
            {"Match": {"HTTP": {"PathRegex": "/x.*"}}, "Destination": {"Service": "d"}},
            {"Destination": {"RetryOnStatusCodes": [503]}},
        ),
    ],
    "a route to a service with routes of its own": [
        router(route(path="/a.B/C", Service="c"), name="b"), router(route(prefix="/a.B/", Service="b")),
    ],
    "a route beside a split": [
        splitter((10, "b", ""), (90, "", "")), router(route(prefix="/a.B/", headers=[("x", "y")], Service="c")),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_entries_mean(name: str, consul: RegistryProcess) -> None:
    for entry in CASES[name]:
        assert consul.ask("PUT", "/v1/config", entry) is True
    chain = consul.ask("GET", "/v1/discovery-chain/shop")["Chain"]
    assert ours(compiled("shop", Contract(), entries=entries(*CASES[name])), CASES[name]) == theirs(chain)


@pytest.mark.parametrize(
    "raw",
    [
        [router(route(ServiceSubset="v9"))],
        [splitter((100, "b", "v1"))],
        [splitter((50, "b", ""))],
        [resolver(Failover={"*": {"Service": "b", "ServiceSubset": "v1"}})],
        [resolver(DefaultSubset="v1")],
        [resolver("b", Redirect={"Service": "shop"}), resolver(Redirect={"Service": "b"})],
        [splitter((100, "shop", ""), name="b"), splitter((100, "b", ""))],
        [router(route(path="/a", prefix="/b"))],
        [resolver(Failover={"*": {}})],
    ],
)
def test_what_consul_refuses_is_refused(raw: list[dict[str, Any]], consul: RegistryProcess) -> None:
    *before, last = raw
    for entry in before:
        consul.ask("PUT", "/v1/config", entry)
    with pytest.raises(urllib.error.HTTPError) as refused:
        consul.ask("PUT", "/v1/config", last)
    refused.value.close()
    with pytest.raises(InvalidConfig):
        compiled("shop", Contract(), entries=entries(*raw))


def ours(policy: Policy, raw: list[dict[str, Any]]) -> Said:
    """What our compiler says."""
    routes = []
    for found in policy.routes:
        match = found.match
        weights = {str(share.target): share.weight / 100 for share in found.shares}
        headers = sorted(header.name for header in match.conditions)
        routes.append((match.path or match.regex or match.prefix or "/", headers, weights))
    targets = {share.target for found in policy.routes for share in found.shares}
    return routes, {str(target): _told(_destination(target, raw)) for target in targets}


def _destination(target: Target, raw: list[dict[str, Any]]) -> Destination:
    return compiled(target.service, Contract(), entries=entries(*raw)).destinations[target.subset]


def _told(found: Destination) -> Any:
    is_default = found.connect_timeout_source == "default"
    return (
        found.selection.filter.text if found.selection.filter else "", found.selection.only_passing,
        [str(target) for target in found.failover], None if is_default else found.connect_timeout_seconds,
    )  # fmt: skip


def theirs(chain: Any) -> Said:
    """What Consul says."""
    nodes, targets = chain["Nodes"], chain["Targets"]

    def name(target: str) -> str:
        subset = targets[target].get("ServiceSubset", "")
        return f"{targets[target]['Service']}:{subset}" if subset else str(targets[target]["Service"])

    def weights(node: str, share: float = 1.0) -> dict[str, float]:
        if nodes[node]["Type"] == "resolver":
            return {name(nodes[node]["Resolver"]["Target"]): round(share * 100, 2)}
        found: dict[str, float] = {}
        for split in nodes[node]["Splits"]:
            for target, weight in weights(split["NextNode"], share * split["Weight"] / 100).items():
                found[target] = round(found.get(target, 0) + weight, 2)
        return found

    def target_of(resolved: Any) -> Any:
        subset = targets[resolved["Target"]].get("Subset") or {}
        failover = [name(target) for target in resolved.get("Failover", {}).get("Targets", [])]
        seconds = float(resolved["ConnectTimeout"].removesuffix("s"))
        return subset.get("Filter", ""), subset.get("OnlyPassing", False), failover, None if seconds == 5 else seconds

    start = nodes[chain["StartNode"]]
    routed = start["Routes"] if start["Type"] == "router" else [{"Definition": {}, "NextNode": chain["StartNode"]}]
    routes = [(*_match(one["Definition"].get("Match")), weights(one["NextNode"])) for one in routed]
    reached = {target for *_, found in routes for target in found}
    resolved = [node["Resolver"] for node in nodes.values() if node["Type"] == "resolver"]
    return routes, {name(one["Target"]): target_of(one) for one in resolved if name(one["Target"]) in reached}


def _match(match: Any) -> tuple[str, list[str]]:
    http = (match or {}).get("HTTP") or {}
    path = http.get("PathExact") or http.get("PathRegex") or http.get("PathPrefix") or "/"
    return path, sorted(header["Name"] for header in http.get("Header") or ())
