"""Nothing breaks while it changes: instances come and go by the hundred, canaries too, and no call fails."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from contextlib import suppress
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pool as pool
from google.protobuf.descriptor_pb2 import FileDescriptorSet

import mesh
from mesh.scope import Scope
from tests.faults.conftest import RATE, Load, started
from tests.fixtures.echo import unary_unary
from tests.fixtures.operator import Operator, operator_of
from tests.fixtures.shop import BUY, Host, get, shop_descriptors
from tests.integration.gateway.harness import Edge

pytestmark = pytest.mark.timeout(240)

CHANGES = 1_000
EVERY_SECONDS = 0.045
AT_ONCE = 40
"""Instances that come and go side by side, at most: each takes about two seconds, and they share a process."""

ENOUGH_SECONDS = 50.0
"""Where the machine is too slow for all the changes, half of them are enough."""

LOOK_SECONDS = 0.02

SUBSETS = {f"v{n}": {"Filter": f"Service.Meta.version == {n}"} for n in (1, 2)}
DRAIN_SECONDS = 30.0


async def test_no_call_fails_while_instances_and_canaries_come_and_go(
    dev_host: Host, edge: Edge, service: str
) -> None:
    pool.Default().AddSerializedFile(FileDescriptorSet.FromString(shop_descriptors()).file[0].SerializeToString())
    for version in ("1", "2"):
        await dev_host.shop(service, meta={"version": version})
    environ = {**os.environ, "GRPC_XDS_BOOTSTRAP": str(dev_host.bootstrap)}
    command = "tests.faults.shop_load", str(edge.port), service, str(RATE)
    rounds: list[float] = []
    await served_by(edge, service)
    async with operator_of(dev_host.registry) as operator, Scope() as scope, started(environ, *command) as load:
        scope.start(load.read())
        await operator.config(service, methodConfig=[{"name": [{}], "timeout": f"{DRAIN_SECONDS:g}s"}])
        await load.more(RATE)
        canaries = scope.start(canary_for_ever(operator, service, rounds))
        seen, seconds = await churn(dev_host, service, load)
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


async def churn(dev_host: Host, service: str, load: Load) -> tuple[list[int], float]:
    """Instances that come and go until there were enough; how many calls each answered, and in how many seconds.

    The next one comes when the calls go on: a machine that is too slow for all this gets fewer of them, not more to do.
    """
    began, open_at_once = time.monotonic(), asyncio.Semaphore(AT_ONCE)
    calls: list[int] = []

    async def one(number: int) -> None:
        async with open_at_once:
            calls.append(await come_and_go(dev_host, service, f"{service}-{number}", version=str(1 + number % 2)))

    async with asyncio.TaskGroup() as group:
        for number in range(CHANGES):
            if number >= CHANGES / 2 and time.monotonic() > began + ENOUGH_SECONDS:
                break
            await asyncio.sleep(max(0.0, began + number * EVERY_SECONDS - time.monotonic()))
            await load.in_time()
            await in_time()
            group.create_task(one(number))
    return calls, time.monotonic() - began


async def in_time() -> None:
    """Until the loop that all these servers share is not late."""
    late = True
    while late:
        since = time.monotonic()
        await asyncio.sleep(LOOK_SECONDS)
        late = time.monotonic() - since > 3 * LOOK_SECONDS


async def come_and_go(dev_host: Host, service: str, name: str, version: str) -> int:
    """One instance: it joins, serves, leaves and drains as programs of the mesh do; the calls it answered."""
    calls = 0

    async def answer(request: bytes, context: Any) -> bytes:
        nonlocal calls
        calls += 1
        return b""

    def offer(server: mesh.Server) -> None:
        shop, _, method = BUY.strip("/").partition("/")
        server.add_registered_method_handlers(shop, {method: unary_unary(answer)})

    meta = {"version": version}
    async with dev_host.serving(service, offer, name, grace_seconds=DRAIN_SECONDS, meta=meta) as instance:
        await instance.leave()
    return calls
