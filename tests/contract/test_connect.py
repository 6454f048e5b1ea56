"""Certificates and intentions: the built-in registry answers as a real Consul does."""

from __future__ import annotations

import asyncio
import json
import stat
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from mesh.registry.dev import certificates
from tests.contract.steps import DEADLINE_SECONDS, fresh
from tests.contract.test_http import Answer, Peer, shape
from tests.fixtures.consul import consul_process, dev_process, running

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fixtures.consul import RegistryProcess

LIST = "/v1/connect/intentions"
MATCH, CHECK = f"{LIST}/match", f"{LIST}/check"
NOBODY = "00000000-0000-0000-0000-000000000000"
CONFIGURATION = "PUT /v1/connect/ca/configuration"


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
    return Peer(dev_registry.address, session), Peer(real_consul.address, session)


READS = [
    "GET /v1/agent/connect/ca/roots",
    "GET /v1/connect/ca/roots",
    "GET /v1/connect/ca/roots?index=abc",
    "GET /v1/agent/connect/ca/leaf/order",
    "GET /v1/agent/connect/ca/leaf/order?index=abc",
    "GET /v1/agent/connect/ca/leaf/",
    "GET /v1/agent/connect/ca/leaf/a%2Fb",
    f"GET {LIST}/{NOBODY}",
    f"GET {LIST}/none",
    f"GET {MATCH}?by=destination&name=nobody-knows",
    f"GET {MATCH}?by=neither&name=x",
    f"GET {MATCH}?by=source",
    f"GET {MATCH}?name=x",
    f"GET {CHECK}?source=nobody-knows&destination=nobody-knows",
    f"GET {CHECK}?source=x",
    f"GET {CHECK}?destination=x",
]


@pytest.mark.parametrize("line", READS)
async def test_read(pair: tuple[Peer, Peer], line: str) -> None:
    dev, consul = [await peer.ask(line) for peer in pair]
    assert dev.status == consul.status
    assert (dev.index > 0) == (consul.index > 0) or consul.status >= 400
    assert shape(dev.content) == shape(consul.content)
    if consul.status >= 400:
        assert dev.text.split(":")[0] == consul.text.split(":")[0]


WRITES: list[tuple[str, Any]] = [
    (f"POST {LIST}", {}),
    (f"POST {LIST}", {"SourceName": "a", "DestinationName": "b", "Action": "maybe"}),
    (f"POST {LIST}", {"SourceName": "a*", "DestinationName": "b", "Action": "allow"}),
    (f"POST {LIST}", {"DestinationName": "b", "Action": "allow"}),
    (f"POST {LIST}", {"SourceName": "a", "DestinationName": "b", "Action": "allow", "Nonsense": 1}),
    (f"POST {LIST}", {"SourceName": "a", "DestinationName": "b", "Action": "allow", "ID": NOBODY}),
    (f"PUT {LIST}", {}),
    (f"PUT {LIST}/{NOBODY}", {"SourceName": "a", "DestinationName": "b", "Action": "allow"}),
    (f"PUT {LIST}/none", {"SourceName": "a", "DestinationName": "b", "Action": "allow"}),
    (f"DELETE {LIST}/{NOBODY}", None),
    (f"DELETE {LIST}/none", None),
    ("PUT /v1/connect/ca/roots", {}),
    (CONFIGURATION, {"Provider": "nonsense", "Config": {}}),
    (CONFIGURATION, {"Provider": "consul", "Config": {"LeafCertTTL": "5m"}}),
    (CONFIGURATION, {"Provider": "consul", "Config": {"PrivateKey": "x"}}),
]


@pytest.mark.parametrize(("line", "body"), WRITES, ids=lambda part: str(part)[:60])
async def test_refused_write(pair: tuple[Peer, Peer], line: str, body: Any) -> None:
    dev, consul = [await peer.ask(line, None if body is None else json.dumps(body)) for peer in pair]
    assert (dev.status, dev.text.split(" CA")[0].strip()) == (consul.status, consul.text.split(" CA")[0].strip())


