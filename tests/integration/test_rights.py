"""What a token of a real Consul that denies by default must allow, and what becomes of one that does not."""

from __future__ import annotations

import asyncio
import json
import re
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gateway.control import follow
from gateway.security import EDGE
from gateway.settings import EdgeSettings
from gateway.source import EdgeSource
from mesh.announced import SERVICE
from mesh.catalog_watcher import CatalogWatcher
from mesh.identity import Identities
from mesh.metrics_page import listed
from mesh.registry import Health, RegistrySettings, connect
from mesh.scope import Scope
from mesh.xds.snapshot import ENDPOINT
from meshwright.sidecar.v1 import sidecar_service_pb2 as pb
from tests.fixtures.operator import operator_of
from tests.fixtures.secured import secured_host
from tests.fixtures.shop import Shop, get, host, until

if TYPE_CHECKING:
    from tests.fixtures.consul import RegistryProcess

PAGE = (Path(__file__).parents[2] / "docs" / "several-machines.md").read_text()
OTHERS = {
    "register": ("PUT", "/v1/agent/service/register", {"Name": "other"}),
    "certificate": ("GET", "/v1/agent/connect/ca/leaf/other", None),
    "contract": ("PUT", "/v1/kv/mesh/contracts/other", {}),
    "service config": ("PUT", "/v1/kv/mesh/service-config/greeter", {}),
    "config entry": ("PUT", "/v1/config", {"Kind": "service-defaults", "Name": "other", "Protocol": "grpc"}),
    "intention": ("PUT", "/v1/connect/intentions/exact?source=a&destination=other", {"Action": "allow"}),
    "authority": ("GET", "/v1/connect/ca/configuration", None),
}
"""What is not a sidecar's, whose programs are `greeter`."""


def rights(of: str) -> list[str]:
    """The rules that the page has for a sidecar or the gateway."""
    (found,) = (block for block in re.findall(r"(?:^ {4}\w+ .*\n)+", PAGE, re.MULTILINE) if f'service "{of}"' in block)
    return [line.strip() for line in found.splitlines()]


def token(consul: RegistryProcess, name: str, rules: list[str]) -> str:
    """A new token with a policy of its own."""
    policy = consul.ask("PUT", "/v1/acl/policy", {"Name": name, "Rules": "\n".join(rules)})
    made: str = consul.ask("PUT", "/v1/acl/token", {"Policies": [{"ID": policy["ID"]}]})["SecretID"]
    return made


async def test_a_token_with_the_documented_rights_is_enough_for_calls_and_for_policy(
    consul_with_acl: RegistryProcess, short_tmp: Path
) -> None:
    settings = consul_with_acl.settings()
    own, edge = (token(consul_with_acl, f"documented-{of}", rights(of)) for of in ("greeter", EDGE))
    allowed = {"SourceName": "mesh", "DestinationName": "greeter", "SourceType": "consul", "Action": "allow"}
    key = consul_with_acl.ask("POST", "/v1/connect/intentions", allowed)["ID"]
    async with (
        operator_of(settings) as operator, secured_host(short_tmp, settings.address, own) as made,
        made.serving("greeter"),
    ):  # fmt: skip
        assert (await made.get("mesh", "greeter")).endswith("/svc/mesh")
        watch = made.plain.stub.WatchPolicy(pb.WatchPolicyRequest(service="greeter"))
        await operator.config("greeter", methodConfig=[{"name": [{}], "timeout": "1.250s"}])
        await until_timeout(watch, 1250)
        route = {"Match": {"HTTP": {"PathPrefix": "/"}}, "Destination": {"RequestTimeout": "750ms"}}
        await operator.entry("service-router", "greeter", Routes=[route])
        await until_timeout(watch, 750)
        with listed(made.plain.socket.parent, "sidecar"):
            await until(lambda: is_announced(made.plain.registry))
        await until_the_edge_routes(consul_with_acl.settings(token=edge), "greeter", short_tmp / "edge")
    consul_with_acl.ask("DELETE", f"/v1/connect/intentions/{key}")


@pytest.mark.parametrize("what", OTHERS)
def test_a_token_with_the_documented_rights_may_do_no_more(consul_with_acl: RegistryProcess, what: str) -> None:
    own = token(consul_with_acl, f"no-more-{what.replace(' ', '-')}", rights("greeter"))
    method, path, body = OTHERS[what]
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(consul_with_acl.address + path, data, {"X-Consul-Token": own}, method=method)
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=10)
    caught.value.close()
    assert caught.value.code == 403


