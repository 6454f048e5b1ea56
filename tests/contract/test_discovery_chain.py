"""What config entries mean: our compiler and a real Consul's own `/v1/discovery-chain/<service>` say the same."""

from __future__ import annotations

import urllib.error
from collections.abc import Iterator
from typing import Any

import pytest

from mesh.contract import Contract
from mesh.errors import InvalidConfig
from mesh.policy import compiled
from tests.contract.chains import ours, theirs
from tests.fixtures.consul import RegistryProcess
from tests.unit.policy.tables import BUY, GET, entries, resolver, route, router, splitter

NAMES = ("shop", "b", "c", "d")
SUBSETS = {"v1": "Service.Meta.version == 1", "v2": 'Service.Meta.version == "2" and not "slow" in Service.Tags'}


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




def header(**said: Any) -> dict[str, Any]:
    """A route for the calls whose header is so."""
    return {"Match": {"HTTP": {"Header": [{"Name": "X-Who", **said}]}}, "Destination": {"Service": "b"}}


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
    **{
        f"a header, {'not ' if inverted else ''}{kind}": [router(header(**{kind: value, "Invert": inverted}))]
        for kind, value in (("Exact", "a"), ("Prefix", "a"), ("Suffix", "a"), ("Regex", "a.*b"), ("Present", True))
        for inverted in (False, True)
    },
    "several headers at once": [
        router({
            "Match": {"HTTP": {"PathPrefix": "/shop.v1.Shop/", "Header": [
                {"Name": "x-a", "Exact": "1"}, {"Name": "x-b", "Regex": "[0-9]+"}, {"Name": "x-c", "Present": True},
            ]}},
            "Destination": {"Service": "b"},
        }),
    ],
    "a deadline": [router(route(path=GET, RequestTimeout="1m30s"), route(prefix="/", RequestTimeout="250ms"))],
    "a deadline for those with a header": [router(route(path=BUY, headers=[("x-a", "1")], RequestTimeout="9s"))],
    "a deadline in nanoseconds": [router({"Destination": {"RequestTimeout": 1_500_000_000}})],
    "retries": [router(route(prefix="/shop.v1.Shop/", NumRetries=4))],
    "retries on connect failure": [router(route(path=GET, NumRetries=1, RetryOnConnectFailure=True))],
    "retries on status codes": [router(route(path=GET, NumRetries=2, RetryOnStatusCodes=[503, 429]))],
    "retries on status codes alone": [router(route(prefix="/shop", RetryOnStatusCodes=[500, 504]))],
    "all that a destination says": [
        resolver("b", subsets=SUBSETS),
        router(
            route(
                path=GET, headers=[("x-a", "1")], Service="b", ServiceSubset="v1", RequestTimeout="3s", NumRetries=3,
                RetryOnConnectFailure=True, RetryOnStatusCodes=[503],
            ),
            route(path=GET, Service="c", RequestTimeout="2s"),
        ),
    ],
    "the first route counts": [
        router(
            route(prefix="/shop.v1.Shop/G", RequestTimeout="1s"), route(path=GET, RequestTimeout="2s"),
            {"Match": {"HTTP": {"PathRegex": "/shop.*/B.*"}}, "Destination": {"RequestTimeout": "3s"}},
            route(headers=[("x-a", "1")], NumRetries=1), route(RequestTimeout="4s"), route(RequestTimeout="5s"),
        ),
    ],
    "routes that match nothing in particular": [router({}, {"Match": {"HTTP": {}}}, {"Match": None})],
    "methods of HTTP": [router({"Match": {"HTTP": {"Methods": ["GET", "POST"]}}, "Destination": {"Service": "b"}})],
    "seconds to connect": [resolver(ConnectTimeout="1m1.5s", subsets=SUBSETS, DefaultSubset="v1")],
    "seconds to connect of whom one is redirected to": [
        resolver("b", ConnectTimeout="250ms"), resolver(Redirect={"Service": "b"}, ConnectTimeout="3s"),
    ],
    "a filter and only those that pass": [
        resolver(Subsets={"v1": {"Filter": SUBSETS["v1"], "OnlyPassing": True}}, DefaultSubset="v1"),
    ],
    "weights of a third": [splitter((33.33, "", ""), (33.33, "b", ""), (33.34, "c", ""))],
    "weights finer than a hundredth": [splitter((33.333, "", ""), (66.667, "b", ""))],
    "a weight of nothing": [splitter((0, "b", ""), (100, "", ""))],
    "thirds of thirds": [
        splitter((33.33, "", ""), (66.67, "b", "")), splitter((33.33, "c", ""), (66.67, "d", ""), name="b"),
    ],
    "a split over services with default subsets": [
        resolver("b", subsets=SUBSETS, DefaultSubset="v2"), splitter((50, "", ""), (25, "b", ""), (25, "b", "v1")),
    ],
    "failover of each subset": [
        resolver(subsets=SUBSETS, Failover={"v1": {"Service": "b"}, "v2": {"Service": "c"}}),
        splitter((50, "", "v1"), (50, "", "v2")),
    ],
    "failover of those that a split names": [
        resolver("b", Failover={"*": {"Service": "d"}}), splitter((50, "", ""), (50, "b", "")),
    ],
    "failover to a subset of another service": [
        resolver("b", subsets=SUBSETS), resolver(Failover={"*": {"Service": "b", "ServiceSubset": "v2"}}),
    ],
    "failover to itself": [resolver(Failover={"*": {"Service": "shop"}})],
    "failover for all subsets to one of them": [
        resolver(subsets=SUBSETS, DefaultSubset="v1", Failover={"*": {"ServiceSubset": "v2"}}),
    ],
    "a redirect to itself": [resolver(Redirect={"Service": "shop"})],
    "a redirect beside subsets": [
        resolver(subsets=SUBSETS, DefaultSubset="v1", Redirect={"Service": "b"}),
        router(route(path=GET, ServiceSubset="v2")),
    ],
    "a redirect within": [resolver(subsets=SUBSETS, Redirect={"Service": "shop", "ServiceSubset": "v2"})],
    "a route beside a split": [
        splitter((10, "b", ""), (90, "", "")), router(route(prefix="/a.B/", headers=[("x", "y")], Service="c")),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_entries_mean(name: str, consul: RegistryProcess) -> None:
    for entry in CASES[name]:
        assert consul.ask("PUT", "/v1/config", entry) is True
    assert ours(CASES[name]) == theirs(consul.ask("GET", "/v1/discovery-chain/shop")["Chain"])


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
        [resolver(subsets=SUBSETS, Failover={"v9": {"Service": "b"}})],
        [resolver(subsets=SUBSETS, Redirect={"ServiceSubset": "v2"})],
        [resolver(Redirect={})],
        [resolver(Redirect={"Service": "b"}, Failover={"*": {"Service": "c"}})],
        [resolver(subsets={"V_1": "Service.Meta.version == 1"})],
        [resolver(ConnectTimeout="-1s")],
        [splitter()],
        [splitter((33.33, "", ""), (66.66, "b", ""))],
        [splitter((50, "b", ""), (50, "b", ""))],
        [router(header())],
        [router(header(Present=False))],
        [router(header(Present=False, Invert=True))],
        [router(header(Exact="a", Prefix="b"))],
        [router({"Match": {"HTTP": {"Header": [{"Exact": "a"}]}}})],
        [router(route(path="a"))],
        [router(route(prefix="a"))],
        [router(route(PrefixRewrite="/z"))],
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
