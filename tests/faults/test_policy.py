"""Policy at length: what gRPC of each language makes of all of it at once, exact shares, and canaries under load."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import grpc
import pytest

import mesh
from meshwright.order.v1.order_service_pb2 import ListOrdersRequest, ListOrdersResponse
from meshwright.order.v1.order_service_pb2_grpc import (
    OrderServiceServicer,
    OrderServiceStub,
    add_OrderServiceServicer_to_server,
)
from meshwright.sidecar.v1 import sidecar_service_pb2 as pb
from tests.fixtures.callers import Caller
from tests.fixtures.consul import RegistryProcess, dev_process, running
from tests.fixtures.operator import Operator
from tests.fixtures.shop import BUY, GET, Attached, Host, get, until
from tests.integration.gateway.harness import Edge

BALANCING: tuple[dict[str, Any], ...] = (
    {"ring_hash": {"requestHashHeader": "x-user"}}, {"random": {}}, {"least_request": {}}, {"weighted_round_robin": {}},
    {"round_robin": {}},
)  # fmt: skip


@pytest.fixture(scope="module")
def dev_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryProcess]:
    """One in which nobody else offers the same methods: an edge leads calls to the first service that does."""
    yield from running(dev_process(tmp_path_factory.mktemp("dev")))


@pytest.mark.parametrize("client", ["node", "python-aio", "go"], indirect=True)
async def test_every_client_follows_routes_splits_failover_and_balancing(
    client: Caller, dev_host: Host, operator: Operator, service: str
) -> None:
    one, two = [await dev_host.named_shop(service, meta={"version": version}) for version in ("1", "2")]
    spare = await dev_host.named_shop(f"{service}-spare")
    subsets = {f"v{n}": {"Filter": f"Service.Meta.version == {n}"} for n in (1, 2)}
    failover = {"*": {"Service": f"{service}-spare"}}
    await operator.entry("service-resolver", service, Subsets=subsets, Failover=failover, ConnectTimeout="1s")
    to_canary = {"HTTP": {"Header": [{"Name": "x-canary", "Prefix": "y.", "IgnoreCase": True}]}}
    by_regex = {"HTTP": {"PathRegex": "/shop[.]v1[.]Shop/B(?:(?:.{1,30}){1,33}|.*)"}}
    odd = {"HTTP": {"Header": [{"Name": "x!#$%&'*+.^_`|~", "Contains": "\0 (\n) ü\u2026", "IgnoreCase": True}]}}
    await operator.entry("service-router", service, Routes=[
        {"Match": odd, "Destination": {"ServiceSubset": "v2"}},
        {"Match": to_canary, "Destination": {"ServiceSubset": "v2"}},
        {"Match": by_regex, "Destination": {"ServiceSubset": "v2", "RequestTimeout": "9s"}},
    ])  # fmt: skip
    splits = [{"Weight": 100, "ServiceSubset": "v1"}, {"Weight": 0, "ServiceSubset": "v2"}]
    await operator.entry("service-splitter", service, Splits=splits)
    await until(lambda: _answers(client, service, {GET: one, BUY: two}))
    for choice in BALANCING:
        ejection: dict[str, Any] = {"successRateEjection": {}, "failurePercentageEjection": {}}
        await operator.config(
            service, loadBalancingConfig=[choice], circuitBreakers={"maxRequests": 50}, outlierDetection=ejection
        )
        await until(lambda: _are_acknowledged(dev_host, service))
        await until(lambda: _answers(client, service, {GET: one, BUY: two}))
    await one.leave()
    await until(lambda: _answers(client, service, {GET: spare, BUY: two}))
    assert await _nacks(dev_host) == []


async def _answers(client: Caller, service: str, wanted: dict[str, Attached]) -> bool:
    return {path: (await client.call(service, path)).text for path in wanted} == {
        path: shop.shop.name for path, shop in wanted.items()
    }


async def _are_acknowledged(dev_host: Host, service: str) -> bool:
    """Whether whoever is connected holds something; who is not has nothing to refuse."""
    listing = await dev_host.stub.ListSubscriptions(pb.ListSubscriptionsRequest())
    return all(s.acked_version or s.nack_count for s in listing.subscriptions)


async def _nacks(dev_host: Host) -> list[str]:
    listing = await dev_host.stub.ListSubscriptions(pb.ListSubscriptionsRequest())
    return [f"{s.type_url}: {s.last_nack}" for s in listing.subscriptions if s.nack_count]


async def test_ten_thousand_calls_are_split_within_two_points(
    dev_host: Host, edge: Edge, operator: Operator, service: str
) -> None:
    """On each of the two paths."""
    subsets = {f"v{n}": {"Filter": f"Service.Meta.version == {n}"} for n in (1, 2)}
    await operator.entry("service-resolver", service, Subsets=subsets, DefaultSubset="v1")
    shops = [await dev_host.shop(service, meta={"version": version}) for version in ("1", "2")]
    splits = [{"Weight": 90, "ServiceSubset": "v1"}, {"Weight": 10, "ServiceSubset": "v2"}]
    await operator.entry("service-splitter", service, Splits=splits)
    for target in (f"xds:///{service}", f"127.0.0.1:{edge.port}"):
        channel = await dev_host.channel(target)
        await until(partial(_meets, channel, shops[1].id), seconds=60)
        seen = Counter[str]()
        for _ in range(100):
            seen.update(await asyncio.gather(*(get(channel) for _ in range(100))))
        assert abs(seen[shops[1].id] - 1000) < 200, (target, seen)


async def test_no_call_fails_while_a_canary_comes_and_goes(dev_host: Host, operator: Operator, service: str) -> None:
    stable, canary = [await dev_host.shop(service, meta={"version": version}) for version in ("1", "2")]
    channel = await dev_host.channel(f"xds:///{service}")
    calls, done = 0, asyncio.Event()

    async def keep_calling() -> None:
        nonlocal calls
        while not done.is_set():
            await get(channel, BUY)  # What fails here fails the test.
            calls += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(keep_calling())
        for _ in range(3):
            await _canary(operator, service, lambda name: _meets(channel, name), canary.id)
        done.set()
    assert calls > 100
    assert await get(channel) in (stable.id, canary.id)


@dataclass
class Lister:
    """One instance of a service on `mesh.server`, that answers with its name after a while."""

    name: str
    seconds: float

    def add_to(self, server: mesh.Server) -> None:
        """Have a server serve it."""
        empty: Any = OrderServiceServicer
        made = empty()
        made.ListOrders = self._answer
        add_OrderServiceServicer_to_server(made, server)

    async def _answer(self, request: Any, context: Any) -> ListOrdersResponse:
        await asyncio.sleep(self.seconds)
        return ListOrdersResponse(next_page_token=self.name)


async def test_a_slow_instance_gets_less_work_until_it_is_quick_though_nobody_set_a_policy(
    dev_host: Host, edge: Edge, service: str
) -> None:
    listers = [Lister(name, 0.002) for name in ("one", "two")] + [Lister("slow", 0.3)]
    async with AsyncExitStack() as stack:
        for lister in listers:
            await stack.enter_async_context(dev_host.serving(service, lister.add_to, f"{service}-{lister.name}"))
        through = await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{edge.port}"))
        channels = await dev_host.channel(f"xds:///{service}"), through
        for seconds, least, most in ((0.3, 0.0, 0.1), (0.002, 0.2, 1.0)):
            listers[-1].seconds = seconds
            await asyncio.gather(*(until(partial(_share_of_slow, each, least, most), seconds=60) for each in channels))


async def _share_of_slow(channel: grpc.aio.Channel, least: float, most: float) -> bool:
    asked = [OrderServiceStub(channel).ListOrders(ListOrdersRequest(), timeout=20) for _ in range(30)]
    answers = await asyncio.gather(*asked, return_exceptions=True)
    names = [answer.next_page_token for answer in answers if isinstance(answer, ListOrdersResponse)]
    return len(names) == len(asked) and least <= names.count("slow") / len(names) <= most


async def _canary(
    operator: Operator, service: str, meets: Callable[[str], Awaitable[bool]], canary: str
) -> None:
    """From nothing to all and back, with subsets that come and go."""
    subsets = {f"v{n}": {"Filter": f"Service.Meta.version == {n}"} for n in (1, 2)}
    await operator.entry("service-resolver", service, Subsets=subsets, DefaultSubset="v1")
    for share in (1, 10, 50, 100, 50, 0):
        splits = [{"Weight": 100 - share, "ServiceSubset": "v1"}, {"Weight": share, "ServiceSubset": "v2"}]
        await operator.entry("service-splitter", service, Splits=splits)
        if share == 100:
            await until(lambda: meets(canary))
    await operator.remove("service-splitter", service)
    await operator.remove("service-resolver", service)


async def _meets(channel: grpc.aio.Channel, name: str) -> bool:
    with suppress(grpc.aio.AioRpcError):
        return name in {await get(channel) for _ in range(20)}
    return False