async def test_the_shape_of_an_intention(pair: tuple[Peer, Peer]) -> None:
    source, destination = fresh(), fresh()
    found = []
    for peer in pair:
        made = await put(peer, source, destination, "deny", Description="why", Meta={"team": "x"})
        (matched,) = (await peer.ask(f"GET {MATCH}?by=source&name={source}")).content[source]
        assert (await peer.ask(f"GET {LIST}/{made}")).content == matched
        found.append(matched)
        await peer.ask(f"DELETE {LIST}/{made}")
    assert shape(found[0]) == shape(found[1])
    own = {"ID", "Hash", "CreatedAt", "UpdatedAt", "CreateIndex", "ModifyIndex"}
    dev, consul = ({key: value for key, value in one.items() if key not in own} for one in found)
    assert dev == consul


async def test_a_second_intention_between_the_same_services_is_refused(peer: Peer) -> None:
    source, destination = fresh(), fresh()
    made = await put(peer, source, destination, "deny")
    refused = await peer.ask(f"POST {LIST}", body_of(source, destination, "allow"))
    assert refused.status == 500
    end = f"DENY default/{source} => default/{destination} (ID: {made}, Precedence: 9)"
    assert refused.text == f"duplicate intention found: {end}"


async def test_an_update_replaces_all_but_the_time_of_creation(peer: Peer) -> None:
    source, destination = fresh(), fresh()
    made = await put(peer, source, destination, "deny", Description="old")
    before = (await peer.ask(f"GET {LIST}/{made}")).content
    answer = await peer.ask(f"PUT {LIST}/{made}", body_of(source, destination, "allow"))
    after = (await peer.ask(f"GET {LIST}/{made}")).content
    assert answer.content == {"ID": made}
    assert (after["Action"], after["Description"], after["CreatedAt"]) == ("allow", "", before["CreatedAt"])
    assert after["CreateIndex"] == before["CreateIndex"] < after["ModifyIndex"]
    assert after["Hash"] != before["Hash"]


async def test_the_most_precise_intention_decides(peer: Peer) -> None:
    gateway, order, stranger = fresh("gateway"), fresh("order"), fresh()
    for source, action in (("*", "deny"), (gateway, "allow")):
        await put(peer, source, order, action)
    assert await allowed(peer, gateway, order)
    assert not await allowed(peer, stranger, order)
    assert await allowed(peer, stranger, fresh())
    found = (await peer.ask(f"GET {MATCH}?by=destination&name={order}")).content[order]
    assert [(one["SourceName"], one["Precedence"]) for one in found] == [(gateway, 9), ("*", 8)]


async def test_the_list_is_sorted_by_precedence_and_returns_on_change(peer: Peer) -> None:
    before = await peer.ask(f"GET {LIST}")
    held = asyncio.ensure_future(peer.ask(f"GET {LIST}?index={before.index}&wait=15s"))
    await put(peer, "*", fresh(), "deny")
    await put(peer, fresh(), fresh(), "deny")
    after = await changed(held)
    assert after.index > before.index
    found = (await peer.ask(f"GET {LIST}")).content
    assert [one["Precedence"] for one in found] == sorted((one["Precedence"] for one in found), reverse=True)


async def test_a_leaf_is_held_until_it_changes(peer: Peer) -> None:
    path = f"GET /v1/agent/connect/ca/leaf/{fresh()}"
    first = await peer.ask(path)
    again = await peer.ask(f"{path}?index={first.index}&wait=100ms")
    assert (again.index, again.content) == (first.index, first.content)


@pytest.mark.parametrize("name", ["order", "Bad_Name.x", "a%20b", "x" * 100])
async def test_certificates_are_those_of_consul(pair: tuple[Peer, Peer], name: str) -> None:
    dev, consul = [await chain(peer, name) for peer in pair]
    assert [described(certificate) for certificate in dev] == [described(certificate) for certificate in consul]


async def test_a_leaf_is_good_for_its_key_its_name_and_its_root(peer: Peer) -> None:
    name = fresh()
    answer = (await peer.ask(f"GET /v1/agent/connect/ca/leaf/{name}")).content
    leaf, root = await chain(peer, name)
    roots = (await peer.ask("GET /v1/connect/ca/roots")).content
    assert load_pem_private_key(answer["PrivateKeyPEM"].encode(), None).public_key() == leaf.public_key()
    assert answer["ServiceURI"] == f"spiffe://{roots['TrustDomain']}/ns/default/dc/dc1/svc/{name}" == uri(leaf)
    assert [certificates.spelled(leaf.not_valid_before_utc), certificates.spelled(leaf.not_valid_after_utc)] == [
        answer["ValidAfter"], answer["ValidBefore"]
    ]
    assert answer["SerialNumber"] == certificates.serial(answer["CertPEM"])
    (active,) = (one for one in roots["Roots"] if one["Active"])
    assert roots["ActiveRootID"] == active["ID"] == certificates.fingerprint(active["RootCert"])
    assert active["SigningKeyID"] == certificates.key_id(active["RootCert"])
    leaf.verify_directly_issued_by(root)


