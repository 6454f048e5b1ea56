"""The sidecar and an xDS client made by hand: what is refused is shown, what did not change is not sent again."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.service.discovery.v3.discovery_pb2 import DiscoveryResponse

from mesh.registry import connect
from mesh.xds.snapshot import CLUSTER, ENDPOINT, LISTENER, ROUTE
from meshwright.sidecar.v1 import sidecar_service_pb2 as pb
from tests.fixtures.ads import TYPES, AdsClient
from tests.fixtures.consul import RegistryProcess
from tests.fixtures.shop import Host, Shop, host, until

SERVING = pb.AttachResponse.STATE_SERVING
WHY = "a field that I do not know"


@pytest.fixture
async def two_shops(service: str) -> AsyncIterator[tuple[Shop, Shop]]:
    """Two instances that outlive sidecars."""
    async with Shop(f"{service}-1").running() as one, Shop(f"{service}-2").running() as other:
        yield one, other


def ports(response: DiscoveryResponse) -> set[int]:
    """Ports of the endpoints in a response."""
    assignments = [ClusterLoadAssignment.FromString(resource.value) for resource in response.resources]
    found = [e.endpoint.address.socket_address.port_value
             for a in assignments for locality in a.endpoints for e in locality.lb_endpoints]
    return set(found)


async def test_a_refusal_is_counted_logged_and_listed_and_the_version_is_not_sent_again(
    mesh_host: Host, service: str, caplog: pytest.LogCaptureFixture
) -> None:
    first, client = await mesh_host.shop(service), AdsClient()
    async with client.connected(mesh_host.socket):
        for type_url in (LISTENER, ROUTE, CLUSTER):
            await client.ask(type_url, service)
            await client.take()
        await client.ask(ENDPOINT, service)
        refused = await client.receive()
        with caplog.at_level(logging.WARNING, logger="mesh.xds"):
            await client.ask(ENDPOINT, refusal=WHY)
            await until(lambda: _nacks(mesh_host, ENDPOINT, 1))
        assert [r.getMessage() for r in caplog.records] == [f"by-hand (gRPC C-core by hand) refused {ENDPOINT}: {WHY}"]
        second = await mesh_host.shop(service)
        response = await client.take()
        assert (response.type_url, ports(response)) == (ENDPOINT, {first.shop.port, second.shop.port})
        assert response.version_info != refused.version_info
        await until(lambda: _accepted(mesh_host, ENDPOINT, response.version_info))
        (listed,) = await _listed(mesh_host, ENDPOINT)
        assert (listed.node, listed.nack_count, listed.last_nack) == ("by-hand", 1, WHY)


@pytest.mark.parametrize("order", [TYPES, TYPES[::-1], (ENDPOINT, LISTENER, CLUSTER, ROUTE)])
async def test_nothing_is_sent_again_after_a_restart_of_the_sidecar(
    registry_address: str, short_tmp: Path, service: str, two_shops: tuple[Shop, Shop], order: tuple[str, ...]
) -> None:
    shop, other = two_shops
    client = AdsClient()
    async with host(short_tmp, registry_address, mtls=False) as before:
        await (await before.attach(shop, service)).until(SERVING)
        async with client.connected(before.socket):
            await client.hold(service)
    async with host(short_tmp, registry_address, mtls=False) as after, client.connected(after.socket):
        await client.resume(*order)
        await (await after.attach(shop, service)).until(SERVING)
        await (await after.attach(other, service)).until(SERVING)
        response = await client.take()
        assert (response.type_url, ports(response)) == (ENDPOINT, {shop.port, other.port})


async def test_nothing_is_sent_again_by_a_sidecar_that_lost_its_copy_of_the_catalog(
    registry_address: str, short_tmp: Path, service: str, two_shops: tuple[Shop, Shop]
) -> None:
    shop, other = two_shops
    client = AdsClient()
    async with host(short_tmp, registry_address, mtls=False) as before:
        await (await before.attach(shop, service)).until(SERVING)
        async with client.connected(before.socket):
            await client.hold(service)
    (short_tmp / "catalog.json").unlink()
    async with host(short_tmp, registry_address, mtls=False) as after, client.connected(after.socket):
        await client.resume(ENDPOINT, CLUSTER, ROUTE, LISTENER)
        await until(lambda: _accepted(after, ENDPOINT, client.held[ENDPOINT].version))
        await (await after.attach(shop, service)).until(SERVING)
        await (await after.attach(other, service)).until(SERVING)
        response = await client.take()
        assert (response.type_url, ports(response)) == (ENDPOINT, {shop.port, other.port})


async def test_nothing_is_sent_again_after_a_restart_of_the_registry(
    lasting_registry: RegistryProcess, short_tmp: Path, service: str
) -> None:
    async with host(short_tmp, lasting_registry.settings().address) as mesh_host:
        first, client = await mesh_host.shop(service), AdsClient()
        async with client.connected(mesh_host.socket):
            await client.hold(service)
            lasting_registry.restart()
            await until(lambda: _is_registered(lasting_registry, service, first.id))
            second = await mesh_host.shop(service)
            response = await client.take()
            assert (response.type_url, ports(response)) == (ENDPOINT, {first.shop.port, second.shop.port})
        assert {held.count for type_url, held in client.held.items() if type_url != ENDPOINT} == {1}


async def _listed(mesh_host: Host, type_url: str) -> list[pb.Subscription]:
    listing = await mesh_host.stub.ListSubscriptions(pb.ListSubscriptionsRequest())
    return [s for s in listing.subscriptions if s.type_url == type_url]


async def _nacks(mesh_host: Host, type_url: str, count: int) -> bool:
    return [s.nack_count for s in await _listed(mesh_host, type_url)] == [count]


async def _accepted(mesh_host: Host, type_url: str, version: str) -> bool:
    return [s.acked_version for s in await _listed(mesh_host, type_url)] == [version]


async def _is_registered(registry: RegistryProcess, service: str, instance: str) -> bool:
    async with connect(registry.settings()) as client:
        return [i.id for i in await client.instances(service)] == [instance]
