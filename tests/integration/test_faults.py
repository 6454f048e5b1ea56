"""Faults on purpose, as every language's own gRPC takes them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from mesh.errors import Code
from meshwright.sidecar.v1 import sidecar_service_pb2 as pb
from tests.fixtures.callers import Caller, caller
from tests.fixtures.consul import RegistryProcess
from tests.fixtures.operator import Operator, operator_of
from tests.fixtures.shop import BUY, GET, Host, host, until

KINDS = ("python-aio", "go", "node")
ABORT = {"x-envoy-fault-abort-grpc-request": "9", "x-envoy-fault-abort-request-percentage": "100"}
DELAY = {"x-envoy-fault-delay-request": "200", "x-envoy-fault-delay-request-percentage": "100"}


@pytest.fixture
async def dev_host(dev_registry: RegistryProcess, short_tmp: Path) -> AsyncIterator[Host]:
    """A sidecar on the dev registry."""
    async with host(short_tmp, dev_registry.address) as made:
        yield made


@pytest.fixture
async def operator(dev_host: Host) -> AsyncIterator[Operator]:
    """Whoever lets things go wrong."""
    async with operator_of(dev_host.registry) as made:
        yield made


@pytest.fixture(params=KINDS)
async def client(
    request: pytest.FixtureRequest, dev_host: Host, short_tmp: Path, node_packages: Path
) -> AsyncIterator[Caller]:
    """Each kind of client."""
    async with caller(request.param, dev_host.bootstrap, short_tmp) as made:
        yield made


async def named(context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
    return StringValue(value="served").SerializeToString()


async def test_every_kind_of_client_takes_aborts_delays_and_headers(
    client: Caller, dev_host: Host, operator: Operator, service: str
) -> None:
    """An abort is not sent again, though the contract lets Get be; calls of Buy go on."""
    shop = await dev_host.shop(service, named)
    assert (await client.call(service, headers=ABORT)).ok

    async def ends_with(code: int, **options: Any) -> bool:
        return (await client.call(service, **options)).code == code

    fault = await operator.fault(service, GET, abort=Code.UNAVAILABLE)
    await until(lambda: ends_with(Code.UNAVAILABLE))
    before = shop.shop.calls
    assert [(await client.call(service, path)).code for path in (GET, BUY)] == [Code.UNAVAILABLE, Code.OK]
    assert shop.shop.calls == before + 1
    await operator.fault(service, GET, delay_seconds=0.2)
    await until(lambda: ends_with(Code.OK))
    assert (await client.call(service)).seconds >= 0.2
    await operator.fault(service, GET, by_header=True)
    await until(lambda: ends_with(Code.FAILED_PRECONDITION, headers=ABORT))
    assert (await client.call(service, headers=DELAY)).seconds >= 0.2
    assert (await client.call(service)).ok
    await operator.clear(fault)
    await until(lambda: ends_with(Code.OK, headers=ABORT))
    listing = await dev_host.stub.ListSubscriptions(pb.ListSubscriptionsRequest())
    assert not any(s.nack_count for s in listing.subscriptions), listing
