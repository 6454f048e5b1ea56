"""The built-in registry and a real Consul answer the same requests with the same status and the same JSON shape."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from tests.contract.steps import DEADLINE_SECONDS, fresh
from tests.fixtures.consul import RegistryProcess

NAME = "raw-http"
KEY = f"contract/{NAME}"

REGISTER = json.dumps({
    "Name": NAME, "ID": NAME, "Address": "127.0.0.1", "Port": 99, "Tags": ["a", "b"], "Meta": {"zone": "z"},
    "Check": {"TTL": "60s", "DeregisterCriticalServiceAfter": "10m"},
})  # fmt: skip

ENTRIES = (
    {"Kind": "service-defaults", "Name": NAME, "Protocol": "grpc"},
    {"Kind": "service-resolver", "Name": NAME, "ConnectTimeout": "2s"},
)


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    text: str
    index: int
    content: Any
    headers: dict[str, str]


class Peer:
    """Plain HTTP to one registry."""

    def __init__(self, address: str, session: aiohttp.ClientSession) -> None:
        self._address = address
        self._session = session

    async def ask(self, line: str, body: str | bytes | None = None) -> Answer:
        """One request, as `METHOD /path?query`."""
        method, path = line.split(" ", 1)
        data = io.BytesIO(body.encode()) if isinstance(body, str) else body
        async with asyncio.timeout(DEADLINE_SECONDS):
            async with self._session.request(method, self._address + path, data=data) as answer:
                text = (await answer.read()).decode("utf-8", "replace")
        content = json.loads(text) if answer.content_type == "application/json" else None
        index = int(answer.headers.get("X-Consul-Index", 0))
        return Answer(answer.status, text, index, content, {k.lower(): v for k, v in answer.headers.items()})


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
async def peer(registry_address: str, session: aiohttp.ClientSession) -> Peer:
    return Peer(registry_address, session)


@pytest.fixture
async def pair(
    dev_registry: RegistryProcess, real_consul: RegistryProcess, session: aiohttp.ClientSession
) -> tuple[Peer, Peer]:
    """Both registries, with the same content."""
    peers = Peer(dev_registry.address, session), Peer(real_consul.address, session)
    for peer in peers:
        await peer.ask("PUT /v1/agent/service/register", REGISTER)
        await peer.ask(f"PUT /v1/kv/{KEY}", "hello")
        await peer.ask(f"PUT /v1/kv/{KEY}-empty")
        for entry in ENTRIES:
            await peer.ask("PUT /v1/config", json.dumps(entry))
    return peers


READS = [
    "GET /v1/agent/services",
    f"GET /v1/agent/service/{NAME}",
    "GET /v1/agent/service/none",
    "GET /v1/agent/checks",
    "GET /v1/agent/members",
    "GET /v1/catalog/services",
    f"GET /v1/catalog/service/{NAME}",
    "GET /v1/catalog/service/none",
    "GET /v1/catalog/service/",
    "GET /v1/catalog/nodes",
    "GET /v1/catalog/datacenters",
    f"GET /v1/health/service/{NAME}",
    f"GET /v1/health/service/{NAME}?tag=a&tag=b",
    f"GET /v1/health/service/{NAME}?tag=none",
    f"GET /v1/health/service/{NAME}?passing",
    f"GET /v1/health/service/{NAME}?passing=false",
    f"GET /v1/health/service/{NAME}?stale",
    f"GET /v1/health/service/{NAME}?consistent",
    f"GET /v1/health/service/{NAME}?stale&consistent",
    f"GET /v1/health/service/{NAME}?dc=dc1",
    f"GET /v1/health/service/{NAME}?dc=nowhere",
    f"GET /v1/health/service/{NAME}?ns=team",
    f"GET /v1/health/service/{NAME}?index=abc",
    f"GET /v1/health/service/{NAME}?index=-1",
    f"GET /v1/health/service/{NAME}?index=1&wait=1",
    f"GET /v1/health/service/{NAME}?index=1&wait=soon",
    "GET /v1/health/service/none",
    "GET /v1/health/service/",
    f"GET /v1/health/checks/{NAME}",
    "GET /v1/health/checks/none",
    "GET /v1/health/state/",
    "GET /v1/health/state/nonsense",
    "GET /v1/health/node/nowhere",
    "GET /v1/status/leader",
    "GET /v1/status/peers",
    f"GET /v1/kv/{KEY}",
    f"GET /v1/kv/{KEY}?raw",
    f"GET /v1/kv/{KEY}-empty",
    f"GET /v1/kv/{KEY}?recurse",
    f"GET /v1/kv/{KEY}?keys",
    "GET /v1/kv/contract/?keys&separator=/",
    "GET /v1/kv/contract/none",
    "GET /v1/kv/contract/none?recurse",
    "GET /v1/kv/contract/none?keys",
    "GET /v1/kv/",
    f"GET /v1/config/service-defaults/{NAME}",
    "GET /v1/config/service-defaults/none",
    "GET /v1/config/service-resolver",
    "GET /v1/config/nonsense",
]


@pytest.mark.parametrize("line", READS)
async def test_read(pair: tuple[Peer, Peer], line: str) -> None:
    dev, consul = [await peer.ask(line) for peer in pair]
    assert dev.status == consul.status
    assert (dev.index > 0) == (consul.index > 0) or consul.status == 500
    assert shape(_picked(dev.content)) == shape(_picked(consul.content))
    for header in ("content-type", "x-consul-knownleader", "x-consul-lastcontact"):
        if consul.status < 400:
            assert dev.headers.get(header) == consul.headers.get(header)
    if consul.status >= 400:
        assert dev.text.split(":")[0] == consul.text.split(":")[0]


WRITES = [
    ("PUT /v1/agent/service/register", ""),
    ("PUT /v1/agent/service/register", "x"),
    ("PUT /v1/agent/service/register", "[1]"),
    ("PUT /v1/agent/service/register", "{}"),
    ("PUT /v1/agent/service/register", '{"Name":"bad","Port":"abc"}'),
    ("PUT /v1/agent/service/register", '{"Name":"bad","Tags":"x"}'),
    ("PUT /v1/agent/service/register", '{"Name":"bad","Meta":{"a":1}}'),
    ("PUT /v1/agent/service/register", '{"Name":"bad","Meta":{"a b":"c"}}'),
    ("PUT /v1/agent/service/register", '{"Name":"bad","Nonsense":1}'),
    ("PUT /v1/agent/service/register", '{"Name":"bad","Check":{"TTL":"zz"}}'),
    ("PUT /v1/agent/service/register", '{"Name":"bad","Check":{"TTL":"5"}}'),
    ("PUT /v1/agent/service/register", '{"Name":"bad","Check":{"TTL":"-5s"}}'),
    ("PUT /v1/agent/service/register", '{"Name":"bad","Check":{"Name":"x"}}'),
    ("PUT /v1/agent/service/register", '{"name":"lower","id":"lower","checks":[{"ttl":"60s"},{"ttl":5000000000}]}'),
    ("POST /v1/agent/service/register", "{}"),
    ("GET /v1/agent/service/deregister/x", None),
    ("PUT /v1/agent/service/deregister/absent", None),
    ("PUT /v1/agent/check/pass/absent", None),
    ("PUT /v1/agent/check/update/absent", '{"Status":"passing"}'),
    (f"PUT /v1/agent/check/pass/service:{NAME}?note=fine", None),
    (f"PUT /v1/agent/check/warn/service:{NAME}", None),
    (f"PUT /v1/agent/check/fail/service:{NAME}", None),
    (f"PUT /v1/agent/check/update/service:{NAME}", '{"Status":"nonsense"}'),
    (f"PUT /v1/agent/check/update/service:{NAME}", '{"Output":"no status"}'),
    (f"PUT /v1/agent/check/update/service:{NAME}", '{"Status":'),
    (f"PUT /v1/agent/check/update/service:{NAME}", '{"Status":"passing","Nonsense":1}'),
    ("PUT /v1/agent/check/deregister/absent", None),
    ("DELETE /v1/health/service/x", None),
    (f"PUT /v1/kv/{KEY}?cas=0", "not replaced"),
    (f"PUT /v1/kv/{KEY}-new?cas=0&flags=42", "created"),
    (f"PUT /v1/kv/{KEY}?cas=abc", "x"),
    (f"PUT /v1/kv/{KEY}?flags=abc", "x"),
    ("PUT /v1/kv/", "x"),
    ("POST /v1/kv/x", "x"),
    (f"PUT /v1/kv/{KEY}-big", "x" * (512 * 1024)),
    (f"PUT /v1/kv/{KEY}-big", "x" * (512 * 1024 + 1)),
    (f"PUT /v1/kv/{KEY}-big", "x" * (2 * 1024 * 1024)),
    ("DELETE /v1/kv/contract/absent", None),
    (f"DELETE /v1/kv/{KEY}?cas=0", None),
    (f"DELETE /v1/kv/{KEY}?cas=1", None),
    (f"DELETE /v1/kv/{KEY}-b?recurse", None),
    ("PUT /v1/config", "x"),
    ("PUT /v1/config", "[1]"),
    ("PUT /v1/config", '{"Name":"web"}'),
    ("PUT /v1/config", '{"Kind":"nonsense","Name":"web"}'),
    ("PUT /v1/config", '{"Kind":"service-defaults"}'),
    ("PUT /v1/config", '{"Kind":"service-router","Name":"contract-tcp","Routes":[]}'),
    ("PUT /v1/config", '{"kind":"service-defaults","name":"contract-lower","protocol":"grpc"}'),
    ("PUT /v1/config?cas=0", json.dumps({"Kind": "service-defaults", "Name": NAME})),
    ("PUT /v1/config?cas=zz", json.dumps({"Kind": "service-defaults", "Name": NAME})),
    ("GET /v1/config", None),
    ("DELETE /v1/config/service-resolver/absent", None),
    ("DELETE /v1/config/nonsense/x", None),
]


@pytest.mark.parametrize(("line", "body"), WRITES, ids=lambda part: str(part)[:60])
async def test_write(pair: tuple[Peer, Peer], line: str, body: str | None) -> None:
    dev, consul = [await peer.ask(line, body) for peer in pair]
    assert (dev.status, dev.content) == (consul.status, consul.content)


async def test_agent_says_who_it_is(pair: tuple[Peer, Peer]) -> None:
    dev, consul = [(await peer.ask("GET /v1/agent/self")).content for peer in pair]
    assert dev.keys() == consul.keys()
    assert dev["Config"].keys() == consul["Config"].keys()


async def test_cas_with_the_right_number_replaces_and_deletes(peer: Peer) -> None:
    key = fresh("contract/cas")
    await peer.ask(f"PUT /v1/kv/{key}", "one")
    number = (await peer.ask(f"GET /v1/kv/{key}")).content[0]["ModifyIndex"]
    assert (await peer.ask(f"PUT /v1/kv/{key}?cas={number}", "two")).content is True
    assert (await peer.ask(f"PUT /v1/kv/{key}?cas={number}", "three")).content is False
    entry = (await peer.ask(f"GET /v1/kv/{key}")).content[0]
    assert entry["CreateIndex"] == number < entry["ModifyIndex"]
    assert (await peer.ask(f"DELETE /v1/kv/{key}?cas={entry['ModifyIndex']}")).content is True
    assert (await peer.ask(f"GET /v1/kv/{key}")).status == 404


async def test_new_output_with_the_old_status_reaches_the_agent_only(peer: Peer) -> None:
    """Consul passes such an output on minutes later; who relies on it must change the status."""
    service = fresh()
    await peer.ask("PUT /v1/agent/service/register", json.dumps({"Name": service, "Check": {"TTL": "60s"}}))
    for output in ("one", "two"):
        update = json.dumps({"Status": "passing", "Output": output})
        await peer.ask(f"PUT /v1/agent/check/update/service:{service}", update)
    assert (await peer.ask("GET /v1/agent/checks")).content[f"service:{service}"]["Output"] == "two"
    assert (await peer.ask(f"GET /v1/health/checks/{service}")).content[0]["Output"] == "one"


async def test_renaming_an_instance_moves_it(peer: Peer) -> None:
    old, new = fresh(), fresh()
    for name in (old, new):
        body = json.dumps({"Name": name, "ID": old, "Check": {"TTL": "60s"}})
        await peer.ask("PUT /v1/agent/service/register", body)
    assert (await peer.ask(f"GET /v1/health/service/{old}")).content == []
    (found,) = (await peer.ask(f"GET /v1/health/service/{new}")).content
    assert found["Checks"][-1]["ServiceName"] == new


async def test_built_in_registry_names_what_it_does_not_support(
    dev_registry: RegistryProcess, session: aiohttp.ClientSession
) -> None:
    dev = Peer(dev_registry.address, session)
    probe = json.dumps({"Name": "x", "Check": {"HTTP": "http://localhost", "Interval": "10s"}})
    for line, body in [
        ("GET /v1/session/list", None),
        ("PUT /v1/txn", "[]"),
        ("GET /v1/agent/services?filter=x", None),
        ("GET /v1/health/service/x?filter=x", None),
        ("PUT /v1/kv/x?acquire=y", "x"),
        ("PUT /v1/agent/service/register", probe),
    ]:
        answer = await dev.ask(line, body)
        assert answer.status == 501, line
        assert "not supported by the built-in registry" in answer.text
        assert "CONSUL_HTTP_ADDR" in answer.text


def _picked(content: Any) -> Any:
    """What belongs to this module in an answer that has everything: by its id, or as a list of config entries."""
    if isinstance(content, list) and content and isinstance(content[0], dict) and "Kind" in content[0]:
        return [entry for entry in content if entry["Name"] == NAME]
    found = [content[key] for key in (NAME, f"service:{NAME}") if isinstance(content, dict) and key in content]
    return found[0] if found else content


def shape(content: Any) -> Any:
    """Keys and types, for comparison: one element stands for a list, values of open maps do not count."""
    if isinstance(content, dict):
        return {key: shape(value) for key, value in content.items() if key not in _OPEN}
    if isinstance(content, list):
        return [shape(content[0])] if content and isinstance(content[0], dict) else "list"
    return type(content).__name__


_OPEN = frozenset({"ContentHash", "MeshGateway", "Expose", "Tags", "Meta", "NodeMeta"})
