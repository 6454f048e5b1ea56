"""What every registry does, through the Registry protocol: the built-in one and a real Consul."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from functools import partial
from itertools import pairwise
from typing import Any

import pytest

from mesh.errors import Code, Error
from mesh.registry import Health, Instance, Registry
from mesh.registry.consul import ConsulRegistry
from mesh.registry.model import Intended
from tests.contract.steps import DEADLINE_SECONDS, fresh, healths, ids, join, registration, seen, until
from tests.fixtures.consul import RegistryProcess

pytestmark = pytest.mark.usefixtures("registry_address")


async def test_client_is_a_registry(registry: ConsulRegistry) -> None:
    """The type checker proves the client's interface; this makes it run."""
    client: Registry = registry
    assert await client.instances(fresh()) == ()


async def test_registered_instance_is_found_as_announced(registry: Registry) -> None:
    service = fresh()
    wanted = await join(registry, service, port=7001)
    (found,) = await seen(registry, service, lambda found: healths(found) == [Health.PASSING])
    assert found == Instance(
        service=service, id=wanted.id, address="127.0.0.1", port=7001, tags=("v1",), meta={"zone": "a"},
        node=found.node, health=Health.PASSING,
    )  # fmt: skip
    assert found.node


async def test_instance_is_critical_until_its_first_report(registry: Registry) -> None:
    service = fresh()
    await registry.register(registration(service))
    assert healths(await seen(registry, service, bool)) == [Health.CRITICAL]


async def test_instances_are_sorted_by_id(registry: Registry) -> None:
    service = fresh()
    joined = [await join(registry, service) for _ in range(5)]
    found = await seen(registry, service, lambda found: len(found) == 5)
    assert ids(found) == sorted(instance.id for instance in joined)


async def test_registering_again_changes_the_instance_and_keeps_its_health(registry: Registry) -> None:
    service = fresh()
    first = await join(registry, service, port=7001)
    await seen(registry, service, lambda found: healths(found) == [Health.PASSING])
    await registry.register(type(first)(service=service, id=first.id, address="127.0.0.2", port=7002, tags=("v2",)))
    (found,) = await seen(registry, service, lambda found: found[0].port == 7002)
    assert (found.address, found.tags, found.meta, found.health) == ("127.0.0.2", ("v2",), {}, Health.PASSING)


async def test_each_health_is_reported_with_its_output(registry: Registry) -> None:
    service = fresh()
    instance = await join(registry, service)
    for health, output in [(Health.WARNING, "slow"), (Health.CRITICAL, "leaving"), (Health.PASSING, "")]:
        await registry.report(instance.id, health, output)
        (found,) = await seen(registry, service, partial(_all_are, health))
        assert found.output == output


def _all_are(health: Health, found: tuple[Instance, ...]) -> bool:
    return healths(found) == [health]


async def test_report_on_a_forgotten_instance_is_not_found(registry: Registry) -> None:
    with pytest.raises(Error, match="register it") as caught:
        await registry.report(fresh("gone"), Health.PASSING)
    assert (caught.value.code, caught.value.reason) == (Code.NOT_FOUND, "INSTANCE_NOT_REGISTERED")


async def test_check_turns_critical_when_no_report_arrives(registry: Registry) -> None:
    service = fresh()
    instance = registration(service, ttl_seconds=1)
    await registry.register(instance)
    await registry.report(instance.id, Health.PASSING, "fine")
    (found,) = await seen(registry, service, lambda found: "TTL expired" in found[0].output if found else False)
    assert found.health is Health.CRITICAL
    assert found.output.endswith("fine")


async def test_expired_check_passes_again_with_the_next_report(registry: Registry) -> None:
    service = fresh()
    instance = registration(service, ttl_seconds=1)
    await registry.register(instance)
    await registry.report(instance.id, Health.PASSING)
    await seen(registry, service, lambda found: "TTL expired" in found[0].output if found else False)
    await registry.report(instance.id, Health.PASSING)
    await seen(registry, service, lambda found: healths(found) == [Health.PASSING])


async def test_deregistered_instance_is_gone(registry: Registry) -> None:
    service = fresh()
    stays, leaves = await join(registry, service), await join(registry, service)
    await registry.deregister(leaves.id)
    assert ids(await seen(registry, service, lambda found: len(found) == 1)) == [stays.id]


async def test_deregistering_an_absent_instance_is_fine(registry: Registry) -> None:
    await registry.deregister(fresh("absent"))


