"""Everything that is said of a service, compiled: who wins, where calls go, and where each value came from."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from mesh.contract import Contract
from mesh.errors import Code, InvalidConfig
from mesh.policy import Balance, Balancing, Policy, Retry, Target, compiled, parse_service_config, reachable
from mesh.policy.model import REPORTED, Match
from tests.unit.policy.tables import (
    BUY,
    GET,
    SERVICE,
    WATCH,
    config,
    contract,
    entries,
    policy,
    resolver,
    route,
    router,
    splitter,
)

KV = "mesh/service-config/shop"
RETRY = {"maxAttempts": 4, "retryableStatusCodes": ["UNAVAILABLE"]}


def method_config(method: str, **fields: Any) -> dict[str, Any]:
    return {"name": [{"service": SERVICE, "method": method} if method else {"service": SERVICE}], **fields}


def table(found: Policy) -> list[tuple[str, float | None, int, dict[str, int]]]:
    """Routes as path or prefix, seconds, attempts, and weights by target."""
    return [
        (
            route.match.path or route.match.prefix or route.match.regex or "*",
            route.method.timeout_seconds,
            route.method.retry.attempts if route.method.retry else 1,
            {str(share.target): share.weight for share in route.shares},
        )
        for route in found.routes
    ]


def last(found: Policy) -> dict[str, int]:
    """Where calls go that no route of a router takes."""
    return {str(share.target): share.weight for share in found.routes[-1].shares}


def refusal(*raw: Any, **more: Any) -> str:
    with pytest.raises(InvalidConfig) as caught:
        policy(*raw, **more)
    return caught.value.message


def test_without_anything_each_method_has_a_route_and_all_else_has_one() -> None:
    whole = {"shop": 10_000}
    assert table(policy()) == [(GET, 5, 3, whole), (BUY, 5, 1, whole), (WATCH, None, 3, whole), ("*", None, 1, whole)]


def test_the_kv_store_replaces_the_contract_method_by_method() -> None:
    get_said, buy_said = method_config("Get", timeout="1s", retryPolicy=RETRY), method_config("Buy", timeout="2s")
    published = {"methodConfig": [get_said, buy_said]}
    found = policy(published=published, kv=config(methodConfig=[method_config("Get", timeout="3s")]))
    get, buy = found.methods[GET], found.methods[BUY]
    assert (get.timeout_seconds, get.timeout_source, get.retry, get.retry_source) == (3, KV, None, KV)
    assert (buy.timeout_seconds, buy.timeout_source) == (2, "contract")
    assert (found.methods[WATCH].timeout_seconds, found.methods[WATCH].timeout_source) == (None, "default")


ALL = {"name": [{}], "timeout": "7s"}


@pytest.mark.parametrize(("kv", "raw", "wanted", "told"), [
    ([], [], [("*", None)], (5, "default")),
    ([ALL], [], [("*", 7)], (7, KV)),
    ([{"name": [{}], "retryPolicy": RETRY}], [], [("*", None)], (5, "default")),
    ([], [resolver(RequestTimeout="9s")], [("*", 9)], (9, "service-resolver/shop")),
    ([ALL], [resolver(RequestTimeout="9s")], [("*", 9)], (9, "service-resolver/shop")),
    ([method_config("Get", timeout="1s")], [], [(GET, 1), ("*", None)], (5, "default")),
    ([method_config("Get", timeout="1s"), ALL], [], [(GET, 1), ("*", 7)], (7, KV)),
    ([method_config("Get", retryPolicy=RETRY)], [], [("*", None)], (5, "default")),
    ([method_config("", timeout="1s")], [], [("*", None)], (5, "default")),
    ([ALL], [router(route(path=WATCH, RequestTimeout="3s"))], [(WATCH, 3), ("*", 7)], (7, KV)),
    ([ALL, method_config("Buy", timeout="1s")], [router(route(prefix="/shop", Service="b"))],
     [(BUY, 1), ("/shop", 7), ("*", 7)], (7, KV)),
])  # fmt: skip
def test_without_a_contract_every_client_has_the_deadlines_that_were_set(
    kv: list[Any], raw: list[Any], wanted: list[tuple[str, float | None]], told: tuple[float, str]
) -> None:
    """The default is for calls without a stream, which a route cannot tell from others: it is in no route."""
    found = compiled("shop", Contract(), config(methodConfig=kv), entries(*raw))
    assert [(path, seconds) for path, seconds, _, _ in table(found)] == wanted
    assert {path: method.timeout_seconds for path, method in found.methods.items()} == {
        path: seconds for path, seconds in wanted if path in (GET, BUY)
    }
    assert (found.fallback.timeout_seconds, found.fallback.timeout_source) == told
    assert found.fallback_streams.timeout_seconds == (None if told[1] == "default" else told[0])


def test_what_is_said_of_all_reaches_what_the_contract_does_not_name() -> None:
    found = policy(kv=config(methodConfig=[ALL]), published={"methodConfig": [{"name": [{}], "timeout": "2s"}]})
    assert [route.method.timeout_seconds for route in found.routes] == [7] * 4
    found = policy(kv=config(methodConfig=[{"name": [{}]}]), published={"methodConfig": [ALL]})
    assert (found.routes[-1].method.timeout_seconds, found.fallback.timeout_seconds) == (None, 5)


def test_balancing_limits_and_ejection_come_from_the_strongest_that_says_them() -> None:
    published = {"loadBalancingConfig": [{"random": {}}], "circuitBreakers": {"maxRequests": 1}}
    kv = config(loadBalancingConfig=[{"least_request": {}}], outlierDetection={})
    found = policy(resolver(LoadBalancer={"Policy": "maglev"}), kv=kv, published=published).destinations[""]
    assert (found.balancing.kind, found.balancing.source) == (Balance.MAGLEV, "service-resolver/shop")
    assert (found.limits.max_requests, found.limits.source) == (1, "contract")
    assert found.outlier_detection.source == KV
    found = policy(kv=kv, published=published).destinations[""]
    assert (found.balancing.kind, found.balancing.source) == (Balance.LEAST_REQUEST, KV)


def test_a_route_lays_over_what_the_contract_says() -> None:
    found = policy(router(route(prefix="/", RequestTimeout="2s", NumRetries=1, RetryOn=["cancelled"])))
    assert {path: method.timeout_seconds for path, method in found.methods.items()} == {GET: 2, BUY: 2, WATCH: 2}
    assert found.methods[GET].retry == Retry(attempts=2, codes=(Code.CANCELLED,))
    assert (found.methods[GET].timeout_source, found.methods[GET].retry_source) == ("service-router/shop",) * 2
    assert found.fallback.timeout_seconds == 2


def test_retries_of_a_route_reach_idempotent_methods_only() -> None:
    found = policy(router(route(prefix="/", NumRetries=4)))
    assert {path: method.retry and method.retry.attempts for path, method in found.methods.items()} == {
        GET: 5, BUY: None, WATCH: 5
    }  # fmt: skip
    assert found.routes[-1].method.retry is None


def test_the_first_route_that_matches_counts() -> None:
    found = policy(
        router(route(path=GET, RequestTimeout="1s"), route(prefix="/shop.v1.", RequestTimeout="2s", Service="b"))
    )
    a, b = {"shop": 10_000}, {"b": 10_000}
    assert table(found) == [
        (GET, 1, 3, a), (BUY, 2, 1, b), (WATCH, 2, 3, b), ("/shop.v1.", 2, 1, b), ("*", None, 1, a)
    ]  # fmt: skip


def test_a_route_with_a_header_leaves_other_calls_to_later_routes() -> None:
    found = policy(router(route(headers=[("x-canary", "1")], Service="b", RequestTimeout="1s")))
    assert [(path, seconds) for path, seconds, _, _ in table(found)] == [
        (GET, 1), (BUY, 1), (WATCH, 1), ("*", 1), (GET, 5), (BUY, 5), (WATCH, None), ("*", None)
    ]  # fmt: skip
    assert [bool(route.match.conditions) for route in found.routes] == [True] * 4 + [False] * 4
    assert found.methods[GET].timeout_seconds == 5


def balancing(reports_load: bool, **config: Any) -> Balancing:
    said = replace(contract(), reports_load=reports_load)
    made = compiled("shop", said, parse_service_config(json.dumps(config), "kv"))
    return made.destinations[""].balancing


def test_a_service_that_reports_load_is_balanced_by_it_unless_somebody_says_otherwise() -> None:
    assert balancing(False) == Balancing()
    assert balancing(True) == Balancing(kind=Balance.WEIGHTED_ROUND_ROBIN, source=REPORTED)
    assert balancing(True, loadBalancingConfig=[{"round_robin": {}}]) == Balancing(source="kv")


def test_a_regex_takes_whole_paths() -> None:
    raw = router({"Match": {"HTTP": {"PathRegex": "/shop[.]v1[.]Shop/(Get|Wat)"}}, "Destination": {"Service": "b"}})
    assert [(path, to) for path, _, _, to in table(policy(raw))][:2] == [
        (GET, {"b": 10_000}), ("/shop[.]v1[.]Shop/(Get|Wat)", {"b": 10_000})
    ]  # fmt: skip


SUBSETS = {"v1": "Service.Meta.version == 1", "v2": "Service.Meta.version == 2"}


@pytest.mark.parametrize(
    ("raw", "wanted"),
    [
        ([], {"shop": 10_000}),
        ([splitter((90, "", ""), (10, "b", ""))], {"shop": 9000, "b": 1000}),
        ([resolver(subsets=SUBSETS), splitter((99.5, "", "v1"), (0.5, "", "v2"))], {"shop:v1": 9950, "shop:v2": 50}),
        ([resolver(subsets=SUBSETS, DefaultSubset="v1")], {"shop:v1": 10_000}),
        ([resolver(Redirect={"Service": "b"})], {"b": 10_000}),
        ([resolver(Redirect={"Service": "b"}), resolver("b", subsets=SUBSETS, DefaultSubset="v2")], {"b:v2": 10_000}),
        ([resolver(Redirect={"Service": "b", "ServiceSubset": "v1"}), resolver("b", subsets=SUBSETS)],
         {"b:v1": 10_000}),
        # A splitter of another service counts as well, one behind a redirect does not.
        ([splitter((50, "", ""), (50, "b", "")), splitter((20, "", ""), (80, "c", ""), name="b")],
         {"shop": 5000, "b": 1000, "c": 4000}),
        ([resolver(Redirect={"Service": "b"}), splitter((20, "", ""), (80, "c", ""), name="b")], {"b": 10_000}),
        # Two ways to the same target are one, and nothing is lost by rounding.
        ([splitter((50, "b", ""), (50, "c", "")), resolver("c", Redirect={"Service": "b"})], {"b": 10_000}),
        ([splitter((33.33, "b", ""), (66.67, "", "")), splitter((33.33, "c", ""), (66.67, "", ""), name="b")],
         {"c": 1111, "b": 2222, "shop": 6667}),
        ([splitter((100, "", ""), (0, "b", ""))], {"shop": 10_000}),
    ],
)  # fmt: skip
def test_where_calls_go(raw: list[Any], wanted: dict[str, int]) -> None:
    found = last(policy(*raw))
    assert found == wanted
    assert sum(found.values()) == 10_000


@pytest.mark.parametrize(
    ("to", "wanted"),
    [
        ({"Service": "b"}, {"b": 5000, "c": 5000}),
        ({"ServiceSubset": "v1"}, {"shop:v1": 10_000}),
        ({}, {"shop": 10_000}),
        ({"Service": "gone"}, {"new": 10_000}),
    ],
)
def test_where_a_route_leads(to: dict[str, str], wanted: dict[str, int]) -> None:
    found = policy(
        router(route(path=GET, **to)), splitter((50, "", ""), (50, "c", ""), name="b"), resolver(subsets=SUBSETS),
        resolver("gone", Redirect={"Service": "new"}),
    )  # fmt: skip
    assert table(found)[0][3] == wanted


def test_failover_by_subset_and_for_all_others() -> None:
    raw = resolver(subsets=SUBSETS, Failover={
        "v2": {"ServiceSubset": "v1"}, "*": {"Targets": [{"Service": "b"}, {"Service": "c", "ServiceSubset": "x"}]},
    })  # fmt: skip
    found = policy(raw, resolver("c", subsets={"x": ""}), resolver("b", Redirect={"Service": "d"})).destinations
    assert found["v2"].failover == (Target("shop", "v1"),)
    assert found[""].failover == found["v1"].failover == (Target("d"), Target("c", "x"))
    assert found["v1"].failover_source == "service-resolver/shop"


def test_a_resolver_sets_the_connect_timeout_and_the_deadline_of_its_service() -> None:
    found = policy(resolver(ConnectTimeout="250ms", RequestTimeout="9s"))
    assert (found.destinations[""].connect_timeout_seconds, found.methods[GET].timeout_seconds) == (0.25, 9)
    assert policy().destinations[""].connect_timeout_source == "default"
    assert (found.fallback.timeout_seconds, found.routes[-1].method.timeout_seconds) == (9, 9)


@pytest.mark.parametrize(
    ("raw", "seconds"),
    [
        ([resolver("b", RequestTimeout="9s")], 9),
        ([resolver("b", Redirect={"Service": "c"}), resolver("c", RequestTimeout="8s")], 8),
        ([resolver("b")], 5),
        ([resolver("b", RequestTimeout="9s"), router(route(prefix="/", RequestTimeout="1s"))], 1),
    ],
)
def test_what_is_redirected_has_the_deadline_of_where_it_goes(raw: list[Any], seconds: float) -> None:
    """Consul's documentation: of an entry with a redirect all else is ignored."""
    found = policy(resolver(RequestTimeout="7s", Redirect={"Service": "b"}), *raw)
    assert (found.methods[GET].timeout_seconds, found.fallback.timeout_seconds) == (seconds, seconds)


