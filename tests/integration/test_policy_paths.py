"""What a policy does on each path to a service: gRPC's own channel, Node.js, and a real Envoy. Those for Go are where
grpcurl, which makes a channel for each call, can tell."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from opentelemetry.trace import SpanKind

import mesh
from mesh.errors import Code
from mesh.latest import Latest
from tests.fixtures.callers import Caller, Outcome, caller
from tests.fixtures.consul import RegistryProcess, dev_process, running
from tests.fixtures.echo import unary_unary
from tests.fixtures.operator import Operator
from tests.fixtures.shop import BUY, GET, Attached, Host, host, shop_descriptors, until
from tests.fixtures.spans import Spans
from tests.integration.gateway.harness import Edge

SERVICE = "shop.v1.Shop"
Context = grpc.aio.ServicerContext[Any, Any]

ROUNDING_SECONDS = 0.001
"""What clocks of whole milliseconds may take off."""

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


async def test_limits_on_connections_and_waiting_calls_are_in_force_at_the_edge(
    dev_host: Host, edge: Edge, operator: Operator, service: str
) -> None:
    """By its own account: over HTTP/2 one connection has all calls, and none waits but while it is made."""
    await dev_host.shop(service)
    await operator.config(service, circuitBreakers={"maxConnections": 7, "maxPendingRequests": 3})

    async def are_in_force() -> bool:
        told = edge.account("/clusters").splitlines()
        limits = (f"{service}::default_priority::max_{limit}" for limit in ("connections::7", "pending_requests::3"))
        return all(limit in told for limit in limits)

    await until(are_in_force)


SHARE = {"failurePercentageEjection": {"threshold": 50, "minimumHosts": 2, "requestVolume": 3}}
IN_A_ROW = {"consecutiveFailures": 3}


@pytest.mark.parametrize(
    ("client", "ejection"), [("python", SHARE), ("node", SHARE), ("envoy", SHARE), ("envoy", IN_A_ROW)],
    indirect=["client"], ids=["python", "node", "envoy", "envoy-in-a-row"],
)  # fmt: skip
async def test_an_instance_that_fails_is_left_out_until_it_works_again(
    client: Caller, ejection: dict[str, Any], dev_host: Host, operator: Operator, service: str
) -> None:
    is_broken = True

    async def answer(context: Context) -> bytes:
        if is_broken:
            await unavailable(context)
        return StringValue(value=bad.id).SerializeToString()

    good, bad = await dev_host.named_shop(service), await dev_host.shop(service, answer)
    await operator.config(service, outlierDetection={"interval": "0.1s", "baseEjectionTime": "1s", **ejection})
    await until(lambda: _fails(client, service))
    await until(lambda: meets(client, service, good.id))
    is_broken = False
    await until(lambda: meets(client, service, good.id, bad.id))


def each_of(*paths: tuple[str, str]) -> pytest.MarkDecorator:
    """A test for each client and kind of balancing."""
    return pytest.mark.parametrize(("client", "kind"), paths, indirect=["client"])


def by_user(kind: str) -> dict[str, Any]:
    """A resolver's balancing by a header."""
    return {"Policy": kind, "HashPolicies": [{"Field": "header", "FieldValue": "x-user"}]}


@each_of(
    ("python", "ring_hash"), ("node", "ring_hash"), ("envoy", "ring_hash"), ("python", "maglev"), ("envoy", "maglev")
)
async def test_the_same_header_meets_the_same_instance_and_most_do_when_one_leaves(
    client: Caller, kind: str, dev_host: Host, operator: Operator, service: str
) -> None:
    """Where there is no maglev, by ring_hash."""
    shops = [await dev_host.named_shop(service) for _ in range(3)]
    await operator.entry("service-resolver", service, LoadBalancer=by_user(kind))
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


@each_of(("python", "random"), ("envoy", "random"))
async def test_random_meets_every_instance_and_some_twice_in_a_row(
    client: Caller, kind: str, dev_host: Host, operator: Operator, service: str
) -> None:
    """As round_robin never does."""
    shops = [await dev_host.named_shop(service) for _ in range(3)]
    await until(lambda: meets(client, service, *(shop.id for shop in shops)))
    await operator.config(service, loadBalancingConfig=[{kind: {}}])

    async def are_random() -> bool:
        met = [(await client.call(service)).text for _ in range(40)]
        again = sum(one == other for one, other in pairwise(met))
        return set(met) == {shop.id for shop in shops} and again >= 5  # of 13 to be expected

    await until(are_random)


@each_of(("envoy", "least_request"))
async def test_least_request_leaves_a_busy_instance_alone(
    client: Caller, kind: str, dev_host: Host, edge: Edge, operator: Operator, service: str
) -> None:
    """And nothing else does: calls are not sent again, have a minute, and nobody is left out for failing."""
    waiting, may_end = list[Context](), asyncio.Event()

    async def answer(context: Context) -> bytes:
        if "x-stay" in dict(context.invocation_metadata() or ()) and context.time_remaining() > 30:
            waiting.append(context)
            await may_end.wait()
        return StringValue(value=busy.id).SerializeToString()

    long = {"name": [{}], "timeout": "60s"}
    balancing = {kind: {"choiceCount": 10}}
    await operator.config(service, methodConfig=[long], loadBalancingConfig=[balancing], outlierDetection={})
    busy, free = await dev_host.shop(service, answer), await dev_host.named_shop(service)
    both = {f"127.0.0.1:{one.shop.port}" for one in (busy, free)}
    calls = []

    async def are_alone() -> bool:
        """Instances of the test before have nothing in hand either, and would be called."""
        told = edge.account("/clusters").splitlines()
        return {line.split("::")[1] for line in told if line.startswith(f"{service}::") and "cx_active" in line} == both

    await until(are_alone)

    async def one_by_one(count: int) -> list[str]:
        """Who answers: of calls side by side, the second finds both instances with one in hand."""
        return [(await client.call(service, BUY)).text for _ in range(count)]

    async def is_busy() -> bool:
        calls.append(asyncio.create_task(client.call(service, BUY, headers={"x-stay": "yes"}, seconds=90)))
        return bool(waiting) and set(await one_by_one(6)) == {free.id}

    await until(is_busy)
    met = await one_by_one(40)
    assert met.count(free.id) >= 36, met  # of 20 by turns; ten looks miss it once in a thousand times
    may_end.set()
    await asyncio.gather(*calls)