@pytest.fixture(params=["dev", "consul"])
def rotated(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryProcess]:
    """A registry of its own, as the others' roots stay what they are."""
    folder = tmp_path_factory.mktemp("rotated")
    yield from running(dev_process(folder) if request.param == "dev" else consul_process(folder))


async def test_a_new_root_is_trusted_beside_the_old_one_which_signs_it(
    rotated: RegistryProcess, session: aiohttp.ClientSession
) -> None:
    peer = Peer(rotated.address, session)
    before = await peer.ask("GET /v1/connect/ca/roots")
    held = asyncio.ensure_future(peer.ask(f"GET /v1/connect/ca/roots?index={before.index}&wait=60s"))
    body = json.dumps({"Provider": "consul", "Config": {"LeafCertTTL": "72h", "PrivateKey": certificates.new_key()}})
    for _ in "twice":  # the second time nothing is new
        assert (await peer.ask(CONFIGURATION, body)).status == 200
    await changed(held)
    old, new = sorted((await peer.ask("GET /v1/connect/ca/roots")).content["Roots"], key=lambda root: root["Active"])
    assert (old["Active"], new["Active"], old["IntermediateCerts"]) == (False, True, None)
    (cross,) = map(certificates.parsed, new["IntermediateCerts"])
    cross.verify_directly_issued_by(certificates.parsed(old["RootCert"]))
    root = certificates.parsed(new["RootCert"])
    assert (cross.subject, cross.public_key()) == (root.subject, root.public_key())


async def test_a_new_root_renews_the_leaves_at_once(own_dev: RegistryProcess, session: aiohttp.ClientSession) -> None:
    """A real Consul takes up to 20 s, so that not all ask it at once."""
    peer, path = Peer(own_dev.address, session), "GET /v1/agent/connect/ca/leaf/order"
    before = await peer.ask(path)
    held = asyncio.ensure_future(peer.ask(f"{path}?index={before.index}&wait=60s"))
    body = json.dumps({"Provider": "consul", "Config": {"PrivateKey": certificates.new_key()}})
    await peer.ask(CONFIGURATION, body)
    after = await changed(held)
    _, new = (await peer.ask("GET /v1/connect/ca/roots")).content["Roots"]
    leaf, cross = x509.load_pem_x509_certificates(after.content["CertPEM"].encode())
    leaf.verify_directly_issued_by(certificates.parsed(new["RootCert"]))
    assert cross == certificates.parsed(new["IntermediateCerts"][0])


async def test_authority_and_intentions_outlive_a_restart(tmp_path: Path, session: aiohttp.ClientSession) -> None:
    for process in running(dev_process(tmp_path)):
        peer = Peer(process.address, session)
        roots = (await peer.ask("GET /v1/connect/ca/roots")).content
        made = await put(peer, "a", "b", "deny")
        before = (await peer.ask(f"GET {LIST}/{made}")).content
        process.kill()
        process.start()
        assert (await peer.ask("GET /v1/connect/ca/roots")).content == roots
        assert (await peer.ask(f"GET {LIST}/{made}")).content == before
        files = [path for path in tmp_path.rglob("authority/*.json") if b"PRIVATE KEY" in path.read_bytes()]
        assert [stat.S_IMODE(path.stat().st_mode) for path in files] == [0o600]
        assert "PRIVATE KEY" not in process.log.read_text()
        assert "PRIVATE KEY" not in (await peer.ask("GET /v1/connect/ca/configuration")).text


async def put(peer: Peer, source: str, destination: str, action: str, **more: Any) -> str:
    answer = await peer.ask(f"POST {LIST}", body_of(source, destination, action, **more))
    assert answer.status == 200, answer.text
    return str(answer.content["ID"])


def body_of(source: str, destination: str, action: str, **more: Any) -> str:
    return json.dumps({"SourceName": source, "DestinationName": destination, "Action": action, **more})


async def allowed(peer: Peer, source: str, destination: str) -> bool:
    return bool((await peer.ask(f"GET {CHECK}?source={source}&destination={destination}")).content["Allowed"])