@pytest.mark.parametrize(
    ("raw", "fault"),
    [
        ([router(route(ServiceSubset="v9"))], "service-router/shop: Routes[0]: shop has no subset v9"),
        ([splitter((100, "b", "v1"))], "service-splitter/shop: Splits[0]: b has no subset v1"),
        ([resolver(Failover={"*": {"Service": "b", "ServiceSubset": "v1"}})],
         "service-resolver/shop: Failover.*: b has no subset v1"),
        ([resolver(Redirect={"Service": "shop", "ServiceSubset": "v9"})],
         "service-resolver/shop: Redirect: shop has no subset v9"),
        ([router(route(Service="c", ServiceSubset="v1")), resolver("c", Redirect={"Service": "c"})],
         "service-router/shop: Routes[0]: c has no subset v1"),
        ([resolver(Redirect={"Service": "b"}), resolver("b", Redirect={"Service": "shop"})],
         "service-resolver/b: Redirect: leads back to itself by shop > b"),
        ([splitter((100, "b", "")), splitter((100, "shop", ""), name="b")],
         "service-splitter/shop: Splits: leads back to itself by shop > b > shop"),
    ],
)  # fmt: skip
def test_entries_that_contradict_each_other_are_refused(raw: list[Any], fault: str) -> None:
    assert fault in refusal(*raw).splitlines()


def test_a_retry_policy_on_a_method_that_may_not_be_sent_again_is_refused() -> None:
    kv = config(methodConfig=[method_config("Buy", retryPolicy=RETRY)])
    assert refusal(kv=kv).startswith(f"{KV}: methodConfig[0].name[0]: a retry policy on {SERVICE}/Buy")
    kv = config(methodConfig=[method_config("Sell", timeout="1s")])
    assert refusal(kv=kv) == f"{KV}: methodConfig[0].name[0]: {SERVICE} has no method Sell"


def test_what_can_be_reached_is_what_must_be_followed() -> None:
    held = entries(
        router(route(path=GET, Service="b"), route(path=BUY, Service="c")), splitter((50, "", ""), (50, "d", "")),
        resolver("d", Failover={"*": {"Service": "e"}}), resolver("c", Redirect={"Service": "f"}),
        resolver("unrelated", Redirect={"Service": "g"}),
    )  # fmt: skip
    assert reachable("shop", held) == {"shop", "b", "f", "d", "e"}
    assert reachable("other", held) == {"other"}


@pytest.mark.parametrize("match", [Match(), Match(prefix="/")])
def test_a_match_of_everything(match: Match) -> None:
    assert match.everything
    assert match.covers(GET)