async def test_intentions_for_its_programs_can_be_read(consul_with_acl: RegistryProcess) -> None:
    own = token(consul_with_acl, "intentions", rights("greeter"))
    made = {"SourceName": "x", "DestinationName": "greeter", "SourceType": "consul", "Action": "deny"}
    key = consul_with_acl.ask("POST", "/v1/connect/intentions", made)["ID"]
    async with connect(consul_with_acl.settings(token=own)) as registry:
        _, found = await registry._read("/v1/connect/intentions")
    assert [one["SourceName"] for one in found] == ["x"]
    consul_with_acl.ask("DELETE", f"/v1/connect/intentions/{key}")


async def test_a_token_without_rights_on_contracts_costs_the_policy_but_no_call(
    consul_with_acl: RegistryProcess, short_tmp: Path, service: str
) -> None:
    allowed = {"service": "write", "node": "read", "agent": "read"}
    rules = [f'{kind}_prefix "" {{ policy = "{right}" }}' for kind, right in allowed.items()]
    own = token(consul_with_acl, service, rules)
    async with host(short_tmp, consul_with_acl.settings().address, own) as mesh_host:
        shop = await mesh_host.shop(service)
        assert await get(await mesh_host.channel(f"xds:///{service}")) == shop.shop.name


async def test_what_a_token_may_not_do_is_said_once_and_tried_again_when_it_may(
    consul_with_acl: RegistryProcess, short_tmp: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its own certificate first, then the registration of a program."""
    name = f"less-{short_tmp.name}"
    less = [rule for rule in rights("greeter") if 'service "' not in rule]
    policy = consul_with_acl.ask("PUT", "/v1/acl/policy", {"Name": name, "Rules": "\n".join(less)})
    own = consul_with_acl.ask("PUT", "/v1/acl/token", {"Policies": [{"ID": policy["ID"]}]})["SecretID"]
    leaf, register = "/v1/agent/connect/ca/leaf/mesh", "/v1/agent/service/register"
    more = {"ID": policy["ID"], "Name": name, "Rules": "\n".join([*less, 'service "mesh" { policy = "write" }'])}

    async def refused(path: str) -> bool:
        said = consul_with_acl.log.read_text().splitlines()
        return sum(path in line and "Permission denied" in line for line in said) >= 2

    async with asyncio.TaskGroup() as group:
        joining = group.create_task(join(short_tmp, consul_with_acl.address, own, lambda: refused(register)))
        await until(lambda: refused(leaf))
        assert caplog.text.count(leaf) == 1
        await asyncio.to_thread(consul_with_acl.ask, "PUT", f"/v1/acl/policy/{policy['ID']}", more)
    assert caplog.text.count(f"{joining.result()}: ") == 1
    assert own not in caplog.text


async def join(folder: Path, registry: str, own: str, is_refused: Callable[[], Awaitable[bool]]) -> str:
    """Put a program on the mesh until that is known to be refused; its id."""
    async with secured_host(folder, registry, own) as made, Shop(f"greeter-{folder.name}").running() as shop:
        await made.plain.attach(shop, "greeter")
        await until(is_refused)
        return shop.name


async def is_announced(settings: RegistrySettings) -> bool:
    """Whether Prometheus can find the metrics of a sidecar."""
    async with connect(settings) as registry:
        return any(one.health is Health.PASSING for one in await registry.instances(SERVICE))


async def until_the_edge_routes(settings: RegistrySettings, service: str, folder: Path) -> None:
    """What the gateway has with this token: its certificate, the descriptors of a service, and where it is."""
    async with (
        asyncio.timeout(20), connect(settings) as registry, CatalogWatcher(registry) as catalog, Scope() as scope,
    ):  # fmt: skip
        known_as = Identities(registry, folder, scope, EDGE)
        await known_as.ready(EDGE)
        told = EdgeSettings(reflection_socket=Path("/none"), http_socket=Path("/none"), identity=known_as.folder(EDGE))
        source = EdgeSource(told, spiffe_id=known_as.spiffe_id)
        scope.start(follow(registry, catalog, source))
        async for snapshot in source.changes():
            if list(source.reflected()[0]) == ["shop.v1.Shop"] and service in snapshot.of_type(ENDPOINT):
                return


async def until_timeout(watch: Any, milliseconds: int) -> None:
    """Until the policy says so."""
    async with asyncio.timeout(20):
        while (await watch.read()).fallback.timeout.ToMilliseconds() != milliseconds:
            pass
