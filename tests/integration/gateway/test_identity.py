"""Envoy proves the edge to services that demand it, and takes none that does not prove itself."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import aiohttp
import grpc
import pytest
from aiohttp import web
from google.protobuf.wrappers_pb2 import StringValue

from gateway.statistics import ask, families
from mesh import identity_files
from mesh.policy import PREFIX
from mesh.ports import free_port
from mesh.registry import connect
from mesh.registry.dev import certificates
from mesh.registry.model import EMPTY
from tests.fixtures.forged import MISNAMED, PLAINTEXT, UNTRUSTED, impostor
from tests.fixtures.prometheus import value
from tests.fixtures.secured import GET, SecuredHost, secured_host
from tests.fixtures.shop import BUY, Shop, host, shop_descriptors, until
from tests.integration.gateway.harness import Edge
from tests.integration.test_identity import registered

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from tests.fixtures.consul import RegistryProcess

pytestmark = pytest.mark.timeout(90)

FAULTS = {
    **dict.fromkeys(UNTRUSTED, "fail_verify_error"), **dict.fromkeys(MISNAMED, "fail_verify_san"),
    PLAINTEXT: "connection_error",
}  # fmt: skip
"""What a server may have in place of a certificate of its service, and where Envoy counts that."""


async def test_the_edge_proves_itself_and_knows_impostors(
    own_dev: RegistryProcess, short_tmp: Path, tmp_path: Path
) -> None:
    edge = Edge(tmp_path, own_dev.address, {"MESH_MTLS": "true"})
    try:
        async with secured_host(short_tmp, own_dev.address) as made:
            async with made.serving("order"):
                await asyncio.to_thread(edge.start)
                await until(lambda: answered(edge))
                assert (await asked(edge)).endswith("/svc/gateway")
                await rotates(edge, own_dev)
                body = {"SourceName": "*", "DestinationName": "order", "SourceType": "consul", "Action": "deny"}
                own_dev.ask("POST", "/v1/connect/intentions", body)
                await until(lambda: is_denied(edge))
                for one in own_dev.ask("GET", "/v1/connect/intentions"):
                    own_dev.ask("DELETE", f"/v1/connect/intentions/{one['ID']}")
            await knows_impostors(edge, made, own_dev)
            await is_called_when_an_operator_allows_it(edge, made)
            assert b"PRIVATE KEY" not in b"".join(log.read_bytes() for log in tmp_path.glob("*.log"))
    finally:
        await asyncio.to_thread(edge.stop)


async def test_the_edge_knows_impostors_by_the_certificates_of_a_real_consul(
    consul_of_ours: RegistryProcess, short_tmp: Path, tmp_path: Path
) -> None:
    edge = Edge(tmp_path, consul_of_ours.address, {"MESH_MTLS": "true"})
    try:
        async with secured_host(short_tmp, consul_of_ours.address) as made:
            async with made.serving("order"):
                await asyncio.to_thread(edge.start)
                await until(lambda: answered(edge))
                assert (await asked(edge)).endswith("/svc/gateway")
            await knows_impostors(edge, made, consul_of_ours)
    finally:
        await asyncio.to_thread(edge.stop)


async def knows_impostors(edge: Edge, made: SecuredHost, registry: RegistryProcess) -> None:
    """Instances of `order` that have a fault, one after the other: none is sent a call."""
    for fault, counted in FAULTS.items():
        async with impostor(registry, "order", fault) as shop:
            await refuses(edge, made, shop.port, counted)
        assert shop.calls == 0, fault


async def test_the_edge_keeps_to_intentions_about_a_service_in_plaintext(
    own_dev: RegistryProcess, short_tmp: Path, tmp_path: Path
) -> None:
    edge = Edge(tmp_path, own_dev.address, {"MESH_MTLS": "true"})
    own_dev.ask("PUT", "/v1/kv/mesh/service-config/order", {"mutualTlsMode": "permissive"})
    try:
        async with host(short_tmp, own_dev.address, mtls=False) as plain:
            await plain.named_shop("order", descriptors=shop_descriptors())
            await asyncio.to_thread(edge.start)
            await until(lambda: answered(edge))
            body = {"SourceName": "gateway", "DestinationName": "order", "SourceType": "consul", "Action": "deny"}
            made = own_dev.ask("POST", "/v1/connect/intentions", body)["ID"]
            await until(lambda: is_refused(edge))
            own_dev.ask("DELETE", f"/v1/connect/intentions/{made}")
            await until(lambda: answered(edge))
            buy, rest = {"PathExact": BUY, "Methods": ["PUT", "POST"]}, {"Methods": ["POST"]}
            permissions = [{"Action": "allow", "HTTP": buy}, {"Action": "deny", "HTTP": rest}]
            allow(own_dev, "order", permissions)
            await until(lambda: is_refused(edge))
            assert await asked(edge, BUY)
            await looks_at_headers(edge, own_dev)
            await knows_paths_that_servers_may_read_otherwise(edge, own_dev)
            told = {family.name: family for family in families(await asyncio.to_thread(ask, edge.admin))}
            assert value(told, "envoy_http_rbac_denied_total") >= len(ODD)
            assert value(told, "envoy_http_rbac_policy_denied_total", envoy_rbac_policy_name="gateway=>order#3") == 1
            assert value(told, "envoy_http_rbac_policy_denied_total", envoy_rbac_policy_name="gateway=>order") >= 1
            await until(lambda: is_told(edge, "refused at the gateway: denied by gateway=>order#3"))
    finally:
        await asyncio.to_thread(edge.stop)


async def looks_at_headers(edge: Edge, registry: RegistryProcess) -> None:
    """As an intention denies by them: one that is there, one with a value, and one that is not there."""
    headers = ({"Name": "x-no", "Present": True}, {"Name": "x-a", "Exact": "no"},
               {"Name": "x-pass", "Present": True, "Invert": True})  # fmt: skip
    denied = [{"Action": "deny", "HTTP": {"Header": [one]}} for one in headers]
    allow(registry, "order", [*denied, {"Action": "allow", "HTTP": {"PathPrefix": "/"}}])
    await until(lambda: answered(edge, {"x-pass": "", "x-a": "yes"}))
    for metadata in ({"x-a": "yes"}, {"x-pass": "1", "x-no": ""}, {"x-pass": "1", "x-a": "no"}):
        with pytest.raises(grpc.aio.AioRpcError, match="gateway may not call order: denied by gateway=>order#"):
            await asked(edge, GET, metadata)


ODD = (
    "/legacy/admin", "/legacy//admin", "/legacy%2Fadmin", "/legacy/%2fadmin", "/legacy/x/..%2Fadmin",
    "/legacy/x%5C..%5Cadmin", "/legacy/./admin", "/legacy/x/../admin", "/legacy/%2e/admin", "/legacy\\admin",
    "/legacy/%61dmin",
)  # fmt: skip
"""What a server may take for the first of these."""


async def knows_paths_that_servers_may_read_otherwise(edge: Edge, registry: RegistryProcess) -> None:
    """For a service of plain HTTP, part of which is denied."""
    denied = {"Action": "deny", "HTTP": {"PathPrefix": "/legacy/admin"}}
    allow(registry, "legacy", [denied, {"Action": "allow", "HTTP": {"PathPrefix": "/"}}])
    registry.ask("PUT", "/v1/kv/mesh/service-config/legacy", {"mutualTlsMode": "permissive"})
    async with page() as port:
        join = partial(edge.join, "legacy", "legacy-1", port, protocol="http", http_prefixes="/legacy/ /legacy")
        await asyncio.to_thread(join)

        async def status(path: str) -> int:
            return (await asyncio.to_thread(edge.get, path)).status

        async def is_there() -> bool:
            return await status("/legacy/fine%20here?to=//admin%2F") == 200

        await until(is_there)
        assert {path: await status(path) for path in ODD} == dict.fromkeys(ODD, 403)


@asynccontextmanager
async def page() -> AsyncIterator[int]:
    """The port of a plain HTTP server that takes every path."""

    async def answer(request: web.BaseRequest) -> web.Response:
        return web.Response(text=request.raw_path)

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", port := free_port())
        await site.start()
        yield port
    finally:
        await runner.cleanup()


def allow(registry: RegistryProcess, service: str, permissions: list[dict[str, Any]]) -> None:
    """Set what the edge may ask of a service."""
    sources = [{"Name": "gateway", "Permissions": permissions}]
    registry.ask("PUT", "/v1/config", {"Kind": "service-intentions", "Name": service, "Sources": sources})


async def is_refused(edge: Edge) -> bool:
    return (await failure(edge)).startswith("gateway may not call order: denied by gateway=>order")


async def is_told(edge: Edge, text: str) -> bool:
    """Whether the log of the control process has it."""
    return text in edge.control.output()


async def rotates(edge: Edge, registry: RegistryProcess) -> None:
    """A new root, with calls all the time: none fails."""
    held = identity_files.folder_of(edge.paths.identities, "gateway")
    before, answers = identity_files.version_of(held), 0
    body = json.dumps({"Provider": "consul", "Config": {"PrivateKey": certificates.new_key()}}).encode()
    url = f"{registry.address}/v1/connect/ca/configuration"
    (await asyncio.to_thread(urllib.request.urlopen, urllib.request.Request(url, body, method="PUT"))).close()
    while identity_files.version_of(held) == before or answers < 50:
        await asked(edge)
        answers += 1


async def asked(edge: Edge, method: str = GET, metadata: Mapping[str, str] = EMPTY) -> str:
    """Whom the service takes the edge for. Raises AioRpcError."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{edge.port}") as channel:
        call: Any = channel.unary_unary(method)
        return StringValue.FromString(await call(b"", timeout=10, metadata=tuple(metadata.items()))).value


