"""The contract in force is taken from a living instance, also when the one that had it, or the registry, lost it."""

from __future__ import annotations

from pathlib import Path

from mesh.contract import PREFIX
from mesh.registry import connect
from tests.fixtures.shop import Host, host, until
from tests.integration.test_contracts import V1, V2, comes_in_force, in_force


async def test_a_contract_that_the_registry_lost_is_published_again(mesh_host: Host, service: str) -> None:
    await mesh_host.shop(service, descriptors=V1)
    async with connect(mesh_host.registry) as registry:
        await registry.delete(PREFIX + service)

        async def is_back() -> bool:
            return await registry.get(PREFIX + service) is not None

        await until(is_back)


async def test_the_contract_of_a_lost_host_gives_way_when_its_ttl_has_expired(
    mesh_host: Host, short_tmp: Path, service: str
) -> None:
    await mesh_host.shop(service, descriptors=V1)
    (short_tmp / "other").mkdir()
    async with host(short_tmp / "other", mesh_host.registry.address) as lost:
        await lost.shop(service, descriptors=V2)
    assert await in_force(mesh_host, service) == ("shop.v1.Shop", "shop.v2.Shop")
    await comes_in_force(mesh_host, service, "shop.v1.Shop", seconds=60)
