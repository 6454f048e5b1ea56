"""Whose contract is in force while instances with different ones come, leave and die: on both registries."""

from __future__ import annotations

from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

from mesh.contract import PREFIX, Contract
from mesh.registry import connect
from meshwright.sidecar.v1 import sidecar_service_pb2 as pb
from tests.fixtures.consul import RegistryProcess
from tests.fixtures.shop import Host, host, until


def offering(*names: str) -> bytes:
    """Descriptors of gRPC services without methods."""
    files = []
    for name in names:
        package, _, simple = name.rpartition(".")
        files.append(FileDescriptorProto(name=f"{name}.proto", package=package))
        files[-1].service.add(name=simple)
    return FileDescriptorSet(file=files).SerializeToString()


V1, V2, OTHER = offering("shop.v1.Shop"), offering("shop.v1.Shop", "shop.v2.Shop"), offering("hello.v1.Hello")


async def in_force(mesh_host: Host, service: str) -> tuple[str, ...]:
    """The gRPC services of the contract in the registry."""
    async with connect(mesh_host.registry) as registry:
        return Contract.parse(await registry.get(PREFIX + service) or b"").services


async def comes_in_force(mesh_host: Host, service: str, *names: str, seconds: float = 30) -> None:
    async def holds() -> bool:
        return await in_force(mesh_host, service) == names

    await until(holds, seconds=seconds)


async def test_the_contract_of_a_living_instance_comes_back_when_the_last_with_a_newer_one_leaves(
    mesh_host: Host, service: str
) -> None:
    await mesh_host.shop(service, descriptors=V1)
    newer = await mesh_host.shop(service, descriptors=V2)
    assert (await in_force(mesh_host, service), newer.reason) == (("shop.v1.Shop", "shop.v2.Shop"), "")
    await newer.leave()
    await comes_in_force(mesh_host, service, "shop.v1.Shop")


async def test_what_offers_nothing_of_what_the_others_offer_is_told_so_and_has_its_turn_when_they_have_left(
    mesh_host: Host, service: str
) -> None:
    first = await mesh_host.shop(service, descriptors=V1)
    stranger = await mesh_host.shop(service, descriptors=OTHER)
    assert f"is {service} the right name? This program offers hello.v1.Hello; " in stranger.reason
    assert await in_force(mesh_host, service) == ("shop.v1.Shop",)
    await first.leave()
    await comes_in_force(mesh_host, service, "hello.v1.Hello")


async def test_an_instance_that_does_not_serve_keeps_its_contract_in_force(mesh_host: Host, service: str) -> None:
    first = await mesh_host.shop(service, descriptors=V1)
    await first.shop.be(serving=False)
    await first.until(pb.AttachResponse.STATE_NOT_SERVING)
    stranger = await mesh_host.shop(service, descriptors=OTHER)
    assert stranger.reason
    assert await in_force(mesh_host, service) == ("shop.v1.Shop",)


async def test_of_those_that_stay_the_one_that_joined_last_decides(
    dev_registry: RegistryProcess, short_tmp: Path, service: str
) -> None:
    async with host(short_tmp, dev_registry.address) as mesh_host:
        for day, names in ((2, ["shop.v1.Shop", "shop.v2.Shop"]), (1, ["shop.v1.Shop"])):
            began = {"start-time": f"2026-01-0{day}T00:00:00Z"}
            await mesh_host.shop(service, descriptors=offering(*names), meta=began)
        newest = await mesh_host.shop(service, descriptors=offering("shop.v1.Shop", "shop.v3.Shop"))
        await comes_in_force(mesh_host, service, "shop.v1.Shop", "shop.v3.Shop")
        await newest.leave()
        await comes_in_force(mesh_host, service, "shop.v1.Shop", "shop.v2.Shop")
