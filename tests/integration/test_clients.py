"""What every language's own gRPC makes of the mesh: the same service, the same events, four clients."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from meshwright.sidecar.v1 import sidecar_service_pb2 as pb
from tests.fixtures.callers import NAMES, Caller, Outcome, caller
from tests.fixtures.shop import BUY, GET, Attached, Host, until

UNAVAILABLE, DEADLINE_EXCEEDED = grpc.StatusCode.UNAVAILABLE.value[0], grpc.StatusCode.DEADLINE_EXCEEDED.value[0]

FAST_SECONDS = 3.0
"""How long a call to nobody may take; the start of a process is in it."""

Context = grpc.aio.ServicerContext[Any, Any]
Open = Callable[[str], Coroutine[Any, Any, Attached]]


@pytest.fixture(params=NAMES)
async def client(
    request: pytest.FixtureRequest, mesh_host: Host, short_tmp: Path, node_packages: Path
) -> AsyncIterator[Caller]:
    """Each kind of client."""
    async with caller(request.param, mesh_host.bootstrap, short_tmp, mtls=mesh_host.mtls) as made:
        yield made


async def test_calls_go_round_all_instances(client: Caller, mesh_host: Host, service: str) -> None:
    names = {(await mesh_host.named_shop(service)).shop.name for _ in range(3)}
    await until(lambda: _reaches(client, service, names))
    answers = Counter([(await client.call(service)).text for _ in range(9)])
    if client.name == "go":  # A channel for each call, and each begins anywhere.
        assert answers.keys() <= names
    else:
        assert answers == dict.fromkeys(names, 3)


async def test_no_call_fails_while_an_instance_leaves(client: Caller, mesh_host: Host, service: str) -> None:
    stays, leaves = await mesh_host.named_shop(service), await mesh_host.named_shop(service)
    await until(lambda: _reaches(client, service, {stays.shop.name, leaves.shop.name}))
    leaving = asyncio.create_task(leaves.leave())
    while not leaving.done():
        assert (outcome := await client.call(service, BUY)).ok, outcome
    await leaves.shop.stop()
    assert {(await client.call(service, BUY)).text for _ in range(4)} == {stays.shop.name}


async def test_the_last_instance_leaves_and_one_comes_back(client: Caller, mesh_host: Host, service: str) -> None:
    """Calls go on meanwhile: none hangs, those that fail say so at once, and none fails once one is back."""
    first, over, outcomes = await mesh_host.named_shop(service), asyncio.Event(), list[Outcome]()

    async def keep_calling() -> None:
        while not over.is_set():
            outcomes.append(await client.call(service, BUY))
            await asyncio.sleep(0.02)

    assert (await client.call(service)).text == first.shop.name
    calling = asyncio.create_task(keep_calling())
    await first.leave()
    await first.shop.stop()
    await until(lambda: _fails_with(client, service, f"{service} not registered in Consul"))
    second = await mesh_host.named_shop(service)
    await until(lambda: _reaches(client, service, {second.shop.name}))
    back = len(outcomes) + 1  # One may be on its way.
    await until(lambda: _have(outcomes, back + 5))
    over.set()
    await calling
    assert {o.code for o in outcomes} == {0, UNAVAILABLE}, outcomes
    assert max(o.seconds for o in outcomes) < FAST_SECONDS, outcomes
    assert all(o.ok for o in outcomes[back:]), outcomes


async def test_a_sick_service_fails_at_once_and_says_why(client: Caller, mesh_host: Host, service: str) -> None:
    shop = await mesh_host.named_shop(service)
    assert (await client.call(service)).ok
    await shop.shop.be(serving=False)
    await shop.until(pb.AttachResponse.STATE_NOT_SERVING)
    await until(lambda: _fails_with(client, service, f"{service} no healthy instance"))
    await shop.shop.be(serving=True)
    await until(lambda: _reaches(client, service, {shop.shop.name}))


async def test_an_unknown_name_fails_at_once_and_says_why(client: Caller, service: str) -> None:
    outcome = await client.call(service, seconds=14)
    assert outcome.code == UNAVAILABLE, outcome
    assert outcome.says(f"{service} not registered in Consul"), outcome
    assert outcome.seconds < FAST_SECONDS, outcome


async def test_a_call_that_waits_for_ready_is_served_when_the_service_comes(
    client: Caller, mesh_host: Host, service: str
) -> None:
    if client.name == "go":
        pytest.skip("grpcurl has no wait_for_ready")
    waiting = asyncio.create_task(client.call(service, seconds=30, wait=True))
    assert not (await client.call(service)).ok
    shop = await mesh_host.named_shop(service)
    assert (await waiting).text == shop.shop.name


async def test_the_deadline_of_the_contract_holds_where_the_client_takes_it(
    client: Caller, mesh_host: Host, service: str
) -> None:
    async def sleep(context: Context) -> bytes:
        await asyncio.sleep(2)
        return StringValue(value="late").SerializeToString()

    config = {"methodConfig": [{"name": [{"service": "shop.v1.Shop"}], "timeout": "0.5s"}]}
    await mesh_host.shop(service, sleep, service_config=json.dumps(config))
    outcomes = await asyncio.gather(*(client.call(service, BUY, seconds=seconds) for seconds in (None, 30)))
    for outcome in outcomes:
        if client.name.startswith("python"):  # `mesh.channel` has it; gRPC's own channel fires it early, so gets none.
            assert outcome.text == "late", outcome
        else:  # whatever the caller asks for
            assert outcome.code == DEADLINE_EXCEEDED, outcome


async def test_an_idempotent_call_is_sent_again_elsewhere_and_no_other_is(
    client: Caller, mesh_host: Host, service: str
) -> None:
    async def refuse(context: Context) -> bytes:
        await context.abort(grpc.StatusCode.UNAVAILABLE, "not today")

    good, bad = await mesh_host.named_shop(service), await mesh_host.shop(service, refuse)
    await until(lambda: _tried(client, service, bad))
    outcomes = [await client.call(service, GET) for _ in range(4)]
    assert [o.text for o in outcomes] == [good.shop.name] * 4, outcomes
    for _ in range(4):
        before = good.shop.calls + bad.shop.calls
        await client.call(service, BUY)
        assert good.shop.calls + bad.shop.calls == before + 1


async def test_no_client_refuses_what_it_is_sent(client: Caller, mesh_host: Host, service: str) -> None:
    unknown = await client.call(service)
    await mesh_host.named_shop(service, zone="a")
    await mesh_host.named_shop(service, zone="b")
    await until(lambda: _succeeds(client, service))
    listing = await mesh_host.stub.ListSubscriptions(pb.ListSubscriptionsRequest())
    assert not any(s.nack_count for s in listing.subscriptions), (listing, unknown)


async def _reaches(client: Caller, service: str, names: set[str]) -> bool:
    return {(await client.call(service)).text for _ in range(3 * len(names))} == names


async def _have(outcomes: list[Outcome], count: int) -> bool:
    return len(outcomes) >= count


async def _succeeds(client: Caller, service: str) -> bool:
    return (await client.call(service)).ok


async def _fails_with(client: Caller, service: str, reason: str) -> bool:
    outcome: Outcome = await client.call(service)
    return outcome.code == UNAVAILABLE and outcome.says(reason)


async def _tried(client: Caller, service: str, shop: Attached) -> bool:
    await client.call(service, BUY)
    return shop.shop.calls > 0
