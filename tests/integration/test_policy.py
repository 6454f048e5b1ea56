"""Policy that an operator sets while calls run: a real gRPC channel, the dev registry and a real Consul."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import grpc
import pytest

from meshwright.sidecar.v1 import sidecar_service_pb2 as pb
from tests.fixtures.consul import RegistryProcess, dev_process
from tests.fixtures.operator import Operator, operator_of
from tests.fixtures.shop import BUY, GET, Attached, Host, get, host, until

SERVICE = "shop.v1.Shop"


async def unavailable(context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
    await context.abort(grpc.StatusCode.UNAVAILABLE, "not today")


async def attempts(channel: grpc.aio.Channel, shop: Attached, method: str) -> int:
    """How often a shop that is not available sees one call."""
    before = shop.shop.calls
    with pytest.raises(grpc.aio.AioRpcError):
        await get(channel, method, timeout=20)
    return shop.shop.calls - before


async def versions(mesh_host: Host, service: str) -> tuple[Attached, Attached]:
    """An instance of version 1 and one of version 2."""
    return (
        await mesh_host.shop(service, meta={"version": "1"}), await mesh_host.shop(service, meta={"version": "2"})
    )  # fmt: skip


SUBSETS = {f"v{number}": {"Filter": f"Service.Meta.version == {number}"} for number in (1, 2)}


def split(*weights: int) -> list[dict[str, Any]]:
    return [{"Weight": weight, "ServiceSubset": f"v{i}"} for i, weight in enumerate(weights, start=1)]


async def test_calls_are_sent_again_only_where_the_contract_lets_them(
    dev_host: Host, operator: Operator, service: str
) -> None:
    shop = await dev_host.shop(service, unavailable)
    channel = await dev_host.channel(f"xds:///{service}")
    assert [await attempts(channel, shop, method) for method in (GET, BUY)] == [3, 1]
    await operator.entry("service-router", service, Routes=[{"Destination": {"NumRetries": 4}}])

    async def are_five() -> bool:
        return await attempts(channel, shop, GET) == 5

    await until(are_five)
    assert await attempts(channel, shop, BUY) == 1


async def test_deadlines_follow(mesh_host: Host, mesh_operator: Operator, service: str) -> None:
    await mesh_host.shop(service)
    told = mesh_host.stub.WatchPolicy(pb.WatchPolicyRequest(service=service))

    async def until_told(seconds: float) -> None:
        async with asyncio.timeout(20):
            while True:
                policy: Any = await told.read()
                if {m.path: m.timeout.ToMilliseconds() / 1000 for m in policy.methods}.get(GET) == seconds:
                    return

    await until_told(5)
    await mesh_operator.config(service, methodConfig=[{"name": [{"service": SERVICE}], "timeout": "1.5s"}])
    await until_told(1.5)
    await mesh_operator.entry("service-router", service, Routes=[{"Destination": {"RequestTimeout": "700ms"}}])
    await until_told(0.7)
    await mesh_operator.remove("service-router", service)
    await until_told(1.5)
    told.cancel()


async def test_a_header_leads_to_the_canary(mesh_host: Host, mesh_operator: Operator, service: str) -> None:
    stable, canary = await versions(mesh_host, service)
    await mesh_operator.entry("service-resolver", service, DefaultSubset="v1", Subsets=SUBSETS)
    match = {"HTTP": {"Header": [{"Name": "x-canary", "Exact": "yes"}]}}
    routes = [{"Match": match, "Destination": {"ServiceSubset": "v2"}}]
    await mesh_operator.entry("service-router", service, Routes=routes)
    channel = await mesh_host.channel(f"xds:///{service}")
    await until(lambda: _all(channel, canary, metadata=(("x-canary", "yes"),)))
    await until(lambda: _all(channel, stable))
    assert await _all(channel, stable, metadata=(("x-canary", "no"),))
    assert await _all(channel, canary, metadata=(("x-canary", "yes"),))


async def test_calls_are_split_by_weight_from_nothing_to_all_and_back(
    mesh_host: Host, mesh_operator: Operator, service: str
) -> None:
    stable, canary = await versions(mesh_host, service)
    await mesh_operator.entry("service-resolver", service, DefaultSubset="v1", Subsets=SUBSETS)
    channel = await mesh_host.channel(f"xds:///{service}")
    await until(lambda: _all(channel, stable))
    await mesh_operator.entry("service-splitter", service, Splits=split(70, 30))

    async def are_split() -> bool:
        seen = Counter([await get(channel) for _ in range(200)])
        return seen.keys() == {stable.id, canary.id} and abs(seen[canary.id] - 60) < 36  # more than five sigma

    await until(are_split)
    await mesh_operator.entry("service-splitter", service, Splits=split(0, 100))
    await until(lambda: _all(channel, canary))
    await mesh_operator.remove("service-splitter", service)
    await until(lambda: _all(channel, stable))


async def test_an_invalid_policy_changes_nothing_and_is_told(
    dev_host: Host, operator: Operator, service: str, caplog: pytest.LogCaptureFixture
) -> None:
    shop = await dev_host.shop(service, unavailable)
    retry = {"maxAttempts": 4, "retryableStatusCodes": ["UNAVAILABLE"], "initialBackoff": "0.01s"}
    get_only = [{"service": SERVICE, "method": "Get"}]
    await operator.config(service, methodConfig=[{"name": get_only, "retryPolicy": retry}])
    channel = await dev_host.channel(f"xds:///{service}")

    async def are_four() -> bool:
        return await attempts(channel, shop, GET) == 4

    await until(are_four)
    for text, fault in (
        ('{"methodConfig": [{"timeout": "soon"}]}', "methodConfig[0].timeout: 'soon' is not a duration"),
        (json.dumps({"methodConfig": [{"name": [{"service": SERVICE, "method": "Buy"}], "retryPolicy": retry}]}),
         "a retry policy on shop.v1.Shop/Buy"),
    ):  # fmt: skip
        await operator.config(service, text)
        await until(lambda fault=fault: _says(caplog, fault))  # type: ignore[misc]
        assert await are_four()
    held = await dev_host.stub.ListSubscriptions(pb.ListSubscriptionsRequest())
    assert not any(subscription.nack_count for subscription in held.subscriptions)


async def test_a_sidecar_that_starts_without_its_registry_has_the_policy_from_disk(
    tmp_path: Path, short_tmp: Path, service: str
) -> None:
    registry = dev_process(tmp_path)
    registry.start()
    try:
        async with host(short_tmp, registry.address) as before, operator_of(before.registry) as operator:
            stable, canary = await versions(before, service)
            await operator.entry("service-resolver", service, DefaultSubset="v2", Subsets=SUBSETS)
            channel = await before.channel(f"xds:///{service}")
            await until(lambda: _all(channel, canary))
            await until(lambda: _has(short_tmp / "catalog.json", "DefaultSubset"))
            registry.kill()
            async with host(_copied(short_tmp), registry.address) as after:
                channel = await after.channel(f"xds:///{service}")
                await until(lambda: _all(channel, canary))
            registry.start()
        assert stable.shop.calls == 0
    finally:
        registry.kill()


async def test_a_sidecar_that_starts_while_a_bad_policy_is_published_has_the_last_good_one(
    dev_registry: RegistryProcess, short_tmp: Path, service: str
) -> None:
    """Bad are a service config that cannot hold with the contract, and a route that leads to no subset."""
    retry = {"maxAttempts": 4, "retryableStatusCodes": ["UNAVAILABLE"], "initialBackoff": "0.01s"}
    other = f"{service}-other"

    def on(method: str) -> dict[str, Any]:
        return {"name": [{"service": SERVICE, "method": method}], "timeout": "8s", "retryPolicy": retry}

    async def attempts_of(made: Host, shop: Attached) -> int:
        return await attempts(await made.channel(f"xds:///{service}"), shop, GET)

    async with host(short_tmp, dev_registry.address) as before, operator_of(before.registry) as operator:
        shop, beyond = await before.shop(service, unavailable), await before.shop(other, unavailable)
        await operator.config(service, methodConfig=[on("Get")])
        await operator.entry("service-router", service, Routes=[
            {"Match": {"HTTP": {"PathExact": GET}}, "Destination": {"Service": other}},
        ])  # fmt: skip

        async def are_four() -> bool:
            return await attempts_of(before, beyond) == 4

        await until(are_four)
        await operator.config(service, methodConfig=[on("Buy")])
        await operator.entry("service-router", service, Routes=[{"Destination": {"ServiceSubset": "none"}}])
        await until(lambda: _has(short_tmp / "catalog.json", '"none"'))
        async with host(_copied(short_tmp), dev_registry.address) as after:
            assert await attempts_of(after, beyond) == 4
            told = await after.stub.ExplainService(pb.ExplainServiceRequest(service=service, method="Get"))
    assert told.retry.attempts == 4
    assert shop.shop.calls == 0
    assert [note.partition(" ")[0] for note in told.notes if "is not in force" in note] == [
        f"mesh/service-config/{service}", f"service-router/{service}",
    ]  # fmt: skip


def _copied(folder: Path) -> Path:
    """A folder with what a sidecar keeps, and a socket of its own: channels of one process share their connections."""
    copy = folder / "next"
    copy.mkdir()
    shutil.copy(folder / "catalog.json", copy)
    shutil.copytree(folder / "identity", copy / "identity", symlinks=True)
    return copy


async def _has(path: Path, text: str) -> bool:
    return path.exists() and text in path.read_text()


async def _says(caplog: pytest.LogCaptureFixture, text: str) -> bool:
    return text in caplog.text


async def _all(channel: grpc.aio.Channel, shop: Attached, **options: Any) -> bool:
    """Whether a shop, and no other, answers."""
    try:
        return {await get(channel, **options) for _ in range(8)} == {shop.id}
    except grpc.aio.AioRpcError:
        return False
