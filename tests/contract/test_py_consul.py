"""py-consul's own calls, synchronous and asynchronous, find in the built-in registry what they find in a Consul."""

from __future__ import annotations

import asyncio
import importlib
import inspect
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.contract.steps import fresh
from tests.fixtures.consul import RegistryProcess

consul: Any = importlib.import_module("consul")  # which exports its names to no type checker
aio: Any = importlib.import_module("consul.aio")

# py-consul gives aiohttp its TLS settings by a name that aiohttp has replaced.
pytestmark = pytest.mark.filterwarnings("ignore:ssl_context is deprecated:DeprecationWarning")


class Client:
    """A py-consul client of either kind: whatever a call answers is awaited if need be."""

    def __init__(self, client: Any) -> None:
        self.api = client

    async def __call__(self, answer: Any) -> Any:
        return await answer if inspect.isawaitable(answer) else answer


@pytest.fixture(params=["sync", "aio"])
async def client(request: pytest.FixtureRequest, registry_process: RegistryProcess) -> AsyncIterator[Client]:
    where = urlsplit(registry_process.address)
    module = consul if request.param == "sync" else aio
    made = Client(module.Consul(host=where.hostname, port=where.port))
    yield made
    await made(made.api.http.close())


@pytest.fixture
async def web(client: Client) -> AsyncIterator[str]:
    """A registered service, by its name, that passes; its id has `-1` at the end."""
    name = fresh("web")
    agent = client.api.agent
    check = consul.Check.ttl("30s")
    assert await client(agent.service.register(
        name, service_id=f"{name}-1", address="127.0.0.1", port=80, tags=["blue"], meta={"zone": "z"}, check=check,
    ))  # fmt: skip
    assert await client(agent.check.ttl_pass(f"service:{name}-1", notes="fine"))
    yield name
    assert await client(agent.service.deregister(f"{name}-1"))


async def test_agent_services_and_checks(client: Client, web: str) -> None:
    agent = client.api.agent
    assert (await client(agent.services()))[f"{web}-1"]["Tags"] == ["blue"]
    assert (await client(agent.service_definition(f"{web}-1")))["Meta"] == {"zone": "z"}
    own = (await client(agent.checks()))[f"service:{web}-1"]
    assert (own["Status"], own["Output"]) == ("passing", "fine")


async def test_checks_are_registered_reported_and_removed(client: Client, web: str) -> None:
    agent, name = client.api.agent, fresh("check")
    ttl = consul.Check.ttl("30s")
    assert await client(agent.check.register(name, check=ttl, service_id=f"{web}-1", notes="by hand"))
    for report, status in (
        (agent.check.ttl_pass, "passing"), (agent.check.ttl_warn, "warning"), (agent.check.ttl_fail, "critical"),
    ):  # fmt: skip
        assert await client(report(name, notes="why"))
        found = (await client(agent.checks()))[name]
        assert (found["Status"], found["Notes"], found["ServiceID"]) == (status, "by hand", f"{web}-1")
    assert await client(agent.check.deregister(name))
    assert name not in await client(agent.checks())
    with pytest.raises(consul.ConsulException, match='ServiceID "none" does not exist'):
        await client(agent.check.register(name, check=ttl, service_id="none"))


async def test_agent_self_and_members(client: Client) -> None:
    agent = client.api.agent
    own = await client(agent.self())
    members = await client(agent.members())
    assert [member["Name"] for member in members] == [own["Config"]["NodeName"]]
    assert own["Stats"]["consul"]["leader"] == "true"


async def test_catalog(client: Client, web: str) -> None:
    catalog = client.api.catalog
    _, services = await client(catalog.services())
    assert services[web] == ["blue"]
    _, (instance,) = await client(catalog.service(web))
    assert (instance["ServiceID"], instance["ServicePort"], instance["ServiceMeta"]) == (f"{web}-1", 80, {"zone": "z"})
    assert (await client(catalog.service(web, tag="green")))[1] == []
    _, (node, *_) = await client(catalog.nodes())
    _, found = await client(catalog.node(node["Node"]))
    assert found["Services"][f"{web}-1"]["Service"] == web
    assert (await client(catalog.node("none")))[1] is None
    assert await client(catalog.datacenters()) == ["dc1"]


async def test_health(client: Client, web: str) -> None:
    health, agent = client.api.health, client.api.agent
    index, (entry,) = await client(health.service(web, passing=True))
    assert (entry["Service"]["Address"], entry["Service"]["Port"]) == ("127.0.0.1", 80)
    assert [c["Status"] for c in (await client(health.checks(web)))[1]] == ["passing"]
    assert f"service:{web}-1" in {c["CheckID"] for c in (await client(health.state("passing")))[1]}
    node = entry["Node"]["Node"]
    assert f"service:{web}-1" in {c["CheckID"] for c in (await client(health.node(node)))[1]}
    assert await client(agent.check.ttl_fail(f"service:{web}-1"))
    later, entries = await client(health.service(web, index=index, wait="10s", passing=True))
    while entries:
        later, entries = await client(health.service(web, index=later, wait="10s", passing=True))
    assert int(later) > int(index)


