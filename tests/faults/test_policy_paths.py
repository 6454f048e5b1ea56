"""What a policy does on each path to a service, where that takes seconds by its nature; the rest of it is in
tests/integration/test_policy_paths.py."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from mesh.errors import Code
from tests.fixtures.callers import Caller
from tests.fixtures.consul import RegistryProcess, dev_process, running
from tests.fixtures.operator import Operator
from tests.fixtures.shop import BUY, Host, until
from tests.integration.test_policy_paths import ROUNDING_SECONDS, hang, own_zone_comes_first


@pytest.fixture(scope="module")
def dev_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryProcess]:
    """One in which nobody else publishes the same contract."""
    yield from running(dev_process(tmp_path_factory.mktemp("dev")))


LIMITS = {"50ms": 0.05, "500ms": 0.5, "3s": 3.0}


@pytest.mark.parametrize("client", ["node", "envoy", "go"], indirect=True)
async def test_deadlines_by_xds_are_never_early(client: Caller, dev_host: Host, operator: Operator) -> None:
    """Those of `mesh.channel` have tests of their own, and Python's own gRPC has none. (Go: with a process's start.)"""
    service = "shop"
    await dev_host.shop(service, hang)
    headers = {text: {"x-limit": text} for text in LIMITS}
    await operator.entry("service-router", service, Routes=[
        {"Match": {"HTTP": {"Header": [{"Name": "x-limit", "Exact": text}]}}, "Destination": {"RequestTimeout": text}}
        for text in LIMITS
    ])  # fmt: skip

    async def is_in_force() -> bool:
        outcome = await client.call(service, BUY, seconds=2, headers=headers["50ms"])
        return outcome.code == Code.DEADLINE_EXCEEDED and outcome.seconds < 1.5

    await until(is_in_force)
    asked = [client.call(service, BUY, seconds=None, headers=headers[text]) for text in LIMITS]
    outcomes = await asyncio.gather(*asked)
    assert [outcome.code for outcome in outcomes] == [Code.DEADLINE_EXCEEDED] * len(LIMITS), outcomes
    for outcome, limit in zip(outcomes, LIMITS.values(), strict=True):
        assert outcome.seconds >= limit - ROUNDING_SECONDS, outcomes


async def test_the_own_zone_comes_first_for_go(
    dev_registry: RegistryProcess, short_tmp: Path
) -> None:
    await own_zone_comes_first("go", dev_registry.address, short_tmp)
