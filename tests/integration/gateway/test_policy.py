"""Policy that an operator sets while calls run, through a real Envoy."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from tests.fixtures.operator import Operator, operator_of
from tests.fixtures.shop import until
from tests.integration.gateway.harness import Edge
from tests.integration.gateway.probe import SERVICE

THING = "/probe/things/a"
SUBSETS = {name: {"Filter": f"Service.ID == {name}"} for name in ("probe-1", "probe-2")}
NOWHERE = {"nowhere": {"Filter": "Service.ID == nobody"}}


@pytest.fixture
async def operator(edge: Edge) -> AsyncIterator[Operator]:
    """Whoever sets policy in the registry of the edge; afterwards the edge is as it was."""
    async with operator_of(edge.registry) as made:
        yield made
    await until(lambda: sees(edge, {"probe-1", "probe-2"}))
    await until(budget_is(edge, 1.5))


def answered(edge: Edge, path: str = THING, **headers: str) -> str:
    """Who answered a call."""
    answer = edge.get(path, **headers)
    return str(answer.json["metadata"]["instance"]) if answer.status == 200 else f"status {answer.status}"


async def sees(edge: Edge, names: set[str], **headers: str) -> bool:
    return {answered(edge, **headers) for _ in range(8)} == names


def budget_is(edge: Edge, seconds: float) -> Callable[[], Awaitable[bool]]:
    """Whether a call has this deadline, as the service sees it."""

    async def check() -> bool:
        return bool(0 < seconds - edge.get(THING).json["budgetSeconds"] < 0.4)

    return check


def attempts(edge: Edge) -> int:
    """How often the service saw one call that it does not take."""
    def count() -> int:
        return sum(probe.output().count("attempt ") for probe in edge.probes)

    before = count()
    assert edge.get("/probe/things/down").status == 503
    return count() - before


async def test_deadlines_and_retries_follow(edge: Edge, operator: Operator) -> None:
    await until(budget_is(edge, 1.5))
    assert attempts(edge) == 3
    names = [{"service": SERVICE, "method": "GetThing"}]
    await operator.config("probe", methodConfig=[{"name": names, "timeout": "4s"}])
    await until(budget_is(edge, 4))
    assert attempts(edge) == 1
    await operator.entry("service-router", "probe", Routes=[{"Destination": {"RequestTimeout": "3s", "NumRetries": 4}}])
    await until(budget_is(edge, 3))
    assert attempts(edge) == 5


async def test_headers_and_weights_lead_to_subsets(edge: Edge, operator: Operator) -> None:
    await operator.entry("service-resolver", "probe", Subsets=SUBSETS, DefaultSubset="probe-1")
    await until(lambda: sees(edge, {"probe-1"}))
    match = {"HTTP": {"Header": [{"Name": "x-canary", "Exact": "yes"}]}}
    routes = [{"Match": match, "Destination": {"ServiceSubset": "probe-2"}}]
    await operator.entry("service-router", "probe", Routes=routes)
    await until(lambda: sees(edge, {"probe-2"}, **{"x-canary": "yes"}))
    assert await sees(edge, {"probe-1"})
    splits = [{"Weight": 70, "ServiceSubset": "probe-1"}, {"Weight": 30, "ServiceSubset": "probe-2"}]
    await operator.entry("service-splitter", "probe", Splits=splits)

    async def are_split() -> bool:
        seen = Counter([answered(edge) for _ in range(200)])
        return seen.keys() == SUBSETS.keys() and abs(seen["probe-2"] - 60) < 36  # more than five sigma

    await until(are_split)


async def test_calls_fail_over_when_a_target_has_no_instance(edge: Edge, operator: Operator) -> None:
    await operator.entry("service-resolver", "probe", Subsets={**SUBSETS, **NOWHERE}, DefaultSubset="nowhere")
    await until(lambda: sees(edge, {"status 503"}))
    failover = {"nowhere": {"ServiceSubset": "probe-2"}}
    await operator.entry(
        "service-resolver", "probe", Subsets={**SUBSETS, **NOWHERE}, DefaultSubset="nowhere", Failover=failover
    )
    await until(lambda: sees(edge, {"probe-2"}))


async def test_the_same_header_meets_the_same_instance(edge: Edge, operator: Operator) -> None:
    await operator.config("probe", loadBalancingConfig=[{"ring_hash": {"requestHashHeader": "x-user"}}])

    async def are_sticky() -> bool:
        homes = [{answered(edge, **{"x-user": f"user-{number}"}) for _ in range(2)} for number in range(20)]
        return all(len(home) == 1 for home in homes) and len(set().union(*homes)) == 2

    await until(are_sticky)