async def test_services_have_the_union_of_tags_and_not_consul_itself(registry: Registry) -> None:
    service = fresh()
    first = registration(service)
    await registry.register(first)
    await registry.register(type(first)(service=service, id=fresh(), address="::1", port=7002, tags=("v2", "v1")))
    found = await until(registry.watch_services(), lambda found: len(found.get(service, ())) == 2)
    assert found[service] == ("v1", "v2")
    assert "consul" not in found
    assert await registry.services() == found


async def test_service_name_vanishes_with_its_last_instance(registry: Registry) -> None:
    service = fresh()
    instance = await join(registry, service)
    values = registry.watch_services()
    await until(values, lambda found: service in found)
    await registry.deregister(instance.id)
    await until(values, lambda found: service not in found)


async def test_watch_yields_at_once_for_an_unknown_service_and_then_each_change(registry: Registry) -> None:
    service = fresh()
    values = registry.watch_instances(service)
    assert await until(values, lambda found: True) == ()
    instance = await join(registry, service)
    await until(values, lambda found: healths(found) == [Health.PASSING])
    await registry.report(instance.id, Health.CRITICAL, "exited")
    assert (await until(values, lambda found: healths(found) == [Health.CRITICAL]))[0].output == "exited"
    await registry.deregister(instance.id)
    assert await until(values, lambda found: found == ()) == ()


async def test_watch_never_yields_the_same_twice(registry: Registry) -> None:
    service, end = fresh(), fresh()
    instance = await join(registry, service)
    values = registry.watch_instances(service)
    yielded = [await until(values, lambda found: healths(found) == [Health.PASSING])]
    for _ in range(10):
        await registry.report(instance.id, Health.PASSING)
    await registry.register(type(instance)(service=service, id=end, address="127.0.0.1", port=7009))
    while end not in ids(yielded[-1]):
        yielded.append(await until(values, lambda found: True))
    assert all(before != after for before, after in pairwise(yielded))
    assert len(yielded) <= 3


async def test_many_watches_run_side_by_side(registry: Registry) -> None:
    services = [fresh() for _ in range(100)]
    watches = [registry.watch_instances(service) for service in services]
    for values in watches:
        assert await until(values, lambda found: True) == ()
    for service in services:
        await registry.register(registration(service))
    async with asyncio.timeout(DEADLINE_SECONDS):
        found = await asyncio.gather(*(until(values, bool) for values in watches))
    assert [instances[0].service for instances in found] == services


@pytest.mark.parametrize("value", [b"", b"plain", bytes(range(256)), b"\x00" * (512 * 1024)], ids=len)
async def test_value_is_read_as_written(registry: Registry, value: bytes) -> None:
    key = fresh("contract/key")
    assert await registry.get(key) is None
    await registry.put(key, value)
    assert await registry.get(key) == value
    await registry.delete(key)
    assert await registry.get(key) is None


@pytest.mark.parametrize(
    "key", ["with space", "per%cent", "question?mark", "hash#tag", "ümlaut/ß", "folder/", "plus+&="]
)
async def test_key_may_hold_any_character(registry: Registry, key: str) -> None:
    key = f"{fresh('contract/odd')}/{key}"
    await registry.put(key, b"found")
    assert await registry.get(key) == b"found"
    assert await until(registry.watch_prefix(key), lambda found: True) == {key: b"found"}


async def test_value_above_the_limit_is_refused(registry: Registry) -> None:
    with pytest.raises(Error, match="524288") as caught:
        await registry.put(fresh("contract/big"), b"x" * (512 * 1024 + 1))
    assert caught.value.code is Code.INVALID_ARGUMENT


@pytest.mark.parametrize("key", ["", "/leading", "a//b", "a/../b", "."])
async def test_key_that_cannot_be_is_refused(registry: Registry, key: str) -> None:
    with pytest.raises(Error, match="cannot be a key"):
        await registry.put(key, b"")


async def test_deleting_an_absent_key_is_fine(registry: Registry) -> None:
    await registry.delete(fresh("contract/absent"))


