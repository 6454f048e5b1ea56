"""Deadlines and retries: the defaults, the service config over them, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto, MethodOptions

from mesh.contract import Contract
from mesh.errors import Code, InvalidConfig
from mesh.policy import MethodPolicy, Policy, Retry, effective

SERVICE = "shop.v1.Shop"
GET, BUY, WATCH = (f"/{SERVICE}/{name}" for name in ("Get", "Buy", "Watch"))


def contract(config: Any = None) -> Contract:
    file = FileDescriptorProto(name="shop.proto", package="shop.v1")
    service = file.service.add(name="Shop")
    service.method.add(name="Get").options.idempotency_level = MethodOptions.NO_SIDE_EFFECTS
    service.method.add(name="Buy")
    service.method.add(name="Watch", server_streaming=True).options.idempotency_level = MethodOptions.NO_SIDE_EFFECTS
    text = config if isinstance(config, str) else json.dumps(config) if config is not None else ""
    return Contract.of([SERVICE], [file], text)


def policy(*method_config: Any) -> Policy:
    return effective(contract({"methodConfig": list(method_config)}))


def name(method: str = "") -> dict[str, str]:
    return {"service": SERVICE, "method": method} if method else {"service": SERVICE}


def test_without_a_service_config_the_defaults_hold() -> None:
    methods = effective(contract()).methods
    assert methods[GET] == MethodPolicy(timeout_seconds=5.0, retry=Retry(), unary=True)
    assert methods[BUY] == MethodPolicy(timeout_seconds=5.0, retry=None, unary=True)
    assert methods[WATCH] == MethodPolicy(timeout_seconds=None, retry=Retry())


def test_the_default_retry_is_three_attempts_on_unavailable() -> None:
    assert Retry() == Retry(attempts=3, codes=(Code.UNAVAILABLE,), base_seconds=0.05, max_seconds=1.0)


def test_the_most_exact_name_wins_whatever_the_order() -> None:
    exact, whole = {"name": [name("Get")], "timeout": "2s"}, {"name": [name()], "timeout": "9s"}
    for entries in ((exact, whole), (whole, exact)):
        methods = policy(*entries, {"name": [{}], "timeout": "1s"}).methods
        assert methods[GET].timeout_seconds == 2
        assert methods[BUY].timeout_seconds == 9


def test_a_retry_for_the_whole_service_reaches_idempotent_methods_only() -> None:
    retry = {"maxAttempts": 4, "initialBackoff": "0.1s", "maxBackoff": "2s", "backoffMultiplier": 2,
             "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"]}
    methods = policy({"name": [name()], "retryPolicy": retry}).methods
    codes = (Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED)
    assert methods[GET].retry == Retry(attempts=4, codes=codes, base_seconds=0.1, max_seconds=2.0)
    assert methods[BUY].retry is None


def test_a_matching_entry_without_a_retry_policy_turns_retries_off() -> None:
    assert policy({"name": [name("Get")], "timeout": "1s"}).methods[GET].retry is None


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        ("{", "not JSON"),
        ([], "service config: [] is not an object"),
        ({"methodConfig": None}, "methodConfig: None is not a list"),
        ({"methodConfig": [{"name": 5}]}, "methodConfig[0].name: 5 is not a list"),
        ({"methodConfig": [{"name": [{"service": 5}], "retryPolicy": {"maxAttempts": 2, "retryableStatusCodes": 5}}]},
         "methodConfig[0].retryPolicy.retryableStatusCodes: 5 is not a list"),
        ({"methodConfig": [{"retryPolicy": {"maxAttempts": 2, "retryableStatusCodes": [{}]}}]},
         "methodConfig[0].retryPolicy.retryableStatusCodes: {} is not one of"),
        ({"methodConfg": []}, "service config.methodConfg: unknown field"),
        ({"methodConfig": [{"name": [name()], "timeout": "5"}]}, "methodConfig[0].timeout: '5' is not a positive"),
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
    ],
)
def test_a_bad_service_config_is_refused_with_the_path_of_the_fault(config: Any, fault: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        effective(contract(config))
    assert fault in caught.value.message


def test_all_faults_are_told_together() -> None:
    with pytest.raises(InvalidConfig) as caught:
        policy({"name": [name()], "timeout": "x", "retryPolicy": {"maxAttempts": 1}, "hedging": {}})
    assert len(caught.value.message.splitlines()) == 3
