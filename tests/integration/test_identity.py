"""Mutual TLS between real ends of gRPC, with certificates of the built-in registry and of a real Consul."""

from __future__ import annotations

import asyncio
import json
import stat
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest

import mesh
from mesh import identity_files
from mesh.identity_files import Files
from mesh.policy import PREFIX
from mesh.ports import free_port
from mesh.registry import MESH_TAG, Health, Registration, connect
from mesh.registry.dev import certificates
from meshwright.sidecar.v1 import sidecar_service_pb2 as pb
from tests.contract.steps import fresh
from tests.fixtures.callers import PROGRAMS, Caller, caller
from tests.fixtures.forged import MISNAMED, PLAINTEXT, UNTRUSTED, as_client, domain_of, forged, impostor
from tests.fixtures.node import node_environ
from tests.fixtures.secured import GET, SecuredHost, secured_host
from tests.fixtures.shop import Shop, joined, until

if TYPE_CHECKING:
    from tests.fixtures.consul import RegistryProcess

pytestmark = pytest.mark.timeout(60)

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE

@pytest.fixture(scope="module")
def real_consul(consul_of_ours: RegistryProcess) -> RegistryProcess:
    """One whose certificates can be forged."""
    return consul_of_ours


@pytest.fixture
async def made(registry_address: str, short_tmp: Path) -> AsyncIterator[SecuredHost]:
    """On the dev registry, and on a real Consul."""
    async with secured_host(short_tmp, registry_address) as found:
        yield found


@pytest.fixture
async def dev_made(dev_registry: RegistryProcess, short_tmp: Path) -> AsyncIterator[SecuredHost]:
    async with secured_host(short_tmp, dev_registry.address) as found:
        yield found


async def test_both_ends_of_a_call_are_proven(made: SecuredHost) -> None:
    order = fresh("order")
    async with made.serving(order):
        who = await made.get("mesh", order)
    assert who.startswith("spiffe://")
    assert who.endswith("/ns/default/dc/dc1/svc/mesh")


async def test_only_the_user_can_read_what_is_kept(made: SecuredHost) -> None:
    async with made.serving(service := fresh()):
        held = identity_files.folder_of(made.identities, service)
    for path in (made.identities, *made.identities.rglob("*")):
        wanted = 0o777 if path.is_symlink() else 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.lstat().st_mode) == wanted, path
    assert len([path for path in held.iterdir() if path.is_dir() and not path.is_symlink()]) == 1


async def test_a_server_that_keeps_to_intentions_says_how_it_is_started(dev_made: SecuredHost) -> None:
    server = mesh.server(dev_made.settings("order"))
    with pytest.raises(mesh.Error, match=r"start this server within `async with mesh\.server") as caught:
        await server.start()
    assert caught.value.reason == "NOT_ENTERED"
    await server.stop(0)


async def test_who_has_no_certificate_is_not_let_in(made: SecuredHost) -> None:
    async with made.serving(fresh()) as server:
        roots = identity_files.read(identity_files.folder_of(made.identities, "mesh")).roots
        bare = grpc.ssl_channel_credentials(roots.encode())
        for credentials in (bare, None):
            assert await refused(server.port, "x", credentials)


async def test_who_cannot_prove_itself_is_refused_by_servers(
    made: SecuredHost, registry_process: RegistryProcess
) -> None:
    async with made.serving(service := fresh()) as server:
        await lets_in_who_proves_itself(server.port, service, made, registry_process)


async def test_who_has_the_certificate_of_somebody_else_is_refused_by_servers(
    made: SecuredHost, registry_process: RegistryProcess
) -> None:
    """Though the authority signed it: that of no service, and that of a service that may not call."""
    async with made.serving(service := fresh()) as server:
        name = certificates.leaf_name(service, domain_of(registry_process))
        body = {"SourceName": "another", "DestinationName": service, "SourceType": "consul", "Action": "deny"}
        denied = registry_process.ask("POST", "/v1/connect/intentions", body)["ID"]
        for fault in MISNAMED:
            credentials = as_client(forged(registry_process, "mesh", fault))
            reason = f"by the intention another => {service}" if "service" in fault else "no certificate of a service"
            await until(partial(is_turned_away, server.port, name, credentials, reason))
        assert (await made.get("mesh", service)).startswith("spiffe://")
        registry_process.ask("DELETE", f"/v1/connect/intentions/{denied}")


async def test_who_cannot_prove_itself_is_refused_by_a_server_in_node(
    made: SecuredHost, registry_process: RegistryProcess, node_packages: Path
) -> None:
    service, port = fresh(), free_port()
    workload = pb.Workload(service=service, id=service, address="127.0.0.1", port=port, meta={"tls": "mutual"})
    folder = identity_files.folder_of(made.identities, service)
    environ = {**node_environ(), "MESH_IDENTITY": str(folder), "PORT": str(port)}
    program = await asyncio.create_subprocess_exec("node", str(PROGRAMS / "server.js"), env=environ)
    await joined(made.plain, workload)
    await lets_in_who_proves_itself(port, service, made, registry_process)
    program.kill()
    await program.wait()


