"""What stays in force while something published is invalid, and that nothing is compiled twice."""

from __future__ import annotations

import pytest

from mesh.policy import NOTHING
from mesh.policy_in_force import PoliciesInForce
from tests.unit.policy.tables import BUY, GET, SERVICE, config, contract, entries, resolver, route, router

SLOW = {"methodConfig": [{"name": [{"service": SERVICE}], "timeout": "9s"}]}
UNKNOWN = config(methodConfig=[{"name": [{"service": SERVICE, "method": "Sell"}]}])


def test_the_last_good_policy_stays_and_the_fault_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    policies = PoliciesInForce()
    good = policies.of("shop", contract(SLOW))
    for _ in range(3):
        assert policies.of("shop", contract(SLOW), UNKNOWN) is good
    assert caplog.text.count("shop.v1.Shop has no method Sell") == 1
    assert policies.problems["shop"].startswith("mesh/service-config/shop: methodConfig[0].name[0]")
    assert policies.of("shop", contract(SLOW)) == good
    assert not policies.problems


def test_without_a_good_one_the_contract_holds_and_without_that_the_defaults() -> None:
    found = PoliciesInForce().of("shop", contract(SLOW), UNKNOWN)
    assert found.methods[GET].timeout_seconds == 9
    found = PoliciesInForce().of("shop", contract("{"))
    assert (found.methods[GET].timeout_seconds, found.methods[GET].retry is None) == (5, False)
    assert found.methods[BUY].retry is None


def test_entries_of_other_services_change_nothing() -> None:
    policies, published = PoliciesInForce(), contract()
    here = router(route(path=GET, Service="b"))
    before = policies.of("shop", published, NOTHING, entries(here))
    assert policies.of("shop", published, NOTHING, entries(here, resolver("z", ConnectTimeout="1s"))) is before
    assert policies.of("shop", published, NOTHING, entries(here, resolver("b", Redirect={"Service": "c"}))) != before
