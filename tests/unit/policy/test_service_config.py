"""A service config: deadlines and retries over the defaults, balancing and limits, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mesh.errors import Code, InvalidConfig
from mesh.policy import (
    PREFIX,
    Balance,
    Balancing,
    Limits,
    MethodPolicy,
    OutlierDetection,
    Policy,
    Retry,
    ServiceConfig,
    compiled,
    parse_service_config,
)
from mesh.policy.model import CONTRACT, FailurePercentage, SuccessRate
from tests.unit.policy.tables import BUY, GET, SERVICE, WATCH, config, contract, policy


def methods_of(*method_config: Any) -> Policy:
    return compiled("shop", contract({"methodConfig": list(method_config)}))


def name(method: str = "") -> dict[str, str]:
    return {"service": SERVICE, "method": method} if method else {"service": SERVICE}


def test_without_a_service_config_the_defaults_hold() -> None:
    methods = compiled("shop", contract()).methods
    assert methods[GET] == MethodPolicy(timeout_seconds=5.0, retry=Retry(), unary=True, idempotent=True)
    assert methods[BUY] == MethodPolicy(timeout_seconds=5.0, retry=None, retry_source=CONTRACT, unary=True)
    assert methods[WATCH] == MethodPolicy(timeout_seconds=None, retry=Retry(), idempotent=True)


def test_the_default_retry_is_three_attempts_on_unavailable() -> None:
    assert Retry() == Retry(attempts=3, codes=(Code.UNAVAILABLE,), base_seconds=0.05, max_seconds=1.0)


def test_the_most_exact_name_wins_whatever_the_order() -> None:
    exact, whole = {"name": [name("Get")], "timeout": "2s"}, {"name": [name()], "timeout": "9s"}
    for entries in ((exact, whole), (whole, exact)):
        methods = methods_of(*entries, {"name": [{}], "timeout": "1s"}).methods
        assert methods[GET].timeout_seconds == 2
        assert methods[BUY].timeout_seconds == 9


def test_a_retry_for_the_whole_service_reaches_idempotent_methods_only() -> None:
    retry = {"maxAttempts": 4, "initialBackoff": "0.1s", "maxBackoff": "2s", "backoffMultiplier": 2,
             "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"]}
    methods = methods_of({"name": [name()], "retryPolicy": retry}).methods
    codes = (Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED)
    assert methods[GET].retry == Retry(attempts=4, codes=codes, base_seconds=0.1, max_seconds=2.0)
    assert methods[BUY].retry is None


def test_a_matching_entry_without_a_retry_policy_turns_retries_off() -> None:
    assert methods_of({"name": [name("Get")], "timeout": "1s"}).methods[GET].retry is None


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        ("{", "not JSON"),
        ([], "[] is not an object"),
        ({"methodConfig": 5}, "methodConfig: 5 is not a list"),
        ({"methodConfig": [{"name": 5}]}, "methodConfig[0].name: 5 is not a list"),
        ({"methodConfig": [{"name": [{"service": 5}], "retryPolicy": {"maxAttempts": 2, "retryableStatusCodes": 5}}]},
         "methodConfig[0].retryPolicy.retryableStatusCodes: 5 is not a list"),
        ({"methodConfig": [{"retryPolicy": {"maxAttempts": 2, "retryableStatusCodes": [{}]}}]},
         "methodConfig[0].retryPolicy.retryableStatusCodes: {} is not one of"),
        ({"methodConfg": []}, "methodConfg: unknown field: did you mean methodConfig?"),
        ({"methodConfig": [{"name": [name()], "timeout": "5"}]}, "methodConfig[0].timeout: '5' is not a duration"),
        ({"methodConfig": [{"name": [name()], "timeout": "0s"}]}, "methodConfig[0].timeout"),
        ({"methodConfig": [{"name": [name()], "timeout": 5}]}, "methodConfig[0].timeout"),
        ({"methodConfig": [{"name": [name("Git")]}]}, "shop.v1.Shop has no method Git"),
        (
            {"methodConfig": [{"name": [name("Get")], "retryPolicy": {"maxAttempts": 6}}]},
            "methodConfig[0].retryPolicy.maxAttempts: 6 is not a number from 2 to 5",
        ),
        (
            {"methodConfig": [{"name": [name("Buy")], "retryPolicy": {"maxAttempts": 2}}]},
            "a retry policy on shop.v1.Shop/Buy",
        ),
        (
            {"methodConfig": [{"name": [name()],
                               "retryPolicy": {"maxAttempts": 2, "retryableStatusCodes": ["NOT_FOUND"]}}]},
            "retryableStatusCodes: 'NOT_FOUND' is not one of",
        ),
        ({"methodConfig": [{"name": []}]}, "methodConfig[0].name: names no method"),
        ({"methodConfig": [{"timeout": "1s"}]}, "methodConfig[0].name: names no method"),
        ({"methodConfig": [{"name": [name("Get")]}, {"name": [name("Buy"), name("Get")]}]},
         "methodConfig[1].name[1]: the same name as methodConfig[0].name[0]"),
        ({"methodConfig": [{"name": [{}, {}]}]}, "methodConfig[0].name[1]: the same name as methodConfig[0].name[0]"),
    ],
)
def test_a_bad_service_config_is_refused_with_the_path_of_the_fault(config: Any, fault: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        compiled("shop", contract(config))
    assert fault in caught.value.message


@pytest.mark.parametrize(("text", "fault"), [
    ("", "empty, not JSON"), (" \n", "empty, not JSON"), ("null", "null is not an object"),
])  # fmt: skip
def test_what_is_no_object_is_refused_in_plain_words(text: str, fault: str) -> None:
    with pytest.raises(InvalidConfig, match=f": {fault}$"):
        parse_service_config(text, PREFIX + "shop")


@pytest.mark.parametrize(("fields", "fault"), [
    ({"backoffMultiplier": "x"}, "backoffMultiplier: 'x' is not a number from 0 to 2147483648"),
    ({"backoffMultiplier": -1}, "backoffMultiplier: -1 is not a number"),
    ({"backoffMultiplier": 0}, "backoffMultiplier: 0 is not more than 0"),
    ({"backoffMultiplier": True}, "backoffMultiplier: true is not a number"),
    ({"initialBackoff": "2s", "maxBackoff": "1.5s"}, "initialBackoff: 2 s are more than maxBackoff, 1.5 s"),
    ({"initialBackoff": "0s"}, "initialBackoff: '0s' is not a duration"),
    ({"maxBackoff": "-1s"}, "maxBackoff: '-1s' is not a duration"),
])  # fmt: skip
def test_a_back_off_that_cannot_be_is_refused(fields: dict[str, Any], fault: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        methods_of({"name": [name()], "retryPolicy": {"maxAttempts": 2, **fields}})
    assert f"methodConfig[0].retryPolicy.{fault}" in caught.value.message


def test_an_operator_names_services_of_the_contract_only() -> None:
    """The file beside a contract may name others: it is often that of a whole package."""
    text = {"methodConfig": [{"name": [{"service": "shop.v1.Shp"}], "timeout": "1s"}]}
    with pytest.raises(InvalidConfig, match=r"there: methodConfig\[0\].name\[0\].service: shop.v1.Shp is not one of"):
        compiled("shop", contract(), parse_service_config(json.dumps(text), "there"))
    assert compiled("shop", contract(text)).methods[GET].timeout_seconds == 5
    health = {"methodConfig": [{"name": [{"service": "grpc.health.v1.Health"}], "timeout": "1s"}]}
    compiled("shop", contract(), parse_service_config(json.dumps(health), "there"))


def test_a_longer_first_pause_without_an_end_is_the_end() -> None:
    retry = {"maxAttempts": 2, "initialBackoff": "4s"}
    held = methods_of({"name": [name()], "retryPolicy": retry}).methods[GET].retry
    assert held
    assert (held.base_seconds, held.max_seconds) == (4, 4)


def test_all_faults_are_told_together() -> None:
    with pytest.raises(InvalidConfig) as caught:
        methods_of({"name": [name()], "timeout": "x", "retryPolicy": {"maxAttempts": 1}, "hedging": {}})
    assert len(caught.value.message.splitlines()) == 3


def parsed(**fields: Any) -> ServiceConfig:
    return parse_service_config(json.dumps(fields), "here")


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        ({"round_robin": {}}, Balancing(source="here")),
        ({"random": {}}, Balancing(kind=Balance.RANDOM, source="here")),
        ({"ring_hash": {"requestHashHeader": "X-User", "minRingSize": 16}},
         Balancing(kind=Balance.RING_HASH, hashed=("x-user",), min_ring_size=16, source="here")),
        ({"ring_hash_experimental": {}}, Balancing(kind=Balance.RING_HASH, source="here")),
        ({"least_request": {"choiceCount": 3}}, Balancing(kind=Balance.LEAST_REQUEST, choices=3, source="here")),
        ({"weighted_round_robin": {"blackoutPeriod": "1s", "errorUtilizationPenalty": 0.5}},
         Balancing(kind=Balance.WEIGHTED_ROUND_ROBIN, blackout_seconds=1, error_penalty=0.5, source="here")),
    ],
)  # fmt: skip
def test_each_policy_of_balancing(config: Any, wanted: Balancing) -> None:
    assert parsed(loadBalancingConfig=[config]).balancing == wanted


def test_the_first_policy_of_balancing_that_is_known_counts() -> None:
    found = parsed(loadBalancingConfig=[{"of_the_future": {}}, {"random": {}}, {"round_robin": {}}]).balancing
    assert found == Balancing(kind=Balance.RANDOM, source="here")


def test_outlier_detection_in_the_words_of_grpc() -> None:
    found = parsed(outlierDetection={
        "interval": "1s", "baseEjectionTime": "2s", "maxEjectionTime": "3s", "maxEjectionPercent": 20,
        "successRateEjection": {"stdevFactor": 1000, "requestVolume": 5},
        "failurePercentageEjection": {"threshold": 50, "minimumHosts": 3}, "consecutiveFailures": 7,
    }).outlier_detection  # fmt: skip
    assert found == OutlierDetection(
        interval_seconds=1, base_ejection_seconds=2, max_ejection_seconds=3, max_ejection_percent=20,
        success_rate=SuccessRate(stdev_factor=1000, request_volume=5),
        failure_percentage=FailurePercentage(threshold=50, minimum_hosts=3),
        consecutive_failures=7, source="here",
    )  # fmt: skip


@pytest.mark.parametrize("key", ["failurePercentageEjection", "successRateEjection"])
def test_what_an_ejection_leaves_unsaid_is_as_where_nothing_is_said(key: str) -> None:
    found = parsed(outlierDetection={key: {}}).outlier_detection
    assert found
    assert found.failure_percentage == (OutlierDetection().failure_percentage if key[0] == "f" else None)
    assert found.success_rate == (SuccessRate() if key[0] == "s" else None)


def test_outlier_detection_without_a_reason_is_off() -> None:
    found = parsed(outlierDetection={}).outlier_detection
    assert found
    assert (found.failure_percentage, found.success_rate, found.consecutive_failures) == (None, None, 0)


def test_limits() -> None:
    assert parsed(circuitBreakers={"maxRequests": 5}).limits == Limits(max_requests=5, source="here")


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        ({"loadBalancingConfig": {}}, "loadBalancingConfig: {} is not a list"),
        ({"loadBalancingConfig": [{"best": {}}]}, "loadBalancingConfig: none is one of least_request"),
        ({"loadBalancingConfig": [{}]}, "loadBalancingConfig[0]: {} is not an object with the name of one policy"),
        ({"loadBalancingConfig": [{"ring_hash": {"header": "x"}}]}, "loadBalancingConfig[0].ring_hash.header: unknown"),
        ({"loadBalancingConfig": [{"ring_hash": {"minRingSize": 9, "maxRingSize": 5}}]},
         "loadBalancingConfig[0].ring_hash.maxRingSize: 5 is not a number from 9"),
        ({"outlierDetection": {"interval": "soon"}}, "outlierDetection.interval: 'soon' is not a duration"),
        ({"outlierDetection": {"failurePercentageEjection": {"threshold": 101}}},
         "outlierDetection.failurePercentageEjection.threshold: 101 is not a number from 0 to 100"),
        ({"outlierDetection": {"baseEjectionTime": "5s", "maxEjectionTime": "4s"}},
         "outlierDetection.maxEjectionTime: 4 s are less than baseEjectionTime, 5 s"),
        ({"outlierDetection": {"interval": "0.0000001s"}}, "outlierDetection.interval: '0.0000001s' is not a duration"),
        ({"outlierDetection": {"interval": "9300000000s"}}, "outlierDetection.interval: '9300000000s' is not a d"),
        ({"loadBalancingConfig": [{"ring_hash": {"requestHashHeader": "a\nb"}}]},
         "loadBalancingConfig[0].ring_hash.requestHashHeader: 'a\\nb' is no name of a header"),
        ({"loadBalancingConfig": [{"ring_hash": {"requestHashHeader": "a-bin"}}]}, "binary metadata cannot be matched"),
        ({"circuitBreakers": {"maxRequests": 0}}, "circuitBreakers.maxRequests: 0 is not a number from 1"),
        ({"circuitBreakers": {"max": 1}}, "circuitBreakers.max: unknown field"),
    ],
)  # fmt: skip
def test_what_else_is_refused(config: Any, fault: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        parsed(**config)
    assert fault in caught.value.message


def test_an_operator_may_let_instances_without_tls_be_called_and_nobody_else() -> None:
    allowed = config(mutualTlsMode="permissive")
    assert policy(kv=allowed).permissive == "mesh/service-config/shop"
    assert policy({"Kind": "service-defaults", "Name": "shop", "MutualTLSMode": "permissive"}).permissive == (
        "service-defaults/shop"
    )
    assert policy(kv=config(mutualTlsMode="strict")).permissive == policy().permissive == ""
    with pytest.raises(InvalidConfig, match="is for operators"):
        policy(published={"mutualTlsMode": "permissive"})
    with pytest.raises(InvalidConfig, match="'none' is not one of strict, permissive"):
        config(mutualTlsMode="none")
