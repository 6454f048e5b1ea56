"""Config entries: what each field says, and every refusal with its path."""

from __future__ import annotations

from typing import Any

import pytest

from mesh.errors import Code, InvalidConfig
from mesh.policy import Balance, Balancing, parse_entry
from mesh.policy.entries import Defaults, Detour, Resolver, Router, Splitter
from mesh.policy.model import Comparison, HeaderMatch
from tests.unit.policy.tables import resolver, route, router, splitter


def faults(raw: dict[str, Any]) -> list[str]:
    with pytest.raises(InvalidConfig) as caught:
        parse_entry(raw)
    return caught.value.message.splitlines()


def rule(**destination: Any) -> Any:
    parsed = parse_entry(router(route(**destination))).parsed
    assert isinstance(parsed, Router)
    return parsed.rules[0]


def test_a_route_as_consul_answers_it() -> None:
    raw = {
        "Kind": "service-router", "Name": "shop", "CreateIndex": 5, "ModifyIndex": 7,
        "Routes": [{
            "Match": {"HTTP": {"PathPrefix": "/shop.v1.Shop/", "Header": [{"Name": "X-Canary", "Present": True}]}},
            "Destination": {"Service": "shop", "ServiceSubset": "v2", "RequestTimeout": "1m30s", "NumRetries": 2,
                            "RetryOnConnectFailure": True, "RetryOnStatusCodes": [503, 504, 502]},
        }],
    }  # fmt: skip
    parsed = parse_entry(raw).parsed
    assert isinstance(parsed, Router)
    (found,) = parsed.rules
    assert found.match.prefix == "/shop.v1.Shop/"
    assert found.match.conditions == (HeaderMatch(name="x-canary", comparison=Comparison.PRESENT),)
    assert (found.service, found.subset, found.timeout_seconds, found.attempts) == ("shop", "v2", 90.0, 3)
    assert found.codes == (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED)


@pytest.mark.parametrize(
    ("given", "seconds"),
    [("250ms", 0.25), ("1h", 3600), ("1.5s", 1.5), ("1m0.5s", 60.5), (2_000_000_000, 2), ("0s", None), (0, None),
     ("", None), (None, None), ("1500us", 0.0015)],
)  # fmt: skip
def test_durations_are_those_of_go(given: Any, seconds: float | None) -> None:
    assert rule(RequestTimeout=given).timeout_seconds == seconds


@pytest.mark.parametrize(
    ("words", "codes"),
    [
        (["unavailable", "cancelled"], (Code.UNAVAILABLE, Code.CANCELLED)),
        (["connect-failure", "refused-stream"], ()),
        (["gateway-error"], (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED)),
        (["resource-exhausted", "internal", "deadline-exceeded", "reset"],
         (Code.RESOURCE_EXHAUSTED, Code.INTERNAL, Code.DEADLINE_EXCEEDED, Code.UNAVAILABLE)),
    ],
)  # fmt: skip
def test_the_newer_words_of_retry_on(words: list[str], codes: tuple[Code, ...]) -> None:
    assert rule(RetryOn=words).codes == codes


@pytest.mark.parametrize("comparison", [c for c in Comparison if c is not Comparison.PRESENT])
def test_headers_are_matched_in_every_way(comparison: Comparison) -> None:
    header = {"Name": "who", comparison.value.capitalize(): "me", "Invert": True}
    parsed = parse_entry(router({"Match": {"HTTP": {"Header": [header]}}})).parsed
    assert isinstance(parsed, Router)
    (found,) = parsed.rules[0].match.conditions
    assert found == HeaderMatch(name="who", comparison=comparison, value="me", inverted=True)


def test_a_resolver_in_full() -> None:
    parsed = parse_entry(resolver(
        subsets={"v1": "Service.Meta.version == 1", "v2": ""}, DefaultSubset="v1", ConnectTimeout="3s",
        Failover={"v2": {"ServiceSubset": "v1"}, "*": {"Targets": [{"Service": "shop-2"}, {"ServiceSubset": "v2"}]}},
        LoadBalancer={"Policy": "ring_hash", "RingHashConfig": {"MinimumRingSize": 16, "MaximumRingSize": 64},
                      "HashPolicies": [{"Field": "header", "FieldValue": "X-User", "Terminal": True}]},
    )).parsed  # fmt: skip
    assert isinstance(parsed, Resolver)
    assert (parsed.default_subset, parsed.connect_timeout_seconds, set(parsed.subsets)) == ("v1", 3.0, {"v1", "v2"})
    assert parsed.failover["v2"] == (Detour(subset="v1", where="Failover.v2"),)
    assert [detour.service for detour in parsed.failover["*"]] == ["shop-2", ""]
    assert parsed.balancing == Balancing(
        kind=Balance.RING_HASH, hashed=("x-user",), min_ring_size=16, max_ring_size=64, source="service-resolver/shop"
    )