async def lets_in_who_proves_itself(port: int, service: str, made: SecuredHost, registry: RegistryProcess) -> None:
    """A caller of the mesh, and nobody in plaintext, or with a certificate that the authority does not vouch for."""
    name = certificates.leaf_name(service, domain_of(registry))
    assert await refused(port, name, None)
    for fault in UNTRUSTED:
        assert await refused(port, name, as_client(forged(registry, "mesh", fault))), fault
    assert (await made.get("mesh", service)).startswith("spiffe://")


async def test_a_server_with_the_certificate_of_another_service_is_refused(made: SecuredHost) -> None:
    """C-core enforces one of two fields and ignores the other: a client that checks nothing would call it."""
    order, other = fresh("order"), fresh("other")
    async with made.serving(order), made.serving(other) as impostor, registered(made, order, impostor.port):
        others = {await made.get("mesh", other)}
        for _ in range(4):  # round robin would come to the impostor
            assert await made.get("mesh", order) in others
    async with made.serving(other) as impostor, registered(made, order, impostor.port):
        assert await failure(made, order) is UNAVAILABLE


@pytest.mark.parametrize("name", ["node", "python-sync", "python-aio"])
async def test_clients_of_other_languages_prove_themselves_and_the_server(
    made: SecuredHost, registry_process: RegistryProcess, short_tmp: Path, node_packages: Path, name: str
) -> None:
    """With their own gRPC, by the bootstrap alone; and take no server that does not prove to be who they call."""
    order = fresh("order")
    async with (
        impostors(made, registry_process) as shops,
        caller(name, made.plain.bootstrap, short_tmp, mtls=True) as client,
        made.serving(order),
    ):
        assert (await client.call(order)).text.endswith("/svc/mesh")
        found = await asyncio.gather(*(client.call(service) for service in shops))
        assert [each.code for each in found] == [UNAVAILABLE.value[0]] * len(shops)
        body = {"SourceName": "mesh", "DestinationName": order, "SourceType": "consul", "Action": "deny"}
        denied = registry_process.ask("POST", "/v1/connect/intentions", body)["ID"]
        await until(partial(is_denied, client, order))
        registry_process.ask("DELETE", f"/v1/connect/intentions/{denied}")


async def test_a_server_that_cannot_prove_itself_is_refused(
    made: SecuredHost, registry_process: RegistryProcess
) -> None:
    async with impostors(made, registry_process) as shops:
        found = await asyncio.gather(*(failure(made, service) for service in shops))
        assert found == [UNAVAILABLE] * len(shops)


async def test_a_plaintext_instance_beside_one_with_tls_gets_no_calls(dev_made: SecuredHost) -> None:
    order = fresh("order")
    async with (
        Shop("plain").running() as shop,
        dev_made.serving(order),
        registered(dev_made, order, shop.port, tls=""),
    ):
        for _ in range(4):
            assert (await dev_made.get("mesh", order)).startswith("spiffe://")
    assert shop.calls == 0


async def test_a_service_that_speaks_no_tls_is_called_when_an_operator_allows_it(made: SecuredHost) -> None:
    """And not before, nor longer; by a client that would fall back to plaintext by itself."""
    service = fresh()
    shop = await made.plain.named_shop(service, plain=True)
    assert "is not permissive" in shop.reason
    async with connect(made.plain.registry) as registry, mesh.channel(service, made.settings("mesh")) as channel:
        call: Any = channel.unary_unary(GET)

        async def is_called() -> bool:
            try:
                await call(b"", timeout=10)
            except grpc.aio.AioRpcError as error:
                if "no instance that speaks TLS" not in (error.details() or ""):
                    raise
                return False
            return True

        assert not await is_called()
        await registry.put(PREFIX + service, b'{"mutualTlsMode": "permissive"}')
        await until(is_called)
        await registry.delete(PREFIX + service)
        await until(lambda: negated(is_called))


async def test_a_target_in_plaintext_is_not_left_for_a_failover_that_speaks_tls(
    dev_made: SecuredHost, dev_registry: RegistryProcess
) -> None:
    """Which is called when the target has nobody left."""
    service, spare = fresh(), fresh("spare")
    dev_registry.ask("PUT", f"/v1/kv/{PREFIX}{service}", {"mutualTlsMode": "permissive"})
    resolver = {"Kind": "service-resolver", "Name": service, "Failover": {"*": {"Service": spare}}}
    dev_registry.ask("PUT", "/v1/config", resolver)
    shop = await dev_made.plain.named_shop(service, plain=True)
    async with dev_made.serving(spare):
        for _ in range(2):
            assert await dev_made.get("mesh", service) == shop.id
        await shop.leave()
        assert (await dev_made.get("mesh", service)).startswith("spiffe://")
    dev_registry.ask("DELETE", f"/v1/config/service-resolver/{service}")


