"""What a policy does on each path to a service: gRPC's own channel, Node.js, and a real Envoy. Those for Go are where
grpcurl, which makes a channel for each call, can tell."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from opentelemetry.trace import SpanKind

import mesh
from mesh.errors import Code
from meshwright.sidecar.v1 import sidecar_service_pb2 as pb
from tests.fixtures.callers import Caller, Outcome
from tests.fixtures.consul import RegistryProcess, dev_process, running
from tests.fixtures.echo import unary_unary
from tests.fixtures.operator import Operator
from tests.fixtures.shop import BUY, GET, Host, joined, shop_descriptors, until
from tests.fixtures.spans import Spans

SERVICE = "shop.v1.Shop"
Context = grpc.aio.ServicerContext[Any, Any]

on_each_path = pytest.mark.parametrize("client", ["python", "node", "envoy"], indirect=True)
on_each_path_and_go = pytest.mark.parametrize("client", ["python", "node", "envoy", "go"], indirect=True)


@pytest.fixture(scope="module")
def dev_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryProcess]:
    """One that nobody else publishes contracts in: the edge takes one service of a name."""
    yield from running(dev_process(tmp_path_factory.mktemp("dev")))


async def at_once(client: Caller, service: str, calls: int, path: str = BUY) -> list[Outcome]:
    """So many calls side by side."""
    return await asyncio.gather(*(client.call(service, path, seconds=30) for _ in range(calls)))


async def meets(client: Caller, service: str, *names: str) -> bool:
    """Whether these, and no others, answer."""
    return {outcome.text for outcome in await at_once(client, service, 6 * len(names))} == set(names)


@on_each_path
async def test_no_more_calls_than_the_limit_are_open_at_once(
    client: Caller, dev_host: Host, operator: Operator, service: str
) -> None:
    may_go_on = asyncio.Event()

    async def wait(context: Context) -> bytes:
        await may_go_on.wait()
        return b""

    shop = await dev_host.shop(service, wait)
    await operator.config(service, circuitBreakers={"maxRequests": 2})

    async def third_fails() -> bool:
        calls = [asyncio.create_task(client.call(service, BUY)) for _ in range(3)]
        done, _ = await asyncio.wait(calls, timeout=1, return_when=asyncio.FIRST_COMPLETED)
        may_go_on.set()
        codes = sorted(outcome.code for outcome in await asyncio.gather(*calls))
        may_go_on.clear()
        return bool(done) and codes == [Code.OK, Code.OK, Code.UNAVAILABLE]

    await until(third_fails)
    assert shop.shop.calls >= 2


@on_each_path
async def test_an_instance_that_fails_is_left_out_until_it_works_again(
    client: Caller, dev_host: Host, operator: Operator, service: str
) -> None:
    is_broken = True

    async def answer(context: Context) -> bytes:
        if is_broken:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "not today")
        return StringValue(value=bad.id).SerializeToString()

    good, bad = await dev_host.named_shop(service), await dev_host.shop(service, answer)
    ejection = {"threshold": 50, "minimumHosts": 2, "requestVolume": 3}
    outlier = {"interval": "0.1s", "baseEjectionTime": "1s", "failurePercentageEjection": ejection}
    await operator.config(service, outlierDetection=outlier)
    await until(lambda: _fails(client, service))
    await until(lambda: meets(client, service, good.id))
    is_broken = False
    await until(lambda: meets(client, service, good.id, bad.id))


@on_each_path
async def test_the_same_header_meets_the_same_instance_and_most_do_when_one_leaves(
    client: Caller, dev_host: Host, operator: Operator, service: str
) -> None:
    shops = [await dev_host.named_shop(service) for _ in range(3)]
    await operator.config(service, loadBalancingConfig=[{"ring_hash": {"requestHashHeader": "x-user"}}])
    users = [f"user-{number}" for number in range(60)]

    async def homes() -> dict[str, set[str]]:
        asked = [client.call(service, headers={"x-user": user}) for user in (*users, *users)]
        found = [outcome.text for outcome in await asyncio.gather(*asked)]
        return {user: {one, other} for user, one, other in zip(users, found, found[60:], strict=True)}

    async def are(names: set[str]) -> bool:
        found = await homes()
        return all(len(home) == 1 for home in found.values()) and set().union(*found.values()) == names

    await until(lambda: are({shop.id for shop in shops}))
    before = await homes()
    await shops[0].leave()
    await until(lambda: are({shop.id for shop in shops[1:]}))
    after = await homes()
    stayed = [user for user, home in before.items() if home != {shops[0].id}]
    moved = [user for user in stayed if before[user] != after[user]]
    assert len(moved) < 0.4 * len(stayed)  # about a sixth, as the ring has more points for each of two than of three


@on_each_path
async def test_calls_follow_a_redirect(client: Caller, dev_host: Host, operator: Operator, service: str) -> None:
    other = f"{service}-new"
    old, new = await dev_host.named_shop(service), await dev_host.named_shop(other)
    await until(lambda: meets(client, service, old.id))
    await operator.entry("service-resolver", service, Redirect={"Service": other})
    await until(lambda: meets(client, service, new.id))


CALLS = 200


@pytest.mark.parametrize("client", ["envoy"], indirect=True)
async def test_retries_at_the_edge_are_a_fifth_of_the_calls_in_hand_when_everything_fails(
    client: Caller, dev_host: Host, operator: Operator, service: str
) -> None:
    """All first attempts fail at once, and what is sent again stays: without a budget it would be all of them."""
    may_fail, may_end, attempts = asyncio.Event(), asyncio.Event(), Latest[Counter[int]](Counter())

    async def fail(context: Context) -> bytes:
        count = int(dict(context.invocation_metadata() or ())["x-envoy-attempt-count"])
        attempts.set(attempts.value + Counter([count]))
        await (may_fail if count == 1 else may_end).wait()
        return await unavailable(context)

    await dev_host.shop(service, fail)
    retry = {"maxAttempts": 5, "initialBackoff": "0.001s", "retryableStatusCodes": ["UNAVAILABLE"]}
    config = {"name": [{"service": SERVICE, "method": "Get"}], "timeout": "90s", "retryPolicy": retry}
    await operator.config(service, methodConfig=[config], outlierDetection={})
    await until(lambda: _has_budget(client, service, may_fail, may_end))
    ...