async def is_denied(edge: Edge) -> bool:
    return (await failure(edge)).startswith("gateway may not call order/shop.v1.Shop/Get: denied by the intention")


async def answered(edge: Edge, metadata: Mapping[str, str] = EMPTY) -> bool:
    return not await failure(edge, metadata)


async def refuses(edge: Edge, made: SecuredHost, port: int, counted: str) -> None:
    """Whether Envoy connects to an impostor of `order`, finds fault with it, and sends nothing."""
    before = await count(edge, counted)

    async def is_found_out() -> bool:
        return bool(await failure(edge)) and await count(edge, counted) > before

    async with registered(made, "order", port):
        await until(is_found_out)


async def is_called_when_an_operator_allows_it(edge: Edge, made: SecuredHost) -> None:
    """A service that speaks no TLS."""

    async def name(context: Any) -> bytes:
        return StringValue(value="plain").SerializeToString()

    async with (
        Shop("plain", name).running() as shop,
        registered(made, "order", shop.port, tls=""),
        connect(made.plain.registry) as registry,
    ):
        assert await failure(edge)
        assert shop.calls == 0
        await registry.put(f"{PREFIX}order", b'{"mutualTlsMode": "permissive"}')
        await until(lambda: answered(edge))
        await registry.delete(f"{PREFIX}order")


async def count(edge: Edge, name: str) -> int:
    """What Envoy counted in its connections to `order`."""
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(edge.admin))) as session,
        session.get(f"http://envoy/stats?filter=^cluster.order.ssl.{name}$") as answer,
    ):
        return sum(int(line.rpartition(" ")[2]) for line in (await answer.text()).splitlines())


async def failure(edge: Edge, metadata: Mapping[str, str] = EMPTY) -> str:
    """Why a call failed; empty where it did not."""
    try:
        await asked(edge, GET, metadata)
    except grpc.aio.AioRpcError as error:
        return error.details() or "unknown"
    return ""