async def test_prefix_watch_follows_puts_changes_and_deletes(registry: Registry) -> None:
    prefix = fresh("contract/watch") + "/"
    values = registry.watch_prefix(prefix)
    assert await until(values, lambda found: True) == {}
    await registry.put(f"{prefix}a", b"1")
    assert await until(values, bool) == {f"{prefix}a": b"1"}
    await registry.put(f"{prefix}b", b"2")
    await until(values, lambda found: found == {f"{prefix}a": b"1", f"{prefix}b": b"2"})
    await registry.put(f"{prefix}a", b"3")
    await until(values, lambda found: found[f"{prefix}a"] == b"3")
    assert await registry.values(prefix) == {f"{prefix}a": b"3", f"{prefix}b": b"2"}
    await registry.delete(f"{prefix}b")
    await until(values, lambda found: found == {f"{prefix}a": b"3"})
    await registry.delete(f"{prefix}a")
    await until(values, lambda found: found == {})
    assert await registry.values(prefix) == {}


async def test_config_entries_are_followed(registry: Registry) -> None:
    name = fresh()
    values = registry.watch_config_entries("service-defaults")
    await until(values, lambda found: name not in {entry["Name"] for entry in found})
    await registry.put_config_entry({"Kind": "service-defaults", "Name": name, "Protocol": "grpc"})
    found = await until(values, lambda found: name in {entry["Name"] for entry in found})
    (entry,) = (entry for entry in found if entry["Name"] == name)
    assert (entry["Kind"], entry["Protocol"]) == ("service-defaults", "grpc")
    assert [entry["Name"] for entry in found] == sorted(entry["Name"] for entry in found)
    await registry.delete_config_entry("service-defaults", name)
    await until(values, lambda found: name not in {entry["Name"] for entry in found})


async def test_router_is_read_as_written(registry: Registry) -> None:
    name = fresh()
    routes = [{"Match": {"HTTP": {"PathExact": "/a"}}, "Destination": {"RequestTimeout": "2s", "NumRetries": 3}}]
    await registry.put_config_entry({"Kind": "service-defaults", "Name": name, "Protocol": "grpc"})
    await registry.put_config_entry({"Kind": "service-router", "Name": name, "Routes": routes})
    found = await until(registry.watch_config_entries("service-router"), bool)
    assert {entry["Name"]: entry["Routes"] for entry in found}[name] == routes


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"Kind": "service-defaults"}, "needs Kind and Name"),
        ({"Kind": "nonsense", "Name": "x"}, "invalid config entry kind"),
        ({"Kind": "service-router", "Name": "unknown-protocol", "Routes": []}, "does not permit advanced routing"),
    ],
)
async def test_bad_config_entry_is_refused_in_consuls_words(
    registry: Registry, entry: dict[str, object], words: str
) -> None:
    with pytest.raises(Error, match=words) as caught:
        await registry.put_config_entry(entry)
    assert caught.value.code is Code.INVALID_ARGUMENT


async def test_watching_a_kind_that_does_not_exist_raises(registry: Registry) -> None:
    with pytest.raises(Error, match="invalid config entry kind") as caught:
        await until(registry.watch_config_entries("nonsense"), lambda found: True)
    assert caught.value.code is Code.INVALID_ARGUMENT


async def test_deleting_an_absent_config_entry_is_fine(registry: Registry) -> None:
    await registry.delete_config_entry("service-router", fresh())


@pytest.mark.parametrize("name", ["dotted.name", "under_score", "with space", "slash/ed", "ümlaut"])
async def test_service_name_may_hold_odd_characters(registry: Registry, name: str) -> None:
    service = f"{fresh()}-{name}"
    instance = await join(registry, service)
    assert ids(await seen(registry, service, lambda found: healths(found) == [Health.PASSING])) == [instance.id]


async def test_intentions_are_watched_with_the_default(
    registry: ConsulRegistry, registry_process: RegistryProcess
) -> None:
    source, destination = fresh(), fresh()
    body = {"SourceName": source, "DestinationName": destination, "SourceType": "consul", "Action": "deny"}
    watch = registry.watch_intended()
    async with asyncio.timeout(DEADLINE_SECONDS):
        assert (await anext(watch)).default_allow
        made = await asyncio.to_thread(registry_process.ask, "POST", "/v1/connect/intentions", body)
        found = await intention_between(watch, source)
        assert found is not None
        assert (found["DestinationName"], found["Action"], found["Precedence"]) == (destination, "deny", 9)
        await asyncio.to_thread(registry_process.ask, "DELETE", f"/v1/connect/intentions/{made['ID']}")
        while await intention_between(watch, source):
            pass


async def intention_between(watch: AsyncIterator[Intended], source: str) -> Mapping[str, Any] | None:
    """That of a service in the next that the registry tells."""
    return next((one for one in (await anext(watch)).intentions if one["SourceName"] == source), None)