async def test_a_held_query_is_answered_by_a_change(client: Client, web: str) -> None:
    index, _ = await client(client.api.catalog.service(web))
    waiting = asyncio.create_task(_held(client, web, index))
    assert await client(client.api.agent.service.register(web, service_id=f"{web}-1", port=81))
    assert await waiting == 81


async def _held(client: Client, web: str, index: str) -> int:
    """Port of the one instance, when it has changed."""
    while True:
        index, (instance,) = await client(client.api.catalog.service(web, index=index, wait="10s"))
        if instance["ServicePort"] != 80:
            return int(instance["ServicePort"])


async def test_kv(client: Client) -> None:
    kv, key = client.api.kv, fresh("kv")
    assert await client(kv.put(f"{key}/a/x", "1", flags=42))
    assert await client(kv.put(f"{key}/a/y", b"\x00\xff"))
    assert await client(kv.put(f"{key}/b", None))
    index, entry = await client(kv.get(f"{key}/a/x"))
    assert (entry["Value"], entry["Flags"], entry["LockIndex"]) == (b"1", 42, 0)
    assert (await client(kv.get(f"{key}/a/y")))[1]["Value"] == b"\x00\xff"
    assert (await client(kv.get(f"{key}/b")))[1]["Value"] is None
    assert (await client(kv.get(f"{key}/none")))[1] is None
    assert [e["Key"] for e in (await client(kv.get(key, recurse=True)))[1]] == [f"{key}/a/x", f"{key}/a/y", f"{key}/b"]
    assert (await client(kv.get(f"{key}/", keys=True, separator="/")))[1] == [f"{key}/a/", f"{key}/b"]
    assert not await client(kv.put(f"{key}/a/x", "2", cas=0))
    assert not await client(kv.put(f"{key}/a/x", "2", cas=entry["ModifyIndex"] - 1))
    assert await client(kv.put(f"{key}/a/x", "2", cas=entry["ModifyIndex"]))
    later, changed = await client(kv.get(f"{key}/a/x", index=index, wait="10s"))
    assert (changed["Value"], int(later) > int(index)) == (b"2", True)
    assert not await client(kv.delete(f"{key}/a/x", cas=entry["ModifyIndex"]))
    assert await client(kv.delete(f"{key}/a/x", cas=changed["ModifyIndex"]))
    assert await client(kv.delete(key, recurse=True))
    assert (await client(kv.get(key, recurse=True)))[1] is None


async def test_config_entries(client: Client) -> None:
    config, name = client.api.config, fresh("entry")
    assert await client(config.set("service-defaults", name, {"Protocol": "grpc"}))
    found = await client(config.get("service-defaults", name))
    assert (found["Name"], found["Protocol"]) == (name, "grpc")
    assert name in {entry["Name"] for entry in await client(config.list("service-defaults"))}
    assert not await client(config.set("service-defaults", name, {"Protocol": "http"}, cas=1))
    assert await client(config.delete("service-defaults", name))
    assert name not in {entry["Name"] for entry in await client(config.list("service-defaults"))}


async def test_a_config_entry_that_has_changed_is_not_deleted(
    client: Client, registry_process: RegistryProcess
) -> None:
    if registry_process.name != "dev":
        pytest.skip("a Consul as old as 1.8 deletes whatever ?cas says")
    config, name = client.api.config, fresh("entry")
    assert await client(config.set("service-defaults", name, {"Protocol": "grpc"}))
    found = await client(config.get("service-defaults", name))
    assert not await client(config.delete("service-defaults", name, cas=found["ModifyIndex"] - 1))
    assert await client(config.delete("service-defaults", name, cas=found["ModifyIndex"]))
    assert await client(config.get("service-defaults", name)) is None


async def test_status(client: Client) -> None:
    leader = await client(client.api.status.leader())
    assert leader
    assert await client(client.api.status.peers()) == [leader]


async def test_operator(client: Client) -> None:
    (server,) = (await client(client.api.operator.raft_config()))["Servers"]
    assert (server["Leader"], server["Voter"]) == (True, True)


async def test_what_is_not_supported_says_so(client: Client, registry_process: RegistryProcess) -> None:
    if registry_process.name != "dev":
        pytest.skip("a real Consul has sessions")
    api = client.api
    calls: tuple[Callable[[], Any], ...] = (
        lambda: api.session.create(),
        lambda: api.catalog.register("elsewhere", "127.0.0.1"),
        lambda: api.agent.service.register("probed", check=consul.Check.tcp("127.0.0.1", 80, "5s")),
        lambda: api.agent.check.register("of-the-node", check=consul.Check.ttl("5s")),
        lambda: api.txn.put([{"KV": {"Verb": "get", "Key": "x"}}]),
    )
    for call in calls:
        with pytest.raises(consul.ConsulException, match="set CONSUL_HTTP_ADDR to a real Consul"):
            await client(call())