@on_each_path
async def test_calls_fail_over_to_another_service_and_come_back(
    client: Caller, dev_host: Host, operator: Operator, service: str
) -> None:
    other = f"{service}-spare"
    first, spare = await dev_host.named_shop(service), await dev_host.named_shop(other)
    await operator.entry("service-resolver", service, Failover={"*": {"Service": other}})
    await until(lambda: meets(client, service, first.id))
    await first.shop.be(serving=False)
    await until(lambda: meets(client, service, spare.id))
    await first.shop.be(serving=True)
    await until(lambda: meets(client, service, first.id))


@pytest.mark.parametrize("name", ["python-aio", "node"])
async def test_the_own_zone_comes_first_and_others_take_over(
    name: str, dev_registry: RegistryProcess, short_tmp: Path, node_packages: Path
) -> None:
    """The gateway is in no zone; Go, which takes longer, is in tests/faults."""
    await own_zone_comes_first(name, dev_registry.address, short_tmp)


async def own_zone_comes_first(name: str, registry: str, folder: Path) -> None:
    """A client of one of `callers.NAMES` in zone a, with an instance there and one elsewhere."""
    service = f"shop-{name}"
    async with (
        host(folder, registry, zone="a", mtls=name != "go") as here,
        caller(name, here.bootstrap, folder, mtls=here.mtls) as client,
    ):
        far, near = [await here.named_shop(service, zone=zone, descriptors=b"") for zone in ("b", "a")]
        await until(lambda: meets(client, service, near.id))
        await near.shop.be(serving=False)
        await until(lambda: meets(client, service, far.id))
        await near.shop.be(serving=True)
        await until(lambda: meets(client, service, near.id))


@on_each_path
async def test_calls_follow_a_redirect(client: Caller, dev_host: Host, operator: Operator, service: str) -> None:
    other = f"{service}-new"
    old, new = await dev_host.named_shop(service), await dev_host.named_shop(other)
    await until(lambda: meets(client, service, old.id))
    await operator.entry("service-resolver", service, Redirect={"Service": other})
    await until(lambda: meets(client, service, new.id))


async def hang(context: Context) -> bytes:
    await asyncio.Event().wait()
    return b""


async def hang_for_the_impatient(context: Context) -> bytes:
    if (context.time_remaining() or 60) < 3:
        await asyncio.Event().wait()
    return b""


@pytest.mark.parametrize("client", ["mesh.channel", "node", "go"], indirect=True)
async def test_deadlines_hold_for_a_service_without_a_contract(
    client: Caller, dev_host: Host, operator: Operator, service: str
) -> None:
    """One for a method that is named, another for all others. The gateway has no way to such a service."""
    bare = f"{service}-bare"
    named = {"name": [{"service": SERVICE, "method": "Buy"}], "timeout": "0.2s"}
    await operator.config(bare, methodConfig=[named, {"name": [{}], "timeout": "1s"}])
    await dev_host.shop(bare, hang_for_the_impatient, descriptors=b"")
    seconds = None if client.name == "mesh.channel" else 10  # which is there instead of that of the policy

    async def are_in_force() -> bool:
        buy, get = await asyncio.gather(*(client.call(bare, path, seconds=seconds) for path in (BUY, GET)))
        are_ended = [buy.code, get.code] == [Code.DEADLINE_EXCEEDED] * 2
        return are_ended and get.seconds >= 1 - ROUNDING_SECONDS and buy.seconds < get.seconds

    await until(are_in_force)


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
    calls, fails = 0, False

    async def answer(request: bytes, context: Any) -> bytes:
        nonlocal calls, fails
        calls, failed, fails = calls + 1, fails, False
        return await unavailable(context) if failed else StringValue(value="served").SerializeToString()

    async def is_tried_again() -> bool:
        nonlocal fails
        fails = True
        return (await client.call(service)).ok and not fails

    def offer(server: mesh.Server) -> None:
        server.add_registered_method_handlers(SERVICE, {"Get": unary_unary(answer)})

    async with dev_host.serving(service, offer, descriptors=shop_descriptors()):
        await until(lambda: _succeeds(client, service))
        await until(is_tried_again)
    seen = [dict(span.attributes or {}) for span in spans.ended(SpanKind.SERVER) if span.name == GET[1:]]
    assert len(seen) == calls
    assert [one["rpc.response.status_code"] for one in seen[-2:]] == ["UNAVAILABLE", "OK"]
    first, second = (one.get("meshwright.attempt") for one in seen[-2:])
    if client.name == "envoy":  # which may try the instance of the test before as well
        assert isinstance(first, int)
        assert isinstance(second, int)
        assert second > first
    else:
        assert (first, second) == (None, 2)


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
