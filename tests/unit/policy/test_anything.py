"""Whatever an operator writes, it is compiled or refused: nothing else may happen to a sidecar."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.catalog import Service
from mesh.errors import InvalidConfig
from mesh.policy import KINDS, NOTHING, Entries, Target, compiled, parse_entry, parse_service_config, reachable
from mesh.policy.filters import BadFilter, Filter
from mesh.policy.patterns import fault_of_regex
from mesh.registry.dev.spelling import spelled
from mesh.registry.model import Instance
from mesh.xds.dialect import CORE, ENVOY, GO, JAVA, NODE
from mesh.xds.resources import Peer, proxyless
from mesh.xds.routes import xds_routes
from mesh.xds.snapshot import problems
from tests.unit.policy.tables import GET, SERVICE, contract, router

EXAMPLES = 50
NAMES = ("shop", "b", "c")
WORDS = (
    "Routes", "Match", "HTTP", "PathExact", "PathPrefix", "PathRegex", "Header", "Name", "Exact", "Regex",
    "Present", "Invert", "Destination", "Service", "NumRetries", "ServiceSubset", "RequestTimeout", "RetryOn",
    "RetryOnStatusCodes", "Splits", "Weight", "Subsets", "Filter", "OnlyPassing", "DefaultSubset", "v1", "Redirect",
    "Failover", "Targets", "*", "ConnectTimeout", "LoadBalancer", "Policy", "HashPolicies", "Field", "FieldValue",
    "RingHashConfig", "Protocol", "MinimumRingSize", "methodConfig", "name", "service", "method", "timeout",
    "retryPolicy", "maxAttempts", "retryableStatusCodes", "round_robin", "loadBalancingConfig", "ring_hash",
    "requestHashHeader", "minRingSize", "outlierDetection", "interval", "successRateEjection", "circuitBreakers",
    "maxRequests", "least_request", "choiceCount",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, 0, 1, 2, -1, 100, 50.5, 10**400, float("nan"), float("inf"), "", "1s", "9" * 400 + "s", "9" * 400 + "h",
    "0s", "/", GET, SERVICE, "Get", "v1", *NAMES, "(", "a*", "a{1001}", "Service.Port == 1", "not", "ring_hash",
    "header", "x-a", "unavailable", "UNAVAILABLE", 503, [], {},
)  # fmt: skip
ANYTHING: st.SearchStrategy[Any] = st.recursive(
    st.sampled_from(VALUES) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=4),
    max_leaves=6,
)
OBJECTS = st.dictionaries(st.sampled_from(WORDS), ANYTHING, max_size=4)


@given(st.sampled_from(KINDS), OBJECTS)
@settings(max_examples=EXAMPLES, deadline=None)
def test_an_entry_is_read_or_refused(kind: str, content: dict[str, Any]) -> None:
    with suppress(InvalidConfig):
        parse_entry({**spelled(content), "Kind": kind, "Name": "shop"})


@given(OBJECTS)
@settings(max_examples=EXAMPLES, deadline=None)
def test_a_service_config_is_read_or_refused(content: dict[str, Any]) -> None:
    with suppress(InvalidConfig):
        parse_service_config(json.dumps(content), "here")


@given(st.lists(st.sampled_from('Service.Port == 1 and not ( ) is empty in [ " x'.split(" "))))  # noqa: SIM905
@settings(max_examples=EXAMPLES, deadline=None)
def test_a_filter_is_read_or_refused(words: list[str]) -> None:
    with suppress(BadFilter):
        Filter.parse(" ".join(words)).matches(INSTANCES["b"])


@given(st.sampled_from(["Exact", "Prefix", "Suffix", "Contains"]), st.text(min_size=1), st.booleans())
@settings(max_examples=EXAMPLES, deadline=None)
def test_whatever_a_header_is_compared_with_is_good_re2(how: str, value: str, ignore_case: bool) -> None:
    header = {"Name": "x", how: value, "IgnoreCase": ignore_case}
    found = parse_entry(router({"Match": {"HTTP": {"Header": [header]}}}))
    policy = compiled("shop", contract(), NOTHING, Entries({("service-router", "shop"): found}))
    routes = xds_routes(policy, CORE, nothing)
    regexes = {matcher.safe_regex_match.regex for xds in routes for matcher in xds.match.headers}
    assert [fault_of_regex(regex) for regex in regexes if regex] == [""] * len(regexes - {""})


def nothing(target: Target) -> tuple[str, ...]:
    return ()


INSTANCES = {name: Instance(service=name, id=name, address="10.0.0.1", port=i) for i, name in enumerate(NAMES, start=1)}
SHARES = st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(["", "v1"])), min_size=1, max_size=3)
RESOLVERS = st.fixed_dictionaries({}, optional={
    "Subsets": st.just({"v1": {"Filter": "Service.Port == 1"}}), "DefaultSubset": st.just("v1"),
    "Failover": st.sampled_from(NAMES).map(lambda name: {"*": {"Service": name}}),
    "Redirect": st.sampled_from(NAMES).map(lambda name: {"Service": name}),
    "LoadBalancer": st.sampled_from(["random", "maglev", "least_request"]).map(lambda name: {"Policy": name}),
})  # fmt: skip


@st.composite
def worlds(draw: st.DrawFn) -> Entries:
    """Entries for some services that lead from one to another, each good for itself."""
    raw: list[dict[str, Any]] = []
    for name in NAMES:
        shares = draw(SHARES)
        weights = [100 - 10 * (len(shares) - 1), *[10] * (len(shares) - 1)]
        splits = [{"Weight": w, "Service": s, "ServiceSubset": t} for w, (s, t) in zip(weights, shares, strict=True)]
        routes = [{"Destination": {"Service": s, "ServiceSubset": t}} for s, t in draw(SHARES)]
        found: list[dict[str, Any]] = [
            {"Kind": "service-resolver", "Name": name, **draw(RESOLVERS)},
            {"Kind": "service-splitter", "Name": name, "Splits": splits if draw(st.booleans()) else []},
            {"Kind": "service-router", "Name": name, "Routes": routes if draw(st.booleans()) else []},
        ]
        raw += found
    held = {}
    for entry in raw:
        with suppress(InvalidConfig):
            held[entry["Kind"], entry["Name"]] = parse_entry(entry)
    return Entries(held)


@given(worlds(), st.sampled_from([CORE, GO, NODE, JAVA, ENVOY]), st.sets(st.sampled_from(NAMES)))
@settings(max_examples=EXAMPLES, deadline=None)
def test_what_compiles_is_consistent_in_every_dialect(world: Entries, dialect: Any, there: set[str]) -> None:
    reach = reachable("shop", world)
    assert reach <= set(NAMES)
    try:
        policies = {name: compiled(name, contract(), NOTHING, world) for name in reach}
    except InvalidConfig:
        return
    assert {target.service for policy in policies.values() for target in policy.targets} <= reach
    peers = {
        name: Peer(Service(name, (INSTANCES[name],) if name in there else (), True), policies[name]) for name in reach
    }
    assert not list(problems(proxyless("shop", peers, dialect, zone="a")))
    assert all(sum(share.weight for share in route.shares) == 10_000 for route in policies["shop"].routes)