async def negated(condition: Callable[[], Awaitable[bool]]) -> bool:
    return not await condition()


async def test_a_new_root_costs_no_call_and_a_renewed_leaf_needs_no_restart(
    short_tmp: Path, own_dev: RegistryProcess
) -> None:
    async with secured_host(short_tmp, own_dev.address) as made, made.serving("order"):
        held = identity_files.folder_of(made.identities, "order")
        before, answers = identity_files.version_of(held), [await made.get("mesh", "order")]
        body = {"Provider": "consul", "Config": {"PrivateKey": certificates.new_key()}}
        await asyncio.to_thread(configure, own_dev, body)
        while identity_files.version_of(held) == before or len(answers) < 20:
            answers.append(await made.get("mesh", "order"))
        assert len(set(answers)) == 1
        assert identity_files.read(held).roots.count("BEGIN") == 2


async def test_a_sidecar_that_starts_while_the_registry_is_away_has_its_certificates(
    short_tmp: Path, own_dev: RegistryProcess
) -> None:
    async with secured_host(short_tmp, own_dev.address) as made, made.serving("order"):
        pass
    own_dev.stop()
    async with secured_host(short_tmp, own_dev.address) as made:
        settings = made.settings("order", port=free_port(), grace_seconds=0.1)
        async with mesh.server(settings) as server:
            await server.start()
            call: Any = made.plain.stub.Attach()
            workload = pb.Workload(
                service="order", id="order", address="127.0.0.1", port=server.port, meta={"tls": "mutual"}
            )
            await call.write(pb.AttachRequest(workload=workload))
            while "the registry" not in (told := await call.read()).reason:  # it is healthy, and that cannot be told
                assert "certificate" not in told.reason
            call.cancel()


def test_no_repr_shows_a_key() -> None:
    assert "secret" not in repr(Files(certificate="c", key="secret", roots="r"))


# --- steps ---------------------------------------------------------------------------------------------------


@asynccontextmanager
async def registered(made: SecuredHost, service: str, port: int, tls: str = "mutual") -> AsyncIterator[None]:
    """An instance that somebody put into the registry past the sidecar, who does not look at it."""
    async with connect(made.plain.registry) as registry:
        name = fresh(service)
        meta = {"protocol": "grpc", **({"tls": tls} if tls else {})}
        await registry.register(
            Registration(service=service, id=name, address="127.0.0.1", port=port, tags=(MESH_TAG,), meta=meta)
        )
        await registry.report(name, Health.PASSING)
        yield
        await registry.report(name, Health.CRITICAL, "leaving")
        await registry.deregister(name)


@asynccontextmanager
async def impostors(made: SecuredHost, registry: RegistryProcess) -> AsyncIterator[dict[str, Shop]]:
    """Services whose only instance has a fault, by their names; in the end nobody has called one."""
    async with AsyncExitStack() as ending:
        shops = {}
        for fault in (PLAINTEXT, *UNTRUSTED, *MISNAMED):
            service = fresh(fault.replace(" ", "-"))
            shops[service] = await ending.enter_async_context(impostor(registry, service, fault))
            await ending.enter_async_context(registered(made, service, shops[service].port))
        yield shops
        assert not any(shop.calls for shop in shops.values())


async def is_turned_away(port: int, name: str, credentials: grpc.ChannelCredentials, reason: str) -> bool:
    """Whether a call ends as one of somebody who is known, and may not call; with a new intention, after a moment."""
    try:
        error = await failed(port, name, credentials)
    except pytest.fail.Exception:  # it was answered
        return False
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED
    return reason in (error.details() or "")


async def is_denied(client: Caller, service: str) -> bool:
    """Whether a call ends as an intention wants it; until then it is answered."""
    found = await client.call(service)
    return found.code == grpc.StatusCode.PERMISSION_DENIED.value[0] and found.says("denied by the intention")


async def failure(made: SecuredHost, service: str) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await made.get("mesh", service)
    return caught.value.code()


async def refused(port: int, name: str, credentials: grpc.ChannelCredentials | None) -> bool:
    """Whether a client of plain gRPC gets no answer."""
    return (await failed(port, name, credentials)).code() is UNAVAILABLE


async def failed(port: int, name: str, credentials: grpc.ChannelCredentials | None) -> grpc.aio.AioRpcError:
    """How a call of a client of plain gRPC fails."""
    target, options = f"127.0.0.1:{port}", [("grpc.ssl_target_name_override", name)]
    opened = (
        grpc.aio.secure_channel(target, credentials, options) if credentials else grpc.aio.insecure_channel(target)
    )
    async with opened as channel:
        call: Any = channel.unary_unary(GET)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(b"", timeout=10)
    return caught.value


def configure(registry: RegistryProcess, body: dict[str, Any]) -> None:
    url = f"{registry.address}/v1/connect/ca/configuration"
    with urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), method="PUT"), timeout=10):
        pass
