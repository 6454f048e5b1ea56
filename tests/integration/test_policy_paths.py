"""What a policy does on each path to a service: gRPC's own channel, Node.js, and a real Envoy. Those for Go are where
grpcurl, which makes a channel for each call, can tell."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from opentelemetry.trace import SpanKind

import mesh
from mesh.errors import Code
from mesh.latest import Latest
from meshwright.sidecar.v1 import sidecar_service_pb2 as pb
from tests.fixtures.callers import Caller, Outcome
from tests.fixtures.consul import RegistryProcess, dev_process, running
from tests.fixtures.echo import unary_unary
from tests.fixtures.operator import Operator
from tests.fixtures.shop import BUY, GET, Attached, Host, joined, shop_descriptors, until
from tests.fixtures.spans import Spans

SERVICE = "shop.v1.Shop"
Context = grpc.aio.ServicerContext[Any, Any]

on_each_path = pytest.mark.parametrize("client", ["python", "node", "envoy"], indirect=True)


@pytest.fixture(scope="module")
def dev_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryProcess]:
    """One in which nobody else publishes the same contract."""
    yield from running(dev_process(tmp_path_factory.mktemp("dev")))


@pytest.fixture
def service() -> str:
    """One name for all tests: the edge holds a service that left for a while, and lets nobody else have its methods."""
    return "shop"


async def unavailable(context: Any) -> bytes:
    await context.abort(grpc.StatusCode.UNAVAILABLE, "not today")
    return b""


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

    may_go_on.set()
    shop = await dev_host.shop(service, wait)
    await operator.config(service, circuitBreakers={"maxRequests": 2})
    await until(lambda: _succeeds(client, service))
    may_go_on.clear()

    async def third_fails() -> bool:
        """Once two are open: Node.js counts a call when it has begun, and so lets in what begins together."""
        before = shop.shop.calls
        calls = [asyncio.create_task(client.call(service, BUY)) for _ in range(2)]
        await until(lambda: _have_come(shop, before + 2))
        third = await client.call(service, BUY, seconds=1)
        may_go_on.set()
        assert [outcome.code for outcome in await asyncio.gather(*calls)] == [Code.OK] * 2
        may_go_on.clear()
        return third.code == Code.UNAVAILABLE

    await until(third_fails)


@on_each_path
async def test_an_instance_that_fails_is_left_out_until_it_works_again(
    client: Caller, dev_host: Host, operator: Operator, service: str
) -> None:
    is_broken = True

    async def answer(context: Context) -> bytes:
        if is_broken:
            await unavailable(context)
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
        return {user: {one, other} for user, one, other in zip(users, found[:60], found[60:], strict=True)}

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


AT_ONCE, BUDGET, ALWAYS = 200, 0.2, 20
"""Calls in hand, and how many of them Envoy may be sending again: this share, or this number if that is more."""


@pytest.mark.parametrize("client", ["envoy"], indirect=True)
async def test_retries_at_the_edge_stay_within_their_budget_when_everything_fails(
    client: Caller, dev_host: Host, service: str
) -> None:
    """All first attempts fail at once, and what is sent again stays: without a budget that would be all of them."""
    may_fail, may_end, came = asyncio.Event(), asyncio.Event(), Latest[Counter[int]](Counter())

    async def fail(context: Context) -> bytes:
        said = dict(context.invocation_metadata() or ())
        attempt = int(said["x-envoy-attempt-count"])
        if "x-ready" in said:
            return StringValue(value=str(attempt)).SerializeToString()
        came.set(came.value + Counter([attempt]))
        await (may_fail if attempt == 1 else may_end).wait()
        return await unavailable(context)

    async def is_ready() -> bool:
        asked = [client.call(service, headers={"x-ready": "?"}) for _ in range(8)]
        return {outcome.text for outcome in await asyncio.gather(*asked)} == {"1"}

    retry = {"maxAttempts": 5, "initialBackoff": "0.001s", "maxBackoff": "0.01s", "backoffMultiplier": 2,
             "retryableStatusCodes": ["UNAVAILABLE"]}
    method = {"name": [{"service": SERVICE, "method": "Get"}], "timeout": "90s", "retryPolicy": retry}
    config = {"methodConfig": [method], "outlierDetection": {}}
    await dev_host.shop(service, fail, service_config=json.dumps(config))
    await until(is_ready)
    calls = [asyncio.create_task(client.call(service, GET, seconds=60)) for _ in range(AT_ONCE)]
    await _until(came, lambda: came.value[1] == AT_ONCE)
    may_fail.set()
    await until(lambda: _all_failed_but(calls, came))
    assert ALWAYS <= came.value[2] <= BUDGET * AT_ONCE, came.value
    may_end.set()
    assert {outcome.code for outcome in await asyncio.gather(*calls)} == {Code.UNAVAILABLE}
    assert came.value.total() <= (1 + BUDGET) * AT_ONCE + 3 * ALWAYS, came.value


@pytest.mark.parametrize("client", ["python", "node", "envoy", "go"], indirect=True)
async def test_a_server_span_has_the_number_of_its_attempt(
    client: Caller, dev_host: Host, service: str, spans: Spans
) -> None:
    """Envoy counts the first one too; gRPC counts those before it, and so says nothing of the first."""
    calls = 0

    async def answer(request: bytes, context: Any) -> bytes:
        nonlocal calls
        calls += 1
        return StringValue(value="served").SerializeToString() if calls > 1 else await unavailable(context)

    async with mesh.server(mesh.Settings(host="127.0.0.1")) as server:
        server.add_registered_method_handlers(SERVICE, {"Get": unary_unary(answer)})
        await server.start()
        call = await joined(dev_host, pb.Workload(
            service=service, id=service, address="127.0.0.1", port=server.port, descriptors=shop_descriptors()
        ))  # fmt: skip
        await until(lambda: _succeeds(client, service))
        await spans.next(SpanKind.SERVER, 2)
        call.cancel()
    seen = [dict(span.attributes or {}) for span in spans.ended(SpanKind.SERVER) if span.name == GET[1:]]
    assert [one["rpc.response.status_code"] for one in seen] == ["UNAVAILABLE", "OK"]
    first, second = (one.get("meshwright.attempt") for one in seen)
    if client.name == "envoy":  # which may have tried the instance of the test before
        assert isinstance(first, int)
        assert second == first + 1
    else:
        assert (first, second) == (None, 2)


LIMITS = {"50ms": 0.05, "500ms": 0.5, "3s": 3.0}
ROUNDING_SECONDS = 0.001
"""What clocks of whole milliseconds may take off."""


@pytest.mark.parametrize("client", ["node", "envoy", "go"], indirect=True)
async def test_deadlines_by_xds_are_never_early(
    client: Caller, dev_host: Host, operator: Operator, service: str
) -> None:
    """Those of `mesh.channel` have tests of their own, and Python's own gRPC has none. (Go: with a process's start.)"""

    async def hang(context: Context) -> bytes:
        await asyncio.Event().wait()
        return b""

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


async def _until(latest: Latest[Any], condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        async for _ in latest.changes():
            if condition():
                return


async def _all_failed_but(calls: list[asyncio.Task[Outcome]], came: Latest[Counter[int]]) -> bool:
    """Whether each call has failed or was sent again."""
    return sum(call.done() for call in calls) + came.value[2] == len(calls)


async def _have_come(shop: Attached, calls: int) -> bool:
    return shop.shop.calls >= calls


async def _succeeds(client: Caller, service: str) -> bool:
    return (await client.call(service)).ok


async def _fails(client: Caller, service: str) -> bool:
    return not all(outcome.ok for outcome in await at_once(client, service, 6))
