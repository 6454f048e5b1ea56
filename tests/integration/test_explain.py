"""`mesh explain` and `mesh check` on a real sidecar, with the dev registry and a real Consul."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest

from mesh.ask import explanation, findings
from mesh.errors import Error
from mesh.paths import Paths
from mesh.ports import free_port
from mesh.xds.snapshot import LISTENER
from meshwright.check.v1.check_service_pb2 import Finding, ListFindingsRequest
from meshwright.check.v1.check_service_pb2_grpc import CheckServiceStub
from meshwright.sidecar.v1 import explanation_pb2
from meshwright.sidecar.v1 import sidecar_service_pb2 as pb
from tests.fixtures.ads import AdsClient
from tests.fixtures.consul import RegistryProcess
from tests.fixtures.operator import Operator
from tests.fixtures.shop import GET, Host, Shop, host, until

NOT_SERVING = pb.AttachResponse.STATE_NOT_SERVING


async def explained(mesh_host: Host, service: str, method: str = "Get") -> explanation_pb2.Explanation:
    return await mesh_host.stub.ExplainService(pb.ExplainServiceRequest(service=service, method=method))


async def failures(mesh_host: Host, about: str = "") -> list[Finding]:
    """What the sidecar finds wrong and that names something; the registry is shared with other tests."""
    return [one for one in await told(mesh_host) if not one.passed and about in one.text + one.remedy]


async def told(mesh_host: Host) -> Sequence[Finding]:
    async with grpc.aio.insecure_channel(f"unix:{mesh_host.socket}") as channel:
        return (await CheckServiceStub(channel).ListFindings(ListFindingsRequest(), timeout=20)).findings


async def test_a_service_that_nobody_called_before_is_explained(mesh_host: Host, service: str) -> None:
    shop = await mesh_host.shop(service, zone="a")
    found = await explained(mesh_host, service)
    assert found.method == GET.removeprefix("/")
    assert [(i.id, i.health, i.zone, i.in_rotation) for i in found.instances] == [(shop.id, "passing", "a", True)]
    assert [(s.target, s.instances) for s in found.routes[0].shares] == [(service, 1)]


async def test_what_an_operator_sets_is_told_with_its_source_and_what_is_refused_too(
    mesh_host: Host, mesh_operator: Operator, service: str
) -> None:
    await mesh_host.shop(service)
    await mesh_operator.config(service, methodConfig=[{"name": [{}], "timeout": "1.5s"}])

    async def is_told() -> bool:
        found = await explained(mesh_host, service)
        return (found.deadline.timeout.ToMilliseconds(), found.deadline.source) == (
            1500, f"mesh/service-config/{service}",
        )  # fmt: skip

    await until(is_told)
    for text, told in (
        (json.dumps({"methodConfig": [{"name": [{"service": "shop.v1.Shop", "method": "Gte"}]}]}), "has no method Gte"),
        (json.dumps({"methodConfig": [{"name": [{}], "timeout": "soon"}]}), "'soon'"),
        (" ", "empty, not JSON"),
    ):
        await mesh_operator.config(service, text)
        await until(partial(_is_refused, mesh_host, service, told))


async def _is_refused(mesh_host: Host, service: str, told: str) -> bool:
    """Whether this is told, and nothing of what was there before."""
    found = await explained(mesh_host, service)
    assert found.deadline.timeout.ToMilliseconds() == 1500
    notes = [note for note in found.notes if "is not in force" in note]
    assert len(notes) <= 1
    return told in "".join(notes)


async def test_a_redirect_is_followed_to_the_instances_of_another_service(
    mesh_host: Host, mesh_operator: Operator, service: str
) -> None:
    shop = await mesh_host.shop(service)
    await mesh_operator.entry("service-resolver", f"{service}-old", Redirect={"Service": service})

    async def leads_there() -> bool:
        try:
            found = await explained(mesh_host, f"{service}-old", "")
        except grpc.aio.AioRpcError:  # nothing is known of that name yet
            return False
        return [i.id for i in found.instances] == [shop.id]

    await until(leads_there)


@pytest.mark.parametrize("method", ["", "Get"])
async def test_an_unknown_service_is_not_found(mesh_host: Host, service: str, method: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match=f"nobody registered {service}") as caught:
        await explained(mesh_host, service, method)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_sound_mesh_has_nothing_wrong(own_registry: RegistryProcess, short_tmp: Path, service: str) -> None:
    async with host(short_tmp, own_registry.settings().address) as mesh_host:
        await mesh_host.shop(service)

        async def is_sound() -> bool:  # the registry may not have told of all kinds of entries yet
            return not await failures(mesh_host)

        await until(is_sound)
        assert not (await explained(mesh_host, service)).notes
        own_registry.kill()
        assert {found.group for found in await failures(mesh_host)} == {"registry", "instances", "clock"}
        found = await explained(mesh_host, service)
        assert len(found.instances) == 1
        assert "cannot be reached" in found.notes[0]


async def test_a_refusal_is_found_for_as_long_as_it_is_the_last_word(mesh_host: Host, service: str) -> None:
    client = AdsClient(node="refuser")
    async with client.connected(mesh_host.socket):
        await client.ask(LISTENER, service)
        await client.receive()
        await client.ask(LISTENER, refusal="I take no listeners")

        async def is_found() -> bool:
            return [f.group for f in await failures(mesh_host, "I take no listeners")] == ["subscriptions"]

        await until(is_found)


async def test_what_is_wrong_is_found_whether_somebody_calls_or_not(
    mesh_host: Host, mesh_operator: Operator, service: str
) -> None:
    await mesh_operator.config(service, "{")
    await mesh_operator.config("", "{}")
    await mesh_operator.entry("service-resolver", service, Subsets={"v1": {"Filter": "Service.Meta.version =="}})
    shop = await mesh_host.shop(service)
    await shop.shop.be(serving=False)
    await shop.until(NOT_SERVING)

    async def are_found() -> bool:
        return {found.group for found in await failures(mesh_host, service)} == {"policies", "instances"}

    await until(are_found)
    assert len(await failures(mesh_host, service)) == 3
    (nameless,) = await failures(mesh_host, "mesh/service-config/ is not in force")
    assert nameless.text.endswith(": the key names no service")


async def test_the_name_that_a_program_waits_to_join_under_is_known(
    mesh_host: Host, mesh_operator: Operator, service: str
) -> None:
    await mesh_operator.config(service, mutualTlsMode="permissive")

    async def is_doubted() -> bool:
        return any(f"about {service}, which nobody is" in one.text for one in await told(mesh_host))

    await until(is_doubted)
    waiting = Shop(f"{service}-1")
    waiting.port = free_port()
    await mesh_host.attach(waiting, service)

    async def is_known() -> bool:
        return not await is_doubted()

    await until(is_known)
    assert await failures(mesh_host, f"{service}-1 is not on the mesh yet")


async def test_without_a_sidecar_it_is_said_how_to_start_one(short_tmp: Path) -> None:
    paths = Paths.locate({"XDG_RUNTIME_DIR": str(short_tmp)}, short_tmp / "state")
    with pytest.raises(Error, match="`mesh up` or `mesh sidecar`"):
        await explanation(paths, "order", "")
    (found,) = await findings(paths)
    assert (found.group, found.passed) == ("sidecar", False)


def test_of_a_sidecar_that_is_stopped_it_is_said_how_it_goes_on(short_tmp: Path) -> None:
    paths = Paths.locate({"XDG_RUNTIME_DIR": str(short_tmp)}, short_tmp / "state")
    paths.prepare()
    with subprocess.Popen(["sleep", "60"]) as process, socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(paths.sidecar_socket))
        listening.listen()
        (paths.run / f"stack-sidecar.{process.pid}.sock").touch()
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        try:
            with pytest.raises(Error, match=f": the sidecar does not answer: run `kill -CONT {process.pid}`;"):
                asyncio.run(explanation(paths, "order", ""))
            wrong = [one for one in asyncio.run(findings(paths)) if not one.passed]
        finally:
            process.kill()
    assert {one.remedy.partition("  #")[0] for one in wrong} == {f"kill -CONT {process.pid}"}


@pytest.mark.parametrize(("words", "told"), [(("check",), "✗ none answers"), (("explain", "order"), "no sidecar runs")])
def test_the_command_fails_without_a_sidecar(short_tmp: Path, words: tuple[str, ...], told: str) -> None:
    done = mesh(*words, "--dir", str(short_tmp))
    assert done.returncode == 1
    assert told in done.stdout + done.stderr


def mesh(*words: str) -> subprocess.CompletedProcess[str]:
    """The command `mesh`, as a user has it."""
    command = [str(Path(sys.executable).with_name("mesh")), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_programs_are_told_as_json_without_a_sidecar_too(short_tmp: Path) -> None:
    done = mesh("check", "--output", "json", "--dir", str(short_tmp))
    told: Any = json.loads(done.stdout)
    assert (done.returncode, told["passed"], [f["group"] for f in told["findings"]]) == (1, False, ["sidecar"])
    assert told["findings"][0]["remedy"].startswith(f"mesh up --dir {short_tmp}  # or `mesh sidecar --dir {short_tmp}`")