async def changed(held: asyncio.Future[Answer]) -> Answer:
    async with asyncio.timeout(DEADLINE_SECONDS):
        return await held


async def chain(peer: Peer, name: str) -> tuple[x509.Certificate, x509.Certificate]:
    """The leaf of a service, and the root that signs."""
    leaf = (await peer.ask(f"GET /v1/agent/connect/ca/leaf/{name}")).content
    roots = (await peer.ask("GET /v1/connect/ca/roots")).content["Roots"]
    root = next(root["RootCert"] for root in roots if root["Active"])
    return certificates.parsed(leaf["CertPEM"]), certificates.parsed(root)


def described(certificate: x509.Certificate) -> Any:
    """All that two certificates of the same kind have in common."""
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    (name,) = certificate.subject
    hidden = (x509.SubjectKeyIdentifier, x509.AuthorityKeyIdentifier, x509.SubjectAlternativeName)
    extensions = [
        (extension.oid.dotted_string, extension.critical, not isinstance(extension.value, hidden) and extension.value)
        for extension in sorted(certificate.extensions, key=lambda extension: extension.oid.dotted_string)
    ]
    names = [part for part in str(name.value).split(".") if not part.startswith("pri-")]
    return key.curve.name, round(life.total_seconds(), -6), [*names[:-2], names[-1]], extensions, _path(certificate)


def _path(certificate: x509.Certificate) -> str:
    return uri(certificate).partition(".consul")[2]


def uri(certificate: x509.Certificate) -> str:
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    (found,) = names.get_values_for_type(x509.UniformResourceIdentifier)
    return found


async def test_config_entries_are_intentions_too(dev_registry: RegistryProcess, session: aiohttp.ClientSession) -> None:
    """As in newer versions of Consul: 1.8 does not take them."""
    dev, order, web, job = Peer(dev_registry.address, session), fresh("order"), fresh("web"), fresh("job")
    before = await dev.ask(f"GET {LIST}")
    held = asyncio.ensure_future(dev.ask(f"GET {LIST}?index={before.index}&wait=15s"))
    permissions = [{"Action": "allow", "HTTP": {"PathPrefix": "/shop", "Methods": ["post"]}}]
    entry = {
        "kind": "service-intentions", "name": order,
        "sources": [{"name": web, "action": "deny", "description": "why"}, {"name": job, "permissions": permissions}],
    }  # fmt: skip
    assert (await dev.ask("PUT /v1/config", json.dumps(entry))).content is True
    assert (await changed(held)).index > before.index
    matched = (await dev.ask(f"GET {MATCH}?by=destination&name={order}")).content[order]
    found = {one["SourceName"]: one for one in matched}
    assert (found[web]["Action"], found[web]["Precedence"], found[web]["Description"]) == ("deny", 9, "why")
    assert found[job]["Permissions"] == [{"Action": "allow", "HTTP": {"PathPrefix": "/shop", "Methods": ["POST"]}}]
    assert not await allowed(dev, web, order)
    refused = await dev.ask(f"POST {LIST}", body_of(web, order, "allow"))
    assert (refused.status, "duplicate" in refused.text) == (500, True)
    await dev.ask(f"DELETE /v1/config/service-intentions/{order}")
    assert await allowed(dev, web, order)


EXACT = f"{LIST}/exact"


async def test_an_intention_is_set_read_and_removed_by_the_names_of_its_services(
    dev_registry: RegistryProcess, session: aiohttp.ClientSession
) -> None:
    """As Consul 1.9 documents it; 1.8 takes the path for an id."""
    dev, order, web, job = Peer(dev_registry.address, session), fresh("order"), fresh("web"), fresh("job")
    one, other = (f"{EXACT}?source={source}&destination={order}" for source in (web, f"default/{job}"))
    assert (await dev.ask(f"GET {one}")).status == 404
    await put(dev, web, order, "allow")  # one with an id, which is replaced
    before = await dev.ask(f"GET {one}")
    held = asyncio.ensure_future(dev.ask(f"GET {one}&index={before.index}&wait=15s"))
    assert (await dev.ask(f"PUT {one}", json.dumps({"Action": "deny", "Description": "why"}))).content is True
    found = (await changed(held)).content
    assert (found["ID"], found["Action"], found["Description"], found["Precedence"]) == ("", "deny", "why", 9)
    assert not await allowed(dev, web, order)
    permissions = [{"Action": "deny", "HTTP": {"PathPrefix": "/shop"}}]
    assert (await dev.ask(f"PUT {other}", json.dumps({"Permissions": permissions}))).content is True
    assert (await dev.ask(f"GET {other}")).content["Permissions"] == permissions
    entry = (await dev.ask(f"GET /v1/config/service-intentions/{order}")).content
    assert [source["Name"] for source in entry["Sources"]] == [web, job]
    assert (await dev.ask("PUT /v1/config", json.dumps(entry))).content is True  # as whoever edits what was read
    for line in (one, one, other):  # who removes what is not there is told no fault
        assert (await dev.ask(f"DELETE {line}")).content is True
    assert (await dev.ask(f"GET /v1/config/service-intentions/{order}")).status == 404
    assert await allowed(dev, web, order)


