"""`mesh up` and its companions as a user types them, around a small program of the user's own."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from mesh.guard import is_alive
from mesh.paths import Paths
from mesh.ports import free_port
from mesh.scope import Scope
from mesh.up.probes import gone, http, until

STACK = """
[stores]
postgres = {stores}
valkey = {stores}
[programs.web]
command = ["python", "-m", "http.server", "{{port}}", "--bind", "127.0.0.1"]
provides = {{ WEB_URL = "http://127.0.0.1:{{port}}" }}
[services.site]
command = ["sh", "-c", "echo $WEB_URL; exec \\"$0\\" -m http.server $PORT --bind 127.0.0.1", "{python}"]
protocol = "http"
http_prefixes = ["/site/"]
"""

SERVERS = ("CONSUL_HTTP_ADDR", "DATABASE_URL", "REDIS_URL", "OTEL_EXPORTER_OTLP_ENDPOINT", "MESH_DIR")


@dataclass
class Stack:
    """A folder with a stack file, and the commands that a user runs in it."""

    folder: Path
    ports: Mapping[str, int] = field(
        default_factory=lambda: {
            f"--{name}-port": free_port() for name in ("gateway", "registry", "otlp-grpc", "otlp-http")
        }
    )

    @property
    def paths(self) -> Paths:
        return Paths.locate(os.environ, self.folder / ".mesh")

    async def mesh(self, *words: str) -> tuple[int, str, str]:
        """Exit code, stdout and stderr of a command."""
        environ = {name: value for name, value in os.environ.items() if name not in SERVERS}
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "mesh", *words, cwd=self.folder, env=environ, stdout=pipe, stderr=pipe
        )
        async with asyncio.timeout(100):
            output, messages = await process.communicate()
        assert process.returncode is not None
        return process.returncode, output.decode(), messages.decode()

    async def up(self, *words: str) -> tuple[int, str, str]:
        flags = [str(word) for flag in self.ports.items() for word in flag]
        return await self.mesh("up", "--detach", *flags, *words)

    async def processes(self) -> dict[str, dict[str, Any]]:
        code, output, messages = await self.mesh("ps", "--output", "json")
        assert code == 0, messages
        return {process["name"]: process for process in json.loads(output)}

    @property
    def launcher_pid(self) -> int:
        return int(self.paths.lock.read_text())


def folder_with(folder: Path, stack: str) -> Stack:
    folder.chmod(0o700)
    (folder / "mesh.toml").write_text(stack)
    return Stack(folder)


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    stack = folder_with(tmp_path, STACK.format(stores="false", python=sys.executable))
    yield stack
    await stack.mesh("down")
    shutil.rmtree(stack.paths.run, ignore_errors=True)


async def test_a_stack_comes_up_is_listed_and_goes_down(stack: Stack) -> None:
    code, output, messages = await stack.up()
    assert code == 0, messages
    assert f"http://localhost:{stack.ports['--gateway-port']}" in output

    processes = await stack.processes()
    assert list(processes) == ["registry", "web", "sidecar", "console", "gateway", "envoy", "site"]
    assert {process["state"] for process in processes.values()} == {"ready"}
    assert all(set(process) == {"name", "pid", "state", "address", "restarts"} for process in processes.values())
    _, table, _ = await stack.mesh("ps")
    assert table.splitlines()[0].split() == ["NAME", "PID", "STATE", "RESTARTS", "ADDRESS"]

    _, log, _ = await stack.mesh("logs", "site", "--lines", "5")
    assert log.splitlines()[0] == f"http://{processes['web']['address']}"
    code, bootstrap, _ = await stack.mesh("bootstrap")
    assert (code, json.loads(Path(bootstrap.strip()).read_text())["xds_servers"][0]["server_uri"]) == (
        0, f"unix:{stack.paths.sidecar_socket}",
    )  # fmt: skip

    code, _, messages = await stack.up()
    assert (code, "already up" in messages) == (1, True)
    assert "already up" not in stack.paths.log("launcher").read_text()

    code, _, messages = await stack.mesh("down")
    assert (code, messages.splitlines()[0]) == (0, "site stopped")
    for process in processes.values():
        assert not is_alive(process["pid"])
    assert not stack.paths.run.exists()
    for command in (["ps"], ["down"], ["restart", "web"], ["bootstrap"]):
        code, _, messages = await stack.mesh(*command)
        assert (code, len(messages.splitlines())) == (1, 1), messages


async def test_a_killed_child_comes_back_and_a_restart_is_no_death(stack: Stack) -> None:
    assert (await stack.up())[0] == 0
    before = await stack.processes()
    os.kill(before["web"]["pid"], signal.SIGKILL)
    async with asyncio.timeout(20):
        while (now := (await stack.processes())["web"])["restarts"] == 0 or now["state"] != "ready":
            pass
    assert now["pid"] != before["web"]["pid"]

    code, _, messages = await stack.mesh("restart", "site")
    assert code == 0, messages
    site = (await stack.processes())["site"]
    assert (site["state"], site["restarts"]) == ("ready", 0)
    assert site["address"] != before["site"]["address"]
    code, _, messages = await stack.mesh("restart", "nobody")
    assert (code, "there are registry, web" in messages) == (1, True)


async def test_nothing_outlives_a_killed_launcher_and_the_next_start_works(tmp_path: Path) -> None:
    stack = folder_with(tmp_path, STACK.format(stores="true", python=sys.executable))
    assert (await stack.up())[0] == 0
    processes = await stack.processes()
    os.kill(stack.launcher_pid, signal.SIGKILL)
    async with asyncio.timeout(5):
        for process in processes.values():
            await until(gone(process["pid"]))
    assert (await stack.mesh("ps"))[0] == 1

    code, _, messages = await stack.up()
    assert code == 0, messages
    assert {process["state"] for process in (await stack.processes()).values()} == {"ready"}
    await until(http(stack.ports["--registry-port"], "/v1/catalog/services"))
    assert (await stack.mesh("down"))[0] == 0
    shutil.rmtree(stack.paths.run, ignore_errors=True)


async def test_busy_ports_are_all_named_before_anything_starts(stack: Stack) -> None:
    port = stack.ports["--gateway-port"]
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", port)
    async with server:
        code, _, messages = await stack.up()
    assert code == 1
    assert f"(pid {os.getpid()}); choose another with --gateway-port PORT" in messages
    assert not stack.paths.log("registry").exists()


async def test_a_part_that_cannot_start_is_named_with_the_end_of_its_log(tmp_path: Path) -> None:
    stack = folder_with(tmp_path, '[programs.bad]\ncommand = ["sh", "-c", "echo no such luck; exit 3"]\n')
    stack.paths.logs.mkdir(parents=True)
    stack.paths.log("bad").write_text("of an earlier start\n")
    code, _, messages = await stack.up()
    assert code == 1
    assert "of an earlier start" not in messages
    assert "mesh: bad does not start: ended with exit code 3; its log is" in messages
    assert "no such luck" in messages
    assert (await stack.mesh("ps"))[0] == 1


async def test_fresh_wipes_the_data_but_not_under_a_running_stack(stack: Stack) -> None:
    assert (await stack.up())[0] == 0
    kept = stack.paths.state / "kept"
    kept.touch()
    assert (await stack.up("--fresh"))[0] == 1
    assert kept.exists()
    assert (await stack.mesh("down"))[0] == 0
    assert (await stack.up("--fresh"))[0] == 0
    assert not kept.exists()


@pytest.mark.parametrize("content", ["[", "[services.a]\ncommand = []\n"])
async def test_a_wrong_stack_file_is_a_wrong_use(tmp_path: Path, content: str) -> None:
    code, _, messages = await folder_with(tmp_path, content).up()
    assert code == 2
    assert messages.startswith("mesh: mesh.toml: ")


async def test_ctrl_c_stops_a_stack_in_the_foreground(stack: Stack) -> None:
    flags = [str(word) for flag in stack.ports.items() for word in flag]
    environ = {name: value for name, value in os.environ.items() if name not in SERVERS}
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "mesh", "up", *flags, cwd=stack.folder, env=environ, stdout=pipe, stderr=pipe
    )
    assert process.stdout is not None
    async with asyncio.timeout(60):
        while b"Try:" not in await process.stdout.readline():
            pass
        assert {found["state"] for found in (await stack.processes()).values()} == {"ready"}
        process.send_signal(signal.SIGINT)
        _, messages = await process.communicate()
    assert process.returncode == 0
    assert messages.decode().splitlines().count("mesh: stopping; another Ctrl-C kills what is left") == 1


async def test_a_second_ctrl_c_says_nothing_and_leaves_nothing(stack: Stack) -> None:
    (stack.folder / "mesh.toml").write_text(STACK.format(stores="false", python=sys.executable) + DEAF)
    flags = [str(word) for flag in stack.ports.items() for word in flag]
    environ = {name: value for name, value in os.environ.items() if name not in SERVERS}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "mesh", "up", *flags, cwd=stack.folder, env=environ,
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    async with asyncio.timeout(60):
        while b"deaf is ready" not in (line := await process.stderr.readline()):
            assert line
        pids = [found["pid"] for found in (await stack.processes()).values() if found["pid"]]
        process.send_signal(signal.SIGINT)
        while b"mesh: stopping" not in (line := await process.stderr.readline()):
            assert line
        process.send_signal(signal.SIGINT)
        _, messages = await process.communicate()
    assert (process.returncode, b"is closed" in messages) == (130, False), messages
    assert not any(map(is_alive, pids))


DEAF = '''
[programs.deaf]
command = ["python", "-c", """
import signal, socket
signal.signal(signal.SIGTERM, signal.SIG_IGN)
listener = socket.create_server(("127.0.0.1", {port}))
while True:
    listener.accept()[0].close()
