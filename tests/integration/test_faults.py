"""Faults on purpose: real clients of each language, the dev registry and a real Consul, and what the command does."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

from mesh.errors import Code, Error
from mesh.faults import Wish, clear, held, inject
from mesh.policy import FAULTS, Fault
from mesh.recovery import time_of_day
from mesh.registry import RegistrySettings, connect
from meshwright.sidecar.v1 import sidecar_service_pb2 as pb
from tests.fixtures.callers import Caller
from tests.fixtures.consul import RegistryProcess
from tests.fixtures.operator import Operator, operator_of
from tests.fixtures.shop import BOOTSTRAP_OPTION, BUY, GET, Host, Shop, get, host, until

KINDS = ("python-aio", "go", "node")
ABORT = {"x-envoy-fault-abort-grpc-request": "9", "x-envoy-fault-abort-request-percentage": "100"}
DELAY = {"x-envoy-fault-delay-request": "200", "x-envoy-fault-delay-request-percentage": "100"}


@pytest.mark.parametrize("client", KINDS, indirect=True)
async def test_every_kind_of_client_takes_aborts_delays_and_headers(
    client: Caller, dev_host: Host, operator: Operator, service: str
) -> None:
    """An abort is not sent again, though the contract lets Get be; calls of Buy go on."""
    shop = await dev_host.named_shop(service)
    assert (await client.call(service, headers=ABORT)).ok

    async def comes_to(code: int, **options: Any) -> bool:
        return (await client.call(service, **options)).code == code

    fault = await operator.fault(service, GET, abort=Code.UNAVAILABLE)
    await until(lambda: comes_to(Code.UNAVAILABLE))
    before = shop.shop.calls
    assert [(await client.call(service, path)).code for path in (GET, BUY)] == [Code.UNAVAILABLE, Code.OK]
    assert shop.shop.calls == before + 1
    await operator.fault(service, GET, delay_seconds=0.2)
    await until(lambda: comes_to(Code.OK))
    assert (await client.call(service)).seconds >= 0.19
    await operator.fault(service, GET, by_header=True)
    await until(lambda: comes_to(Code.FAILED_PRECONDITION, headers=ABORT))
    assert (await client.call(service, headers=DELAY)).seconds >= 0.19
    assert (await client.call(service)).ok
    await operator.clear(fault)
    await until(lambda: comes_to(Code.OK, headers=ABORT))
    listing = await dev_host.stub.ListSubscriptions(pb.ListSubscriptionsRequest())
    assert not any(s.nack_count for s in listing.subscriptions), listing


async def code_of(channel: grpc.aio.Channel, path: str) -> Code:
    """How a call ends."""
    try:
        await get(channel, path)
    except grpc.aio.AioRpcError as error:
        return Code(error.code().value[0])
    return Code.OK


async def ends_with(channel: grpc.aio.Channel, code: Code, path: str = GET) -> bool:
    return await code_of(channel, path) is code


async def test_the_command_lets_calls_go_wrong_for_a_while(mesh_host: Host, service: str) -> None:
    """With the dev registry and a real Consul."""
    shop = await mesh_host.shop(service)
    channel = await mesh_host.channel(f"xds:///{service}")

    async with connect(mesh_host.registry) as registry:
        fault = await inject(registry, Wish(service=service, method="Get", abort=Code.ABORTED, percent=30))
        ended = await inject(registry, Wish(service=service, method="Buy", abort=Code.ABORTED, seconds=0.001))
        assert fault.path == GET

        async def is_a_share() -> bool:
            codes = [await code_of(channel, GET) for _ in range(200)]
            return abs(codes.count(Code.ABORTED) - 60) < 36  # more than five sigma

        await until(is_a_share)
        assert await ends_with(channel, Code.OK, BUY)
        assert (await held(registry, service))[0] == (fault,)
        assert await registry.get(ended.key) is None
        await registry.put(f"{FAULTS}{service}{BUY}", b"nonsense")
        assert await clear(registry, f"{service}/Get") == ((fault,), ())
        await until(lambda: _are_served(channel))
        with pytest.raises(Error, match=f"no fault is in force on {service}"):
            await clear(registry, f"{service}/Get")
        assert await clear(registry, service) == ((), (f"{FAULTS}{service}{BUY}",))
        with pytest.raises(Error, match=f"no fault is in force on {service}"):
            await clear(registry, service)
    assert shop.shop.calls


async def _are_served(channel: grpc.aio.Channel) -> bool:
    return [await code_of(channel, GET) for _ in range(30)] == [Code.OK] * 30


async def test_what_is_not_there_is_told(dev_host: Host, service: str) -> None:
    await dev_host.shop(service)
    async with connect(dev_host.registry) as registry:
        for asked, problem in (
            (Wish(service="nobody", abort=Code.ABORTED), "nobody registered nobody"),
            (Wish(service=service, method="Sell", abort=Code.ABORTED), f"{service} has no method Sell"),
        ):
            with pytest.raises(Error, match=problem):
                await inject(registry, asked)
        assert (await held(registry, service))[0] == ()


async def test_a_fault_outlives_its_sidecar_and_ends_at_its_time_all_the_same(
    dev_registry: RegistryProcess, short_tmp: Path, service: str
) -> None:
    """Nobody deletes its key, and the channel is the same all along."""
    registry = RegistrySettings(address=dev_registry.address)
    async with AsyncExitStack() as stack:
        shop = await stack.enter_async_context(Shop(service).running())
        operator = await stack.enter_async_context(operator_of(registry))
        async with host(short_tmp, registry.address, mtls=False) as before:
            await (await before.attach(shop, service)).until(pb.AttachResponse.STATE_SERVING)
            option = (BOOTSTRAP_OPTION, before.bootstrap.read_text())
            made = grpc.aio.insecure_channel(f"xds:///{service}", options=[option])
            channel = await stack.enter_async_context(made)
            short = await operator.fault(service, GET, abort=Code.DATA_LOSS, seconds=2)
            long = await operator.fault(service, BUY, abort=Code.DATA_LOSS)
            await until(lambda: ends_with(channel, Code.DATA_LOSS, BUY))
        async with host(short_tmp, registry.address, mtls=False) as after:
            await (await after.attach(shop, service)).until(pb.AttachResponse.STATE_SERVING)
            await until(lambda: _is_over(short))
            await until(lambda: ends_with(channel, Code.DATA_LOSS, BUY))
            await until(lambda: ends_with(channel, Code.OK, GET))
            await operator.clear(long)
            await until(lambda: ends_with(channel, Code.OK, BUY))


async def _is_over(fault: Fault) -> bool:
    return time_of_day() > fault.until


async def test_an_invalid_fault_changes_nothing_and_is_told(
    dev_host: Host, operator: Operator, service: str, caplog: pytest.LogCaptureFixture
) -> None:
    await dev_host.shop(service)
    channel = await dev_host.channel(f"xds:///{service}")
    fault = await operator.fault(service, GET, abort=Code.ABORTED)

    async def is_told() -> bool:
        return f"{fault.key} is not in force" in caplog.text and "percent: 101.0 is not" in caplog.text

    await until(lambda: ends_with(channel, Code.ABORTED))
    async with connect(dev_host.registry) as registry:
        await registry.put(fault.key, fault.serialize().replace(b"100", b"101"))
        await until(is_told)
        assert await ends_with(channel, Code.ABORTED)
        assert list((await held(registry, service))[1]) == [fault.key]
