"""Consul's intentions, kept to by real servers: flips, open streams, doubt, and a registry that is lost."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import grpc
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography import x509
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

import mesh
from mesh import identity_files
from mesh.access import Access
from mesh.errors import Code
from mesh.explain import show
from mesh.identity import Proof
from mesh.intentions import Intentions
from mesh.intentions_watcher import IntentionsWatcher
from mesh.local_channel import dial
from mesh.metrics import DECISIONS
from mesh.ports import free_port
from mesh.read_intentions import read
from mesh.registry import connect
from mesh.registry.model import MUTUAL_TLS, TLS_META
from mesh.scope import Scope
from mesh.status import from_rpc
from meshwright.sidecar.v1 import sidecar_service_pb2 as pb
from tests.contract.steps import fresh
from tests.fixtures.secured import CATCH, CLING, GET, SEND, WATCH, SecuredHost, secured_host
from tests.fixtures.shop import host

if TYPE_CHECKING:
    from tests.fixtures.consul import RegistryProcess

pytestmark = pytest.mark.timeout(60)

SOON_SECONDS = 15.0
"""Generous, as other tests run beside: what is waited for comes within a second where nothing else runs."""

Set = Callable[..., str]


@pytest.fixture
async def made(registry_process: RegistryProcess, short_tmp: Path) -> AsyncIterator[SecuredHost]:
    """On the dev registry, and on a real Consul."""
    async with secured_host(short_tmp, registry_process.address) as found:
        yield found


@pytest.fixture
def intend(registry_process: RegistryProcess) -> Iterator[Set]:
    """Sets intentions in each of the two registries."""
    with intended(registry_process) as put:
        yield put


@contextmanager
def intended(registry: RegistryProcess) -> Iterator[Set]:
    """Sets intentions, or changes known ones, until the block ends."""
    made: list[str] = []

    def put(source: str, destination: str, action: str, known: str = "") -> str:
        body = {"SourceName": source, "DestinationName": destination, "SourceType": "consul", "Action": action}
        path = f"/v1/connect/intentions{'/' if known else ''}{known}"
        made.append(registry.ask("PUT" if known else "POST", path, body)["ID"])
        return made[-1]

    try:
        yield put
    finally:
        for one in set(made):
            registry.ask("DELETE", f"/v1/connect/intentions/{one}")


async def test_a_flip_holds_for_the_next_calls_and_ends_open_streams(
    made: SecuredHost, intend: Set, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "mesh.server")
    order = fresh("order")
    async with made.serving(order), calling(made, "mesh", order) as channel:
        assert await outcome(channel) is None
        watching, sending = channel.unary_stream(WATCH)(b""), channel.stream_unary(SEND)()
        assert await watching.read()
        await sending.write(b"")
        known = intend("mesh", order, "deny")
        for stream in (watching, sending):
            refused = await ended(stream)
            assert (refused.code, refused.reason) == (Code.PERMISSION_DENIED, "INTENTION_DENIES")
        denied = await outcome(channel)
        assert denied is not None
        assert f"the intention mesh => {order}" in denied.message
        assert f"consul intention create -replace -allow mesh {order}" in denied.message
        assert f"`mesh explain --from mesh {order}`" in denied.message
        assert denied.metadata == {
            "source": "mesh", "destination": order, "intention": f"mesh => {order}", "precedence": "9",
        }  # fmt: skip
        assert DECISIONS.labels("mesh", "deny")._value.get() >= 1
        assert await outcome(channel)
        told = [(one.levelname, one.message) for one in caplog.records if one.message.startswith("a call of mesh")]
        default = f"a call of mesh to {GET} is allowed by default, as no intention is about mesh => {order}"
        why = f"denied by the intention mesh => {order}"
        denials = [("WARNING", f"a call of mesh to {path} is {why}") for path in (GET, SEND, WATCH)]
        assert sorted(told) == [("INFO", default), *denials]
        intend("mesh", order, "allow", known)
        async with asyncio.timeout(SOON_SECONDS):
            while await outcome(channel):
                pass


@pytest.mark.parametrize("how", [CATCH, CLING])
async def test_a_stream_whose_handler_catches_its_end_is_refused_all_the_same(
    dev_registry: RegistryProcess, short_tmp: Path, how: str
) -> None:
    order = fresh("order")
    async with (
        secured_host(short_tmp, dev_registry.address) as made,
        made.serving(order),
        calling(made, "mesh", order) as channel,
    ):
        stream = channel.unary_stream(how)(b"")
        assert await stream.read()
        with intended(dev_registry) as intend:
            intend("mesh", order, "deny")
            refused = await ended(stream)
    assert (refused.code, refused.reason) == (Code.PERMISSION_DENIED, "INTENTION_DENIES")


async def test_the_most_precise_decides_and_explain_says_which(made: SecuredHost, intend: Set) -> None:
    order, web = fresh("order"), fresh("web")
    intend("*", order, "deny")
    intend(web, order, "allow")
    async with made.serving(order), made.serving(web):
        async with calling(made, web, order) as channel, calling(made, "mesh", order) as stranger:
            await until_code(stranger, Code.PERMISSION_DENIED)
            assert await outcome(channel) is None
        request = pb.ExplainServiceRequest(service=order, method="Get", caller="mesh")
        found = await made.plain.stub.ExplainService(request)
        told = json.loads(show.as_json(found))["intentions"]
        assert (told["caller"], told["default"], told["enforced"]) == ("mesh", "allow", True)
        (verdict,) = told["verdicts"]
        assert (verdict["allowed"], verdict["intention"], verdict["precedence"]) == (False, f"* => {order}", 8)
        assert "may not" in show.as_text(found)
        request = pb.ExplainServiceRequest(service=order, caller=web)
        (verdict,) = (await made.plain.stub.ExplainService(request)).intentions.verdicts
        assert (verdict.method, verdict.allowed, verdict.intention) == ("", True, f"{web} => {order}")


async def test_permissions_of_a_config_entry_hold_and_go_on_holding_when_the_registry_is_lost(
    short_tmp: Path, own_dev: RegistryProcess
) -> None:
    """Of the newer kind of entry, which only the built-in registry has here."""
    permissions = [{"Action": "allow", "HTTP": {"PathExact": GET}}, {"Action": "deny", "HTTP": {"PathPrefix": "/"}}]
    sources = [{"Name": "mesh", "Permissions": permissions}]
    own_dev.ask("PUT", "/v1/config", {"Kind": "service-intentions", "Name": "order", "Sources": sources})
    async with (
        secured_host(short_tmp, own_dev.address) as made,
        made.serving("order"),
        calling(made, "mesh", "order") as channel,
    ):
        for is_lost in (False, True):
            if is_lost:
                own_dev.stop()
            assert await outcome(channel) is None
            refused = await ended(channel.unary_stream(WATCH)(b""))
            assert refused.code is Code.PERMISSION_DENIED
            assert "permission 2 of the intention mesh => order" in refused.message
        async with connect(own_dev.settings()) as registry, Scope() as scope:
            watcher = IntentionsWatcher(registry, short_tmp / "intentions.json", patience_seconds=0.01)
            watcher.start(scope)
            known = await anext(watcher.to("order"))
            assert known.decide("mesh", "order", GET).allowed
            assert not known.decide("mesh", "order", WATCH).allowed


async def test_a_silent_sidecar_is_told_of_unless_nobody_wants_to_know_any_more(
    short_tmp: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def asking(service: str, silent_seconds: float) -> asyncio.Task[None]:
        access = Access(service, f"unix:{short_tmp}/away", lambda: None, silent_seconds=silent_seconds)
        return asyncio.ensure_future(access.follow())

    stopped, going = asking("stopped", 0.05), asking("going", 0.2)
    await asyncio.sleep(0)
    stopped.cancel()
    async with asyncio.timeout(20):
        while "who may call going" not in caplog.text:  # noqa: ASYNC110 (the log has no event)
            await asyncio.sleep(0.01)
    going.cancel()
    await asyncio.gather(stopped, going, return_exceptions=True)
    assert "who may call stopped" not in caplog.text


async def test_nobody_is_let_in_as_long_as_intentions_were_never_read(
    dev_registry: RegistryProcess, short_tmp: Path
) -> None:
    """A program with its certificate, beside no sidecar: health is told all the same, so that nobody is led to it."""
    order = fresh("order")
    async with secured_host(short_tmp, dev_registry.address) as made:
        async with made.serving(order):
            settings = made.settings(order, port=free_port(), grace_seconds=0.1)
        text = settings.bootstrap.replace("sidecar.sock", "nobody.sock")
        async with mesh.server(replace(settings, bootstrap=text)) as server:
            methods: dict[str, Any] = {"Get": grpc.unary_unary_rpc_method_handler(_never)}
            server.add_registered_method_handlers("shop.v1.Shop", methods)
            await server.start()
            async with dialled(made, order, server.port) as channel:
                health: Any = HealthStub(channel)  # type: ignore[no-untyped-call]
                assert (await health.Check(HealthCheckRequest())).status == HealthCheckResponse.NOT_SERVING
                refused = await outcome(channel)
    assert refused is not None
    assert (refused.code, refused.reason) == (Code.UNAVAILABLE, "INTENTIONS_UNKNOWN")
    assert "mesh check" in refused.message


async def test_who_waits_for_intentions_that_nobody_can_read_is_told_so(
    dev_registry: RegistryProcess, short_tmp: Path
) -> None:
    order, port = fresh("order"), free_port()
    async with without_intentions(dev_registry.address) as address, host(short_tmp, address) as made:
        call: Any = made.stub.Attach()
        meta = {TLS_META: MUTUAL_TLS}
        workload = pb.Workload(service=order, id=order, address="127.0.0.1", port=port, meta=meta)
        await call.write(pb.AttachRequest(workload=workload))
        async with mesh.server(made.settings(order, port=port, grace_seconds=0.1)) as server, asyncio.timeout(30):
            await server.start()
            while not (told := (await call.read()).reason).startswith("not serving"):
                pass
        call.cancel()
    assert told == f"not serving; intentions were never read, so nobody may call {order}: `mesh check` says more"


async def _never(request: bytes, context: Any) -> bytes:
    raise AssertionError("nobody is let in")


async def test_a_token_with_the_documented_rights_reads_intentions_and_the_default(
    consul_with_acl: RegistryProcess,
) -> None:
    """Which is to deny, as that of the ACLs is."""
    page = (Path(__file__).parents[2] / "docs" / "several-machines.md").read_text()
    rules = "\n".join(re.findall(r'^    (\w+ "[^"]*" \{.*\})$', page, re.MULTILINE))
    policy = consul_with_acl.ask("PUT", "/v1/acl/policy", {"Name": "intended", "Rules": rules})
    token = consul_with_acl.ask("PUT", "/v1/acl/token", {"Policies": [{"ID": policy["ID"]}]})["SecretID"]
    with intended(consul_with_acl) as put:
        put("*", "greeter", "allow")
        put("web", "*", "allow")
        async with connect(consul_with_acl.settings(token=token)) as registry:
            found = read(await registry.intended())
            put("*", "*", "allow")
            hidden = read(await registry.intended())
    assert {str(one) for one in found.held} >= {"* => greeter", "web => *"}
    assert not found.default_allow
    assert "* => *" in {str(one) for one in hidden.held}
    assert not hidden.default_allow
    async with connect(consul_with_acl.settings(token="")) as stranger:
        assert read(await stranger.intended()) == Intentions()


# --- steps ---------------------------------------------------------------------------------------------------


@asynccontextmanager
async def without_intentions(registry: str) -> AsyncIterator[str]:
    """Address of a registry that fails whenever it is asked for intentions."""

    async def answer(request: web.Request) -> web.Response:
        if request.path.startswith("/v1/connect/intentions"):
            return web.Response(status=500, text="no intentions")
        async with session.request(request.method, registry + request.raw_path, data=await request.read()) as found:
            headers = {name: value for name, value in found.headers.items() if name.startswith("X-Consul-")}
            return web.Response(
                status=found.status, body=await found.read(), headers=headers, content_type=found.content_type
            )

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    async with aiohttp.ClientSession() as session, TestServer(app, shutdown_timeout=0.1) as served:
        yield str(served.make_url("")).rstrip("/")


@asynccontextmanager
async def dialled(made: SecuredHost, service: str, port: int) -> AsyncIterator[Any]:
    """A channel to one instance, as the sidecar has it."""
    own, its = (identity_files.read(identity_files.folder_of(made.identities, name)) for name in ("mesh", service))
    (name,) = x509.load_pem_x509_certificate(its.certificate.encode()).subject
    async with dial(f"127.0.0.1:{port}", Proof(own=own, name=str(name.value))) as channel:
        yield channel


@asynccontextmanager
async def calling(made: SecuredHost, source: str, service: str) -> AsyncIterator[Any]:
    """A channel of one service to another."""
    async with mesh.channel(service, made.settings(source)) as channel:
        yield channel


async def outcome(channel: Any) -> mesh.Error | None:
    """How one call ends; None when it is answered."""
    try:
        await channel.unary_unary(GET)(b"", timeout=SOON_SECONDS)
    except grpc.aio.AioRpcError as error:
        return from_rpc(error)
    return None


async def until_code(channel: Any, code: Code) -> None:
    async with asyncio.timeout(SOON_SECONDS):
        while (found := await outcome(channel)) is None or found.code is not code:
            pass


async def ended(stream: Any) -> mesh.Error:
    """What a stream ends with, which it has to soon."""
    async with asyncio.timeout(SOON_SECONDS):
        try:
            if hasattr(stream, "read"):
                while await stream.read() is not grpc.aio.EOF:
                    pass
            await stream
        except grpc.aio.AioRpcError as error:
            return from_rpc(error)
    raise AssertionError("it ended well")