def test_service_defaults_say_what_has_no_effect() -> None:
    entry = parse_entry({"Kind": "service-defaults", "Name": "shop", "Protocol": "grpc",
                         "UpstreamConfig": {"Defaults": {"Limits": {"MaxConnections": 5}}}})  # fmt: skip
    assert entry.parsed == Defaults(protocol="grpc")
    assert "mesh/service-config/<called service>" in entry.notes[0]


def test_weights_are_hundredths_of_a_percent() -> None:
    parsed = parse_entry(splitter((99.99, "", ""), (0.01, "new", ""))).parsed
    assert isinstance(parsed, Splitter)
    assert [split.weight for split in parsed.splits] == [9999, 1]


def http(**match: Any) -> dict[str, Any]:
    return router({"Match": {"HTTP": match}})


def header(**fields: Any) -> dict[str, Any]:
    return http(Header=[fields])


def balancer(**fields: Any) -> dict[str, Any]:
    return resolver(LoadBalancer=fields)


@pytest.mark.parametrize(
    ("raw", "fault"),
    [
        ({"Kind": "ingress-gateway", "Name": "x"}, "ingress-gateway is not one of service-defaults"),
        ({**router(), "Rutes": []}, "Rutes: unknown field"),
        ({**router(), "Routes": {}}, "Routes: {} is not a list"),
        (router(5), "Routes[0]: 5 is not an object"),
        (router({"Match": {"Http": {}}}), "Routes[0].Match.Http: unknown field"),
        (http(PathPrefix="shop"), "Routes[0].Match.HTTP.PathPrefix: 'shop' does not start with /"),
        (http(PathPrefix="/a", PathExact="/b"), "Routes[0].Match.HTTP.PathExact: only one of"),
        (http(PathRegex="("), "Routes[0].Match.HTTP.PathRegex: '(' is not a regular expression of RE2: missing )"),
        (http(PathRegex="/(?=a)"), "PathRegex: '/(?=a)' is not a regular expression of RE2"),
        (http(PathRegex=r"(a)\1"), "invalid escape sequence"),
        (http(PathRegex="a{2000}"), "invalid repetition size: {2000}"),
        (http(PathRegex="/(a{500}){500}"), "PathRegex: '/(a{500}){500}' is not a regular expression of RE2"),
        (http(PathRegex="/(?:[^/]{10}){101}"), "invalid repetition size"),
        (http(PathRegex=r"/\\pL{1000}\pL{1000}"), "pattern too large"),
        (http(PathRegex="((a{100}){100}){100}"), "PathRegex: '((a{100}){100}){100}' is not a regular expression"),
        (http(Header=[{"Name": "x", "Regex": "(k", "IgnoreCase": True}]), "Header[0].Regex: '(?i)(k' is not a regular"),
        (http(PathRegex=r"/\C"), "has what RE2 in Go does not have"),
        (http(PathRegex="/(?<a>b)"), "has what RE2 in Go does not have"),
        (http(PathPrefix="/\ud800"), "PathPrefix: '/\\ud800' is not Unicode"),
        (http(QueryParam=[{"Name": "a"}]), "Routes[0].Match.HTTP.QueryParam: calls of gRPC cannot be matched"),
        (http(Methods=["GET"]), "Routes[0].Match.HTTP.Methods: every call of gRPC is a POST"),
        (header(Exact="a"), "Routes[0].Match.HTTP.Header[0].Name: is missing"),
        (header(Name="a"), "Routes[0].Match.HTTP.Header[0].Name: exactly one of"),
        (header(Name="a", Exact="b", Prefix="c"), "exactly one of"),
        (header(Name="a", Regex="["), "Routes[0].Match.HTTP.Header[0].Regex: '[' is not a regular expression"),
        (header(Name="a\nb", Exact="b"), "Header[0].Name: 'a\\nb' is no name of a header"),
        (header(Name="a b", Exact="b"), "Header[0].Name: 'a b' is no name of a header"),
        (header(Name=":path", Exact="b"), "Header[0].Name: ':path' is no name of a header"),
        (header(Name="größe", Exact="b"), "Header[0].Name: 'größe' is no name of a header"),
        (header(Name="a-bin", Exact="b"), "binary metadata cannot be matched"),
        (router(route(NumRetries=5)), "Routes[0].Destination.NumRetries: 5 is not a number from 0 to 4"),
        (router(route(NumRetries=1.5)), "Routes[0].Destination.NumRetries: 1.5 is not a whole number"),
        (router(route(RequestTimeout="5")), "Routes[0].Destination.RequestTimeout: '5' is not a duration"),
        (router(route(RequestTimeout="1us")), "RequestTimeout: '1us' is not a duration"),
        (resolver(ConnectTimeout="2562048h"), "ConnectTimeout: '2562048h' is not a duration"),
        (router(route(RequestTimeout="-5s")), "Routes[0].Destination.RequestTimeout: '-5s' is not a duration"),
        (router(route(RetryOnStatusCodes=[404])), "Routes[0].Destination.RetryOnStatusCodes[0]: 404 is not one of"),
        (router(route(RetryOn=["5xxx"])), "Routes[0].Destination.RetryOn[0]: '5xxx' is not one of"),
        (router(route(PrefixRewrite="/x")), "Routes[0].Destination.PrefixRewrite: calls of gRPC"),
        (router(route(Namespace="x")), "Routes[0].Destination.Namespace: namespaces are not known"),
        (splitter((50, "", ""), (40, "b", "")), "Splits: the weights are 90 together, not 100"),
        (splitter((101, "", "")), "Splits[0].Weight: 101 is not a number from 0 to 100"),
        (resolver(DefaultSubset="v1"), "DefaultSubset: there is no subset v1"),
        (resolver(subsets={"V 1": ""}), "Subsets.V 1: is no name of a subset"),
        (resolver(subsets={"v1": "Service.Meta.v = 1"}), "Subsets.v1.Filter: "),
        (resolver(subsets={"v1": "Version == 1"}), "'Version' is not one of Service.ID"),
        (resolver(Failover={"v1": {"Service": "b"}}), "Failover.v1: there is no subset v1"),
        (resolver(Failover={"*": {}}), "Failover.*: one of Service, ServiceSubset and Targets is needed"),
        (resolver(Failover={"*": {"Datacenters": ["dc2"]}}), "Failover.*.Datacenters: other datacenters are not"),
        (resolver(Redirect={"Datacenter": "dc2"}), "Redirect.Datacenter: other datacenters are not"),
        (resolver(Redirect={"Service": "b"}, Failover={"*": {"Service": "c"}}), "Redirect: cannot be combined"),
        (resolver(Redirect={"Service": "b", "Peer": "east"}), "Redirect.Peer: other meshes are not"),
        (balancer(Policy="best"), "LoadBalancer.Policy: 'best' is not one of round_robin, random"),
        (balancer(Policy="ring_hash", HashPolicies=[{"Field": "cookie", "FieldValue": "x"}]),
         "LoadBalancer.HashPolicies[0].Field: only a header"),
        (balancer(Policy="ring_hash", HashPolicies=[{"Field": "header", "FieldValue": "a b"}]),
         "LoadBalancer.HashPolicies[0].FieldValue: 'a b' is no name of a header"),
        (balancer(Policy="least_request", LeastRequestConfig={"ChoiceCount": 1}), "ChoiceCount: of one"),
        (balancer(Policy="random", HashPolicies=[{"Field": "header", "FieldValue": "x"}]),
         "LoadBalancer.HashPolicies: random hashes nothing"),
        (balancer(Policy="least_request", LeastRequestConfig={"ChoiceCount": -1}), "ChoiceCount: -1 is not a number"),
        ({"Kind": "service-defaults", "Name": "x", "Protocol": "smtp"}, "Protocol: 'smtp' is not one of"),
    ],
)  # fmt: skip
def test_what_is_refused_with_its_path(raw: dict[str, Any], fault: str) -> None:
    assert any(fault in line for line in faults(raw)), faults(raw)


def test_all_faults_are_told_together() -> None:
    assert len(faults(router(route(NumRetries=9, RequestTimeout="x"), route(prefix="a")))) == 3
