"""Nothing breaks while it changes: instances come and go by the hundred, canaries too, and no call fails."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress

import grpc
import pytest

from mesh.scope import Scope
from tests.faults.conftest import RATE, Load, started
from tests.faults.shop_churn import DRAIN_SECONDS, Churn, churning
from tests.fixtures.operator import Operator, operator_of
from tests.fixtures.shop import BUY, Host, get
from tests.integration.gateway.harness import Edge

pytestmark = pytest.mark.timeout(240)

CHANGES = 1_000
EVERY_SECONDS = 0.045
AT_ONCE = 100
"""Instances that come and go side by side, at most: each takes about two seconds."""

PROCESSES = 2
"""Which they share: one loop alone is too slow to be that of so many servers."""

ENOUGH_SECONDS = 50.0
"""Where the machine is too slow for all the changes, half of them are enough."""

SUBSETS = {f"v{n}": {"Filter": f"Service.Meta.version == {n}"} for n in (1, 2)}


async def test_no_call_fails_while_instances_and_canaries_come_and_go(
    dev_host: Host, edge: Edge, service: str
) -> None:
    for version in ("1", "2"):
        await dev_host.shop(service, meta={"version": version})
    environ = {**os.environ, "GRPC_XDS_BOOTSTRAP": str(dev_host.bootstrap)}
    command = "tests.faults.shop_load", str(edge.port), service, str(RATE)
    rounds: list[float] = []
    await served_by(edge, service)
    async with (
        operator_of(dev_host.registry) as operator, Scope() as scope, AsyncExitStack() as stack,
        started(environ, *command) as load,
    ):
        scope.start(load.read())
        churns = [await stack.enter_async_context(churning(dev_host, service)) for _ in range(PROCESSES)]
        await operator.config(service, methodConfig=[{"name": [{}], "timeout": f"{DRAIN_SECONDS:g}s"}])
        await load.more(RATE)
        canaries = scope.start(canary_for_ever(operator, service, rounds))
        seen, seconds = await churn(dev_host, service, load, churns)
        canaries.cancel()
        await load.more(RATE)
        await load.end()
    print(f"{len(seen)} instances in {seconds:.0f} s, {sum(seen)} calls answered by them, {len(rounds)} canaries")
    print(load.totals.value)
    assert Counter((failure["path"], failure["error"]) for failure in load.failures) == {}
    assert len(seen) >= CHANGES / 2
    assert sum(seen) > RATE
    assert rounds


async def served_by(edge: Edge, service: str) -> None:
    """Until the edge knows the service and has instances of it."""
    async with asyncio.timeout(60), grpc.aio.insecure_channel(f"127.0.0.1:{edge.port}") as channel:
        while True:
            with suppress(grpc.aio.AioRpcError):
                await get(channel, BUY)
                return
            await asyncio.sleep(0.1)


async def canary_for_ever(operator: Operator, service: str, rounds: list[float]) -> None:
    """From nothing to all and back, again and again, with clusters that come and go."""
    while True:
        began = time.monotonic()
        await operator.entry("service-resolver", service, Subsets=SUBSETS, DefaultSubset="v1")
        for share in (0, 1, 50, 100, 50, 0):
            splits = [{"Weight": 100 - share, "ServiceSubset": "v1"}, {"Weight": share, "ServiceSubset": "v2"}]
            await operator.entry("service-splitter", service, Splits=splits)
            await asyncio.sleep(0.2)
        await operator.remove("service-splitter", service)
        await operator.remove("service-resolver", service)
        await asyncio.sleep(0.2)
        rounds.append(time.monotonic() - began)


async def churn(dev_host: Host, service: str, load: Load, churns: Sequence[Churn]) -> tuple[list[int], float]:
    """Instances that come and go until there were enough; how many calls each answered, and in how many seconds.

    The next one comes when the calls go on: a machine that is too slow for all this gets fewer of them, not more to do.
    """
    began, open_at_once = time.monotonic(), asyncio.Semaphore(AT_ONCE)
    calls: list[int] = []

    async def one(number: int) -> None:
        name = f"{service}-{number}"
        dev_host.instances.add(name)
        async with open_at_once:
            calls.append(await churns[number % len(churns)].come_and_go(name, version=1 + number // 2 % 2))

    async with asyncio.TaskGroup() as group:
        for number in range(CHANGES):
            if time.monotonic() > began + ENOUGH_SECONDS:
                break
            await asyncio.sleep(max(0.0, began + number * EVERY_SECONDS - time.monotonic()))
            await load.in_time()
            group.create_task(one(number))
    return calls, time.monotonic() - began
