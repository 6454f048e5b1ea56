"""Real gRPC clients find real servers through a sidecar and a registry, and go on finding them while things change."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from envoy.service.discovery.v3.ads_pb2_grpc import AggregatedDiscoveryServiceStub
from google.protobuf.json_format import MessageToDict

from mesh.contract import PREFIX, Contract
from mesh.registry import Registry, connect
from meshwright.sidecar.v1 import sidecar_service_pb2 as pb
from tests.fixtures.consul import RegistryProcess
from tests.fixtures.shop import BUY, GET, Host, Shop, get, host, in_plaintext, until

SERVING, NOT_SERVING = pb.AttachResponse.STATE_SERVING, pb.AttachResponse.STATE_NOT_SERVING


async def answering(channel: grpc.aio.Channel, calls: int = 12) -> set[str]:
    """Who answers some calls."""
    return {await get(channel) for _ in range(calls)}


async def test_calls_go_round_all_instances(mesh_host: Host, service: str) -> None:
    shops = [await mesh_host.shop(service) for _ in range(3)]
    channel = await mesh_host.channel(f"xds:///{service}")
    await until(lambda: _all(channel, {s.shop.name for s in shops}))
    before = [s.shop.calls for s in shops]
    for _ in range(30):
        await get(channel)
    assert [s.shop.calls - b for s, b in zip(shops, before, strict=True)] == [10, 10, 10]


async def test_no_call_fails_while_an_instance_leaves(mesh_host: Host, service: str) -> None:
    stays, leaves = await mesh_host.shop(service), await mesh_host.shop(service)
    channel = await mesh_host.channel(f"xds:///{service}")
    await until(lambda: _all(channel, {stays.shop.name, leaves.shop.name}))
    leaving = asyncio.create_task(leaves.leave())
    while not leaving.done():
        await get(channel, BUY)
    await leaving
    await leaves.shop.stop()
    assert await answering(channel) == {stays.shop.name}


async def test_a_process_that_exits_is_out_of_rotation_at_once(mesh_host: Host, service: str) -> None:
    stays, dies = await mesh_host.shop(service), await mesh_host.shop(service)
    channel = await mesh_host.channel(f"xds:///{service}")
    await until(lambda: _all(channel, {stays.shop.name, dies.shop.name}))
    dies.call.cancel()
    began = time.monotonic()
    await until(lambda: _all(channel, {stays.shop.name}))
    assert time.monotonic() - began < 10
    await until(lambda: _has_instances(mesh_host, service, {stays.id}))


async def test_a_change_of_health_counts(mesh_host: Host, service: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "mesh.workload")
    one, other = await mesh_host.shop(service), await mesh_host.shop(service)
    channel = await mesh_host.channel(f"xds:///{service}")
    await other.shop.be(serving=False)
    assert (await other.until(NOT_SERVING)).reason == "not serving"
    await until(lambda: _all(channel, {one.shop.name}))
    await other.shop.be(serving=True)
    await other.until(SERVING)
    await until(lambda: _all(channel, {one.shop.name, other.shop.name}))
    told = (f"{other.id} is out of rotation: not serving", f"{other.id} is in rotation again")
    assert [record.message for record in caplog.records if other.id in record.message] == [*told]


async def test_an_unknown_name_fails_at_once_and_says_why(mesh_host: Host, service: str) -> None:
    channel = await mesh_host.channel(f"xds:///{service}")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await get(channel, timeout=14)  # gRPC itself would give up on the name after 15 s.
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert f"{service} (not registered in Consul)" in str(caught.value.details())


async def test_a_service_without_a_healthy_instance_fails_at_once_and_says_why(
    mesh_host: Host, service: str
) -> None:
    shop = await mesh_host.shop(service)
    channel = await mesh_host.channel(f"xds:///{service}")
    await get(channel)
    await shop.shop.be(serving=False)
    await shop.until(NOT_SERVING)
    await until(lambda: _fails_with(channel, f"{service} (no healthy instance)"))


@pytest.mark.parametrize("name", ["white space", "a/b", "ümlaut", "x" * 200])
async def test_a_name_that_no_registry_can_hold_is_unknown(mesh_host: Host, name: str) -> None:
    channel = await mesh_host.channel(f"xds:///{name}")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await get(channel, timeout=14)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_service_whose_last_instance_left_is_back_as_soon_as_one_comes(
    mesh_host: Host, service: str
) -> None:
    first = await mesh_host.shop(service)
    channel = await mesh_host.channel(f"xds:///{service}")
    assert await get(channel) == first.id
    await first.leave()

    async def fails() -> bool:
        try:
            await get(channel, timeout=5)
        except grpc.aio.AioRpcError as error:
            return error.code() is grpc.StatusCode.UNAVAILABLE
        return False

    await until(fails)
    second = await mesh_host.shop(service)

    async def is_back() -> bool:
        return not await fails() and await get(channel) == second.id

    await until(is_back)


async def test_a_call_that_waits_for_ready_is_served_when_the_service_comes(mesh_host: Host, service: str) -> None:
    channel = await mesh_host.channel(f"xds:///{service}")
    waiting = asyncio.create_task(get(channel, wait_for_ready=True))
    with pytest.raises(grpc.aio.AioRpcError):
        await get(channel)
    shop = await mesh_host.shop(service)
    assert await waiting == shop.shop.name


async def test_an_idempotent_call_is_sent_again_elsewhere_and_no_other_is(mesh_host: Host, service: str) -> None:
    async def refuse(context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        await context.abort(grpc.StatusCode.UNAVAILABLE, "not today")

    good, bad = await mesh_host.shop(service), await mesh_host.shop(service, refuse)
    channel = await mesh_host.channel(f"xds:///{service}")
    await until(lambda: _tried(channel, bad.shop))
    assert await get(channel, GET) == good.shop.name
    for _ in range(4):
        before = good.shop.calls + bad.shop.calls
        await _outcome(channel, BUY)
        assert good.shop.calls + bad.shop.calls == before + 1
    assert bad.shop.calls


async def test_nobody_refuses_what_is_sent(mesh_host: Host, service: str) -> None:
    await mesh_host.shop(service, zone="a")
    await mesh_host.shop(service, zone="b")
    channel = await mesh_host.channel(f"xds:///{service}")
    await get(channel)

    async def accepted() -> bool:
        listing = await mesh_host.stub.ListSubscriptions(pb.ListSubscriptionsRequest())
        assert not any(s.nack_count for s in listing.subscriptions), listing
        return [s.resource_names for s in listing.subscriptions if s.acked_version] == [[service]] * 4

    await until(accepted)


async def test_watches_end_a_while_after_the_last_client(mesh_host: Host, service: str) -> None:
    async with grpc.aio.insecure_channel(
        f"xds:///{service}", options=[("grpc.TEST_ONLY_DO_NOT_USE_IN_PROD.xds_bootstrap_config",
                                       mesh_host.bootstrap.read_text())]
    ) as channel:
        with pytest.raises(grpc.aio.AioRpcError):
            await get(channel)
    await until(lambda: _no_subscriptions(mesh_host))


async def test_the_policy_of_the_contract_is_told(mesh_host: Host, service: str) -> None:
    config = {"methodConfig": [{"name": [{"service": "shop.v1.Shop", "method": "Get"}], "timeout": "0.25s"}]}
    await mesh_host.shop(service, service_config=json.dumps(config))
    call = mesh_host.stub.WatchPolicy(pb.WatchPolicyRequest(service=service))
    async for response in call:
        told = {m["path"]: m.get("timeout") for m in MessageToDict(response).get("methods", [])}
        if told:
            break
    call.cancel()
    assert told == {GET: "0.250s", BUY: "5s"}


@in_plaintext
async def test_a_service_config_that_cannot_be_in_force_is_refused(mesh_host: Host, service: str) -> None:
    config = {"methodConfig": [{"name": [{"service": "shop.v1.Shop", "method": "Buy"}],
                                "retryPolicy": {"maxAttempts": 3}}]}
    reason = r"methodConfig\[0\].name\[0\]: a retry policy on shop.v1.Shop/Buy"
    async with Shop("refused").running() as shop:
        attached = await mesh_host.attach(shop, service, service_config=json.dumps(config))
        with pytest.raises(grpc.aio.AioRpcError, match=reason):
            await attached.until(SERVING)


async def test_a_workload_that_says_nothing_of_itself_is_refused_with_every_fault(mesh_host: Host) -> None:
    call = mesh_host.stub.Attach()
    await call.write(pb.AttachRequest(workload=pb.Workload(protocol="smtp")))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_incremental_discovery_is_refused_with_a_reason(mesh_host: Host) -> None:
    async with grpc.aio.insecure_channel(f"unix:{mesh_host.socket}") as channel:
        call = AggregatedDiscoveryServiceStub(channel).DeltaAggregatedResources()
        with pytest.raises(grpc.aio.AioRpcError, match="incremental xDS is not offered"):
            await call.read()


async def test_calls_go_on_while_the_registry_is_away_and_it_is_told_again_when_it_is_back(
    lasting_registry: RegistryProcess, short_tmp: Path, service: str
) -> None:
    async with host(short_tmp, lasting_registry.settings().address) as mesh_host:
        shop = await mesh_host.shop(service)
        channel = await mesh_host.channel(f"xds:///{service}")
        assert await get(channel) == shop.shop.name
        lasting_registry.kill()
        for _ in range(20):
            assert await get(channel) == shop.shop.name
        lasting_registry.restart()
        async with connect(lasting_registry.settings()) as registry:

            async def registered() -> bool:
                assert await get(channel) == shop.shop.name
                return [i.id for i in await registry.instances(service)] == [shop.id]

            await until(registered)
        assert await get(channel) == shop.shop.name


async def test_a_sidecar_that_starts_while_the_registry_is_away_serves_what_was_known_last(
    own_registry: RegistryProcess, short_tmp: Path, service: str
) -> None:
    async with Shop(f"{service}-1").running() as shop:
        async with host(short_tmp, own_registry.settings().address, mtls=False) as mesh_host:
            await (await mesh_host.attach(shop, service)).until(SERVING)
            assert await get(await mesh_host.channel(f"xds:///{service}")) == shop.name
            await until(lambda: _is_saved(short_tmp / "catalog.json", shop.name))
            own_registry.kill()
        async with host(short_tmp, own_registry.settings().address, mtls=False) as mesh_host:
            assert await get(await mesh_host.channel(f"xds:///{service}")) == shop.name


@in_plaintext
async def test_go_clients_balance_and_fail_fast_too(mesh_host: Host, service: str) -> None:
    shop = await mesh_host.shop(service)
    check = "grpc.health.v1.Health/Check"
    code, out = await grpcurl(mesh_host.bootstrap, f"xds:///{service}", check)
    assert (code, json.loads(out)) == (0, {"status": "SERVING"}), shop
    code, out = await grpcurl(mesh_host.bootstrap, f"xds:///{service}-unknown", check)
    assert code != 0
    assert f"{service}-unknown (not registered in Consul)" in out


async def grpcurl(bootstrap: Path, target: str, method: str) -> tuple[int, str]:
    """Exit code and output of grpcurl, which is a Go client."""
    proto = Path(__file__).parent / "health.proto"
    process = await asyncio.create_subprocess_exec(
        Path(sys.executable).with_name("grpcurl"), "-plaintext", "-max-time", "10",
        "-import-path", str(proto.parent), "-proto", proto.name, "-d", "{}", target, method,
        env={**os.environ, "GRPC_XDS_BOOTSTRAP": str(bootstrap)},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    return process.returncode or 0, out.decode()


async def _all(channel: grpc.aio.Channel, names: set[str]) -> bool:
    try:
        return await answering(channel) == names
    except grpc.aio.AioRpcError:
        return False


async def _has_instances(mesh_host: Host, service: str, ids: set[str]) -> bool:
    listing = await _instances(mesh_host, service)
    return listing == ids


async def _instances(mesh_host: Host, service: str) -> set[str]:
    settings = mesh_host.registry
    async with connect(settings) as registry:
        return {instance.id for instance in await registry.instances(service)}


async def _is_saved(path: Path, instance: str) -> bool:
    return path.exists() and instance in path.read_text()


async def _outcome(channel: grpc.aio.Channel, method: str) -> grpc.StatusCode:
    try:
        await get(channel, method)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def _fails_with(channel: grpc.aio.Channel, text: str) -> bool:
    try:
        await get(channel)
    except grpc.aio.AioRpcError as error:
        return error.code() is grpc.StatusCode.UNAVAILABLE and text in str(error.details())
    return False


async def _tried(channel: grpc.aio.Channel, shop: Shop) -> bool:
    await get(channel)
    return shop.calls > 0


async def _no_subscriptions(mesh_host: Host) -> bool:
    listing = await mesh_host.stub.ListSubscriptions(pb.ListSubscriptionsRequest())
    return not listing.subscriptions


async def test_the_last_version_to_join_decides_while_it_lives_and_one_that_comes_back_does_not(
    own_registry: RegistryProcess, short_tmp: Path, service: str
) -> None:
    async with (
        Shop(f"{service}-old").running() as old,
        Shop(f"{service}-new").running() as new,
        connect(own_registry.settings()) as registry,
    ):

        async def published() -> str:
            return Contract.parse(await registry.get(PREFIX + service) or b"").service_config

        async with host(short_tmp, own_registry.settings().address, mtls=False) as mesh_host:
            await (await mesh_host.attach(old, service, service_config="{}")).until(SERVING)
            assert await published() == "{}"
            await (await mesh_host.attach(new, service)).until(SERVING)
            assert await published() == ""
            await registry.deregister(old.name)
            await until(lambda: _is_listed(registry, service, old.name))
            assert await published() == ""
        async with host(short_tmp, own_registry.settings().address, mtls=False) as mesh_host:
            await (await mesh_host.attach(old, service, service_config="{}")).until(SERVING)
            assert await published() == ""
            await registry.delete(PREFIX + service)
            await registry.deregister(old.name)
            await until(lambda: _is_listed(registry, service, old.name))
            assert await published() == "{}"


async def _is_listed(registry: Registry, service: str, instance_id: str) -> bool:
    return instance_id in {instance.id for instance in await registry.instances(service)}