"""]
'''


async def test_a_stop_while_another_terminal_waits_for_the_start_is_told_as_that(stack: Stack) -> None:
    (stack.folder / "mesh.toml").write_text(STACK.format(stores="false", python=sys.executable) + SLOW)
    async with asyncio.timeout(60), Scope() as scope:
        waiter = scope.start(stack.up())
        while (await stack.mesh("ps"))[0] != 0:
            assert not waiter.done()
        down, _, problems = await stack.mesh("down")
        assert down == 0, repr(problems)
        code, _, messages = await waiter
    assert (code, messages.splitlines()[-1]) == (1, "mesh: it was stopped before all was ready")


SLOW = """
[programs.slow]
command = ["python", "-m", "http.server", "{port}", "--bind", "127.0.0.1"]
ready_path = "/never"
"""


async def test_a_slow_start_says_what_it_waits_for_in_the_background_too(stack: Stack) -> None:
    (stack.folder / "mesh.toml").write_text(STACK.format(stores="false", python=sys.executable) + SLOW)
    flags = [str(word) for flag in stack.ports.items() for word in flag]
    environ = {name: value for name, value in os.environ.items() if name not in SERVERS}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "mesh", "up", "--detach", *flags,
        cwd=stack.folder, env=environ, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    async with asyncio.timeout(60):
        while not (line := await process.stderr.readline()).startswith(b"mesh: waiting for slow, "):
            assert line
        process.send_signal(signal.SIGINT)
        await process.communicate()


async def test_two_parts_on_one_port_are_a_wrong_use(stack: Stack) -> None:
    port = str(stack.ports["--registry-port"])
    code, _, messages = await stack.up("--gateway-port", port)
    assert (code, messages) == (2, f"mesh: --gateway-port and --registry-port are both {port}: choose two ports\n")


async def test_a_stack_is_found_from_a_folder_below_it(stack: Stack) -> None:
    assert (await stack.up())[0] == 0
    below = stack.folder / "a" / "b"
    below.mkdir(parents=True)
    seen = await Stack(below, stack.ports).processes()
    assert set(seen) == set(await stack.processes())
    assert not (below / ".mesh").exists()


async def test_help_says_what_each_command_does(tmp_path: Path) -> None:
    code, output, _ = await Stack(tmp_path).mesh("--help")
    commands = output.partition("Commands:")[2].splitlines()
    assert (code, [line for line in commands if line.endswith("...")]) == (0, [])
