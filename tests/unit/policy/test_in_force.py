"""What stays in force while something published is invalid, and that nothing is compiled twice."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto, MethodOptions

from mesh.contract import Contract
from mesh.policy import NOTHING, Retry
from mesh.policy_in_force import PoliciesInForce
from tests.unit.policy.tables import BUY, GET, SERVICE, config, contract, entries, resolver, route, router

SLOW = {"methodConfig": [{"name": [{"service": SERVICE}], "timeout": "9s"}]}
OFTEN = config(methodConfig=[{
    "name": [{"service": SERVICE, "method": "Get"}],
    "retryPolicy": {"maxAttempts": 5, "retryableStatusCodes": ["UNAVAILABLE"]},
}])  # fmt: skip
ON_BUY = config(methodConfig=[{"name": [{"service": SERVICE, "method": "Buy"}], "retryPolicy": {"maxAttempts": 2}}])
LOST = route(ServiceSubset="v9")
UNKNOWN = config(methodConfig=[{"name": [{"service": SERVICE, "method": "Sell"}]}])


def test_the_last_good_policy_stays_and_the_fault_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    policies = PoliciesInForce()
    good = policies.of("shop", contract(SLOW))
    for _ in range(3):
        assert policies.of("shop", contract(SLOW), UNKNOWN) is good
    assert caplog.text.count("shop.v1.Shop has no method Sell") == 1
    (told,) = policies.problems["shop"]
    assert told == ("mesh/service-config/shop", "methodConfig[0].name[0]: shop.v1.Shop has no method Sell")
    assert "mesh/service-config/shop is not in force, and what was last good there holds" in caplog.text
    assert policies.of("shop", contract(SLOW)) == good
    assert not policies.problems


def test_without_a_good_one_what_is_weaker_holds() -> None:
    found = PoliciesInForce().of("shop", contract(SLOW), UNKNOWN)
    assert found.methods[GET].timeout_seconds == 9
    found = PoliciesInForce().of("shop", contract("{"))
    assert (found.methods[GET].timeout_seconds, found.methods[GET].retry is None) == (5, False)
    assert found.methods[BUY].retry is None


def test_what_held_before_a_restart_holds_while_what_is_published_is_bad() -> None:
    before = PoliciesInForce()
    before.of("shop", contract(SLOW), OFTEN, entries(resolver(ConnectTimeout="3s")))
    said = before.said("shop")
    assert said
    after = PoliciesInForce({"shop": said})
    found = after.of("shop", contract("{"), ON_BUY, entries(resolver(ConnectTimeout="9s"), router(LOST)))
    assert len(after.problems["shop"]) == 3
    assert found.methods[GET].retry == Retry(attempts=5)
    assert found.methods[BUY].timeout_seconds == 9
    assert found.destinations[""].connect_timeout_seconds == 3
    assert after.said("shop") == said


def test_a_fault_in_one_place_holds_up_no_other() -> None:
    policies = PoliciesInForce()
    policies.of("shop", contract(SLOW), OFTEN)
    found = policies.of("shop", contract(), ON_BUY, entries(resolver(ConnectTimeout="9s")))
    assert found.methods[GET].retry == Retry(attempts=5)
    assert found.methods[BUY].timeout_seconds == 5
    assert found.destinations[""].connect_timeout_seconds == 9
    found = policies.of("shop", contract(SLOW), OFTEN, entries(router(LOST)))
    assert found.methods[BUY].timeout_seconds == 9
    assert found.destinations[""].connect_timeout_seconds == 9


def newer(published: Any = None) -> Contract:
    """The next version of the shop: without Watch, with Sell, and Get may not be sent again any more."""
    file = FileDescriptorProto(name="shop.proto", package="shop.v1")
    service = file.service.add(name="Shop")
    for name in ("Get", "Buy"):
        service.method.add(name=name)
    service.method.add(name="Sell").options.idempotency_level = MethodOptions.IDEMPOTENT
    return Contract.of([SERVICE], [file], json.dumps(published) if published else "")


@pytest.mark.parametrize("restarted", [False, True])
def test_under_a_new_contract_what_an_operator_said_is_safe_and_the_rest_of_it_holds(restarted: bool) -> None:
    """The config names a method that is gone, and lets one be sent again that may not be any more."""
    retry = {"maxAttempts": 5, "retryableStatusCodes": ["UNAVAILABLE"]}
    often = {"name": [{"service": SERVICE, "method": "Get"}], "timeout": "7s", "retryPolicy": retry}
    known = config(methodConfig=[often, {"name": [{"service": SERVICE, "method": "Watch"}], "timeout": "60s"}])
    policies = PoliciesInForce()
    assert policies.of("shop", contract(SLOW), known).methods[GET].retry == Retry(attempts=5)
    said = policies.said("shop")
    assert said
    if restarted:
        policies = PoliciesInForce({"shop": said})
    found = policies.of("shop", newer({"methodConfig": [{"name": [{}], "timeout": "8s"}]}), known)
    assert list(found.methods) == [GET, BUY, f"/{SERVICE}/Sell"]
    assert (found.methods[GET].timeout_seconds, found.methods[GET].retry) == (7, None)
    sell = found.methods[f"/{SERVICE}/Sell"]
    assert (sell.timeout_seconds, sell.retry) == (8, None)
    assert [("Watch" in text, "Get" in text) for _, text in policies.problems["shop"]] == [(False, True), (True, False)]


def test_entries_of_other_services_change_nothing() -> None:
    policies, published = PoliciesInForce(), contract()
    here = router(route(path=GET, Service="b"))
    before = policies.of("shop", published, NOTHING, entries(here))
    assert policies.of("shop", published, NOTHING, entries(here, resolver("z", ConnectTimeout="1s"))) is before
    assert policies.of("shop", published, NOTHING, entries(here, resolver("b", Redirect={"Service": "c"}))) != before