@pytest.mark.parametrize(
    ("query", "body", "status", "problem"),
    [
        ("source=a", {"Action": "deny"}, 400, "'destination' not set"),
        ("destination=a", {"Action": "deny"}, 400, "'source' not set"),
        ("source=team/a&destination=b", {"Action": "deny"}, 501, "namespaces"),
        ("source=a&destination=b", {}, 500, ".Action must be"),
        ("source=a&destination=b", {"Action": "deny", "SourceName": "c"}, 400, "SourceName"),
        ("source=a&destination=b", {"Action": "deny", "Meta": {"team": "x"}}, 400, "Meta"),
        ("source=a&destination=b", {"Action": "deny", "Nonsense": 1}, 400, "Nonsense"),
    ],
)
async def test_an_intention_by_names_that_consul_would_not_take_is_refused(
    dev_registry: RegistryProcess, session: aiohttp.ClientSession, query: str, body: Any, status: int, problem: str
) -> None:
    refused = await Peer(dev_registry.address, session).ask(f"PUT {EXACT}?{query}", json.dumps(body))
    assert (refused.status, problem in refused.text) == (status, True), refused.text


async def test_a_consul_without_intentions_by_names_takes_the_path_for_an_id(
    real_consul: RegistryProcess, session: aiohttp.ClientSession
) -> None:
    answer = await Peer(real_consul.address, session).ask(f"GET {EXACT}?source=a&destination=b")
    assert (answer.status, "UUID" in answer.text) == (400, True)


def permitted(**permission: Any) -> list[dict[str, Any]]:
    return [{"Name": "web", "Permissions": [permission]}]


@pytest.mark.parametrize(
    ("sources", "problem"),
    [
        ([], "source is required"),
        ([{"Action": "deny"}], "[0].Name"),
        ([{"Name": "web"}], "[0].Action"),
        ([{"Name": "web", "Action": "deny", "Permissions": [{}]}], "[0].Action"),
        ([{"Name": "web", "Permissions": "none"}], "[0].Permissions is no list"),
        (permitted(HTTP={"PathPrefix": "/"}), "[0].Permissions[0].Action"),
        (permitted(Action="allow"), "[0].Permissions[0].HTTP is required"),
        (permitted(Action="allow", HTTP={"Methods": []}), "[0].Permissions[0].HTTP is required"),
        (permitted(Action="deny", HTTP={"Methods": ["("]}), "[0].Permissions[0].HTTP.Methods has an invalid one"),
        (permitted(Action="deny", HTTP={"Methods": 1}), "[0].Permissions[0].HTTP.Methods is no list"),
        (permitted(Action="deny", HTTP={"Methods": ["PUT", "put"]}), "[0].Permissions[0].HTTP.Methods has one more"),
    ],
)
async def test_a_config_entry_that_consul_would_not_take_is_refused(
    dev_registry: RegistryProcess, session: aiohttp.ClientSession, sources: Any, problem: str
) -> None:
    body = {"Kind": "service-intentions", "Name": fresh(), "Sources": sources}
    refused = await Peer(dev_registry.address, session).ask("PUT /v1/config", json.dumps(body))
    assert (refused.status, problem in refused.text) == (500, True), refused.text


async def test_permissions_are_not_for_all_destinations(
    dev_registry: RegistryProcess, session: aiohttp.ClientSession
) -> None:
    sources = permitted(Action="deny", HTTP={"PathPrefix": "/"})
    body = {"Kind": "service-intentions", "Name": "*", "Sources": sources}
    refused = await Peer(dev_registry.address, session).ask("PUT /v1/config", json.dumps(body))
    assert (refused.status, "all destinations" in refused.text) == (500, True)
