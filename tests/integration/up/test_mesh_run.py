"""`mesh run` as a user types it, with the dev registry and a program that is not ours."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import sys
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from mesh.contract import PREFIX, Contract
from mesh.paths import Paths
from mesh.ports import free_port
from mesh.process import Command, start
from mesh.up.probes import Probe, gone, tcp, until
from tests.fixtures.programs import strange

STRANGE = (sys.executable, strange.__file__)
SERVE = 'echo $$ > pid-$PORT; exec "$0" -m http.server $PORT --bind 127.0.0.1'
HEARS = """
import http.server, os, signal
def told(number, frame):
    os.write(2, f"got {signal.Signals(number).name}\\n".encode())
for number in (signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH, signal.SIGCONT):
    signal.signal(number, told)
os.write(2, f"pid {os.getpid()}\\n".encode())
http.server.HTTPServer(("127.0.0.1", int(os.environ["PORT"])), http.server.BaseHTTPRequestHandler).serve_forever()
"""
WEB = ("run", "--service", "web", "--protocol", "http", "--")
SERVER = (*WEB, "sh", "-c", SERVE, sys.executable)
HEARING = (*WEB, sys.executable, "-c", HEARS)


@dataclass
class Place:
    """A folder and a registry for programs to join."""

    folder: Path
    registry_port: int

    @property
    def environ(self) -> dict[str, str]:
        address = f"127.0.0.1:{self.registry_port}"
        return {**os.environ, "CONSUL_HTTP_ADDR": address, "MESH_DIR": str(self.folder / "state")}

    @asynccontextmanager
    async def mesh(self, *words: str, **environ: str) -> AsyncIterator[asyncio.subprocess.Process]:
        """A running command, killed at the end if need be."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "mesh", *words, cwd=self.folder, env=self.environ | environ,
            stderr=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        try:
            async with asyncio.timeout(30):
                yield process
        finally:
            if process.returncode is None:
                process.kill()
                await process.communicate()

    async def fails(self, *words: str) -> tuple[int | None, str]:
        async with self.mesh(*words) as process:
            _, messages = await process.communicate()
            return process.returncode, messages.decode()

    async def instances(self, service: str, count: int) -> list[dict[str, Any]]:
        """The passing instances of a service, once there are so many."""
        while len(found := await asyncio.to_thread(self._passing, service)) != count:
            pass
        return found

    def registered(self, service: str) -> list[dict[str, Any]]:
        """All instances, whatever their health."""
        return self._listed(service)

    def _passing(self, service: str) -> list[dict[str, Any]]:
        return self._listed(f"{service}?passing")

    def _listed(self, service: str) -> list[dict[str, Any]]:
        url = f"http://127.0.0.1:{self.registry_port}/v1/health/service/{service}"
        with urllib.request.urlopen(url) as answer:
            return [entry["Service"] for entry in json.load(answer)]

    def contract(self, service: str) -> Contract:
        """What is published of a service."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.registry_port}/v1/kv/{PREFIX}{service}?raw") as answer:
            return Contract.parse(answer.read())

    def child_pid(self, port: int) -> int:
        return int((self.folder / f"pid-{port}").read_text())


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    port = free_port()
    argv = (sys.executable, "-m", "mesh.registry", "--port", str(port), "--data", str(tmp_path / "registry"))
    registry = await start(Command(argv=argv, environ=os.environ, log=tmp_path / "registry.log"))
    async with asyncio.timeout(20):
        await until(tcp(port))
    yield Place(tmp_path, port)
    await registry.stop()
    shutil.rmtree(Paths.locate(os.environ, tmp_path / "state").run, ignore_errors=True)


async def test_a_program_is_on_the_mesh_for_as_long_as_it_lives(place: Place) -> None:
    flags = ("--zone", "z1", "--tag", "blue", "--meta", "team=x", "--http-prefix", "/web/")
    async with place.mesh(*SERVER[:1], *flags, *SERVER[1:]) as process:
        (instance,) = await place.instances("web", 1)
        assert instance["Meta"].items() >= {"zone": "z1", "team": "x", "http-prefixes": "/web/"}.items()
        assert "blue" in instance["Tags"]
        assert instance["ID"].startswith("web-")
        os.kill(place.child_pid(instance["Port"]), signal.SIGKILL)
        await place.instances("web", 0)
        _, messages = await process.communicate()
        assert process.returncode == 137
        assert b"web ended by signal 9" in messages


async def test_sigterm_takes_it_out_before_it_ends_it(place: Place) -> None:
    async with place.mesh(*SERVER) as process:
        (instance,) = await place.instances("web", 1)
        process.send_signal(signal.SIGTERM)
        await place.instances("web", 0)
        await until(tcp(instance["Port"]))
        await process.communicate()
        assert process.returncode == 143


async def hears(process: asyncio.subprocess.Process, text: bytes) -> bytes:
    """The rest of the next line of the messages that has this text."""
    assert process.stderr is not None
    while text not in (line := await process.stderr.readline()):
        assert line, "the messages ended"
    return line.partition(text)[2].strip()


@pytest.mark.parametrize("name", ["SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGWINCH", "SIGCONT"])
async def test_other_signals_are_handed_on_to_the_program_which_goes_on(place: Place, name: str) -> None:
    async with place.mesh(*HEARING) as process:
        await hears(process, b"is on the mesh")
        process.send_signal(signal.Signals[name])
        assert await hears(process, b"got ") == name.encode()
        process.send_signal(signal.SIGTERM)
        await process.communicate()
        assert process.returncode == 143
    assert await asyncio.to_thread(place.registered, "web") == []


async def test_a_program_that_does_not_handle_sighup_ends_as_when_its_terminal_closes(place: Place) -> None:
    async with place.mesh(*SERVER) as process:
        await place.instances("web", 1)
        process.send_signal(signal.SIGHUP)
        await process.communicate()
        assert process.returncode == 129
    assert await asyncio.to_thread(place.registered, "web") == []


async def test_ctrl_z_suspends_both_and_sigcont_resumes_both(place: Place) -> None:
    async with place.mesh(*HEARING) as process:
        pid = int(await hears(process, b"pid "))
        await hears(process, b"is on the mesh")
        process.send_signal(signal.SIGTSTP)
        for each in (pid, process.pid):
            await until(is_suspended(each))
        process.send_signal(signal.SIGCONT)
        assert await hears(process, b"got ") == b"SIGCONT"
        assert not await is_suspended(pid)()
        assert not await is_suspended(process.pid)()


def is_suspended(pid: int) -> Probe:
    async def look() -> bool:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].startswith("T")

    return look


async def test_a_program_that_ends_faster_than_it_leaves_is_deregistered_all_the_same(place: Place) -> None:
    async with place.mesh(*SERVER) as process:
        (instance,) = await place.instances("web", 1)
        process.send_signal(signal.SIGTERM)
        await place.instances("web", 0)
        os.kill(place.child_pid(instance["Port"]), signal.SIGTERM)
        await process.communicate()
        assert process.returncode == 143
    assert await asyncio.to_thread(place.registered, "web") == []


@pytest.mark.parametrize("child_first", [True, False])
async def test_a_service_manager_may_signal_all_processes_at_once(place: Place, child_first: bool) -> None:
    async with place.mesh(*SERVER) as process:
        (instance,) = await place.instances("web", 1)
        pids = [process.pid, place.child_pid(instance["Port"])]
        for pid in reversed(pids) if child_first else pids:
            os.kill(pid, signal.SIGTERM)
        await process.communicate()
        assert process.returncode == 143
    assert await asyncio.to_thread(place.registered, "web") == []


async def test_a_second_ctrl_c_ends_it_without_leaving(place: Place) -> None:
    async with place.mesh(*WEB, "sh", "-c", "trap '' TERM; echo pid $$ >&2; while :; do sleep 60; done") as process:
        pid = int(await hears(process, b"pid "))
        process.send_signal(signal.SIGINT)
        await hears(process, b"leaves the mesh")
        process.send_signal(signal.SIGINT)
        await process.communicate()
        assert process.returncode == 130
        await until(gone(pid))


async def test_the_environment_in_a_run_folder_that_others_can_enter_is_not_taken(place: Place) -> None:
    paths = Paths.locate(place.environ)
    paths.prepare()
    paths.environ.write_text('{"PLANTED": "1"}')
    paths.run.chmod(0o755)
    code, messages = await place.fails("run", "--service", "a", "--", "sh", "-c", "exit 9$PLANTED")
    assert (code, "can be entered by others; remove it" in messages) == (1, True)


async def test_sigkill_of_mesh_run_leaves_no_child(place: Place) -> None:
    async with place.mesh(*SERVER) as process:
        (instance,) = await place.instances("web", 1)
        process.kill()
        await until(gone(place.child_pid(instance["Port"])))


async def test_a_neighbour_takes_over_the_sidecar_of_one_that_ends(place: Place) -> None:
    async with place.mesh(*SERVER) as first:
        await place.instances("web", 1)
        async with place.mesh(*SERVER) as second:
            await place.instances("web", 2)
            first.send_signal(signal.SIGTERM)
            await first.communicate()
            assert second.stderr is not None
            for told in (b"this process is it", b"is on the mesh"):
                while told not in await second.stderr.readline():
                    pass
            (instance,) = await place.instances("web", 1)
            second.send_signal(signal.SIGTERM)
            await second.communicate()
            await place.instances("web", 0)
            await until(gone(place.child_pid(instance["Port"])))


async def test_a_sidecar_that_fails_takes_no_program_with_it(place: Place) -> None:
    path = Paths.locate(os.environ, place.folder / "state").sidecar_socket
    path.parent.mkdir(mode=0o700)
    path.mkdir()  # so that it cannot be listened on
    async with place.mesh(*SERVER) as process:
        assert process.stderr is not None
        while b"the sidecar failed and starts again" not in await process.stderr.readline():
            pass
        assert process.returncode is None
        path.rmdir()
        await place.instances("web", 1)


@pytest.mark.parametrize(
    ("kind", "flags", "services"),
    [
        ("none", (), ()),
        ("none", ("--descriptors", "strange.binpb"), (strange.NAME,)),
        ("health", (), ()),
        ("named", (), ()),
        ("reflection", (), (strange.NAME,)),
        ("reflection", ("--descriptors", "strange.binpb"), (strange.NAME,)),
    ],
)
async def test_a_server_without_our_code_joins_by_what_it_offers(
    place: Place, kind: str, flags: tuple[str, ...], services: tuple[str, ...]
) -> None:
    (place.folder / "strange.binpb").write_bytes(FileDescriptorSet(file=[strange.described()]).SerializeToString())
    async with place.mesh("run", "--service", "strange", "--plaintext", *flags, "--", *STRANGE, kind) as process:
        (instance,) = await place.instances("strange", 1)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{instance['Port']}") as channel:
            call: Any = channel.unary_unary(f"/{strange.NAME}/Get")
            assert await call(b"") == kind.encode()
        assert place.contract("strange").services == services
        process.send_signal(signal.SIGTERM)
        await place.instances("strange", 0)
        await process.communicate()


async def test_the_health_that_a_server_tells_is_its_place_in_the_rotation(place: Place) -> None:
    command = ("sh", "-c", 'echo $$ > pid-$PORT; exec "$0" "$@"', *STRANGE, "health")
    async with place.mesh("run", "--service", "strange", "--plaintext", "--", *command):
        (instance,) = await place.instances("strange", 1)
        os.kill(place.child_pid(instance["Port"]), signal.SIGUSR1)
        await place.instances("strange", 0)
        os.kill(place.child_pid(instance["Port"]), signal.SIGUSR2)
        await place.instances("strange", 1)


async def test_port_and_address_are_as_given(place: Place) -> None:
    port = free_port()
    serve = (sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.2")
    where = ("--port", str(port), "--address", "127.0.0.2", "--zone", "z2")
    flags = (*where, "--tag", "a", "--tag", "b", "--meta", "k=v=w")
    async with place.mesh("run", "--service", "web", "--protocol", "http", *flags, "--", *serve):
        (instance,) = await place.instances("web", 1)
        assert (instance["Address"], instance["Port"]) == ("127.0.0.2", port)
        assert {"a", "b"} <= set(instance["Tags"])
        assert instance["Meta"].items() >= {"zone": "z2", "k": "v=w", "protocol": "http"}.items()


@pytest.mark.parametrize(
    ("command", "code", "told"),
    [
        ((*WEB, sys.executable, "-c", "import sys; sys.exit(7)"), 7, None),
        ((*WEB, "no-such-program"), 1, "mesh: command not found: no-such-program (it is not on PATH)"),
        ((*WEB, "./no-such-program"), 1, "mesh: command not found: ./no-such-program (no such program"),
        (("run", "--service", "a"), 2, "Usage: mesh run"),
        (("run", "--service", "a", "--plaintext", "--mtls", "--", "true"), 2, "Error: --mtls and --plaintext"),
    ],
)
async def test_what_cannot_run_is_told(place: Place, command: tuple[str, ...], code: int, told: str | None) -> None:
    found, messages = await place.fails(*command)
    assert found == code, messages
    if told is not None:
        assert any(line.startswith(told) for line in messages.splitlines()), messages


async def test_all_wrong_options_are_told_before_the_program_starts(place: Place) -> None:
    for name, content in (("bad.json", "{"), ("bad.binpb", "garbage"), ("empty.json", "")):
        (place.folder / name).write_text(content)
    flags = (
        *("--service", "a b", "--address", "host.name", "--descriptors", "bad.binpb", "--service-config", "bad.json"),
        *("--meta", "x", "--meta", "a=1", "--meta", "a=2", "--meta", "a b=c", "--http-prefix", "/"),
    )
    code, messages = await place.fails("run", *flags, "--", "touch", "started")
    expected = (
        "mesh: --service 'a b' must be letters",
        "mesh: --address 'host.name' must be an IP address",
        "mesh: --meta 'x' is not KEY=VALUE",
        "mesh: --meta 'a=2' names a again",
        "mesh: --meta: 'a b': a key has",
        "mesh: --http-prefix: '/' needs the protocol http",
        "mesh: --descriptors bad.binpb: not a serialized",
        "mesh: --service-config bad.json: not JSON: ",
    )
    lines = messages.splitlines()
    assert [line[: len(begun)] for line, begun in zip(lines, expected, strict=True)] == list(expected)
    assert code == 2
    files = ("--descriptors", "/none", "--service-config", "empty.json")
    code, messages = await place.fails("run", "--service", "a", *files, "--", "touch", "started")
    assert messages.splitlines() == [
        "mesh: --descriptors /none cannot be read: No such file or directory",
        "mesh: --service-config empty.json is empty",
    ]
    assert (code, (place.folder / "started").exists()) == (2, False)


async def test_a_registry_that_cannot_be_is_told_before_the_program_starts(place: Place) -> None:
    async with place.mesh(*SERVER, CONSUL_HTTP_ADDR="ftp://consul") as process:
        _, messages = await process.communicate()
    assert process.returncode == 2
    assert "mesh: CONSUL_HTTP_ADDR: registry address 'ftp://consul': unknown scheme 'ftp'" in messages.decode()
    assert not list(place.folder.glob("pid-*"))


async def test_a_busy_port_is_named_with_its_owner(place: Place) -> None:
    busy = str(place.registry_port)
    code, messages = await place.fails("run", "--service", "a", "--port", busy, "--", "true")
    told = f"mesh: --port {busy} is busy on 127.0.0.1: "
    assert (code, told in messages, "-m mesh.registry" in messages) == (2, True, True)


async def test_a_port_is_busy_where_the_program_would_listen(place: Place) -> None:
    with socket.create_server(("127.0.0.2", 0)) as stranger:
        busy = str(stranger.getsockname()[1])
        where = ("--port", busy, "--address", "127.0.0.2")
        code, messages = await place.fails("run", "--service", "a", *where, "--", "true")
    assert (code, f"mesh: --port {busy} is busy on 127.0.0.2: " in messages) == (2, True), messages
    assert f"(pid {os.getpid()})" in messages


async def test_a_program_that_does_not_listen_is_told_so(place: Place) -> None:
    async with place.mesh(*WEB, "sleep", "600") as process:
        assert process.stderr is not None
        while b"WARNING mesh.run: web is not on the mesh yet" not in (line := await process.stderr.readline()):
            assert line
        told = re.search(rb"yet: nothing listens on port (\d+); it finds its port, (\d+), in PORT", line)
        assert told is not None
        assert told[1] == told[2]


async def test_an_end_is_told_with_its_code(place: Place) -> None:
    code, messages = await place.fails(*WEB, sys.executable, "-c", "import sys; sys.exit(7)")
    assert code == 7
    assert "web ended with exit code 7" in messages


async def test_becoming_the_sidecar_is_a_warning_with_the_folder(place: Place) -> None:
    async with place.mesh(*SERVER) as process:
        assert process.stderr is not None
        while b"so this process is it" not in (line := await process.stderr.readline()):
            assert line
    state = str(place.folder / "state").encode()
    assert b" WARNING mesh.run: no sidecar runs for " + state in line
    assert b"name that with --dir or MESH_DIR" in line


@pytest.mark.parametrize(("own", "found"), [(None, "ERROR"), ("debug", "debug")])
async def test_grpc_is_quiet_unless_asked(
    place: Place, own: str | None, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GRPC_VERBOSITY", raising=False)
    if own:
        monkeypatch.setenv("GRPC_VERBOSITY", own)
    await place.fails(*WEB, "sh", "-c", "echo $GRPC_VERBOSITY > verbosity")
    assert (place.folder / "verbosity").read_text().strip() == found
