"""One child process: its log, its exit code, and that it dies with its parent; and how its log is read."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import sys
from pathlib import Path

import pytest

from mesh import process
from mesh.errors import Error
from mesh.paths import Paths
from mesh.process import Command, start
from mesh.scope import Scope
from mesh.up import logs
from mesh.up.probes import gone, until

PARENT = """
import asyncio, os, sys
from mesh.process import Command, start
async def main():
    child = await start(Command(argv=("sleep", "600"), environ=os.environ))
    print(child.pid, flush=True)
    await child.wait()
asyncio.run(main())
"""


def shell(script: str, log: Path, **options: object) -> Command:
    return Command(argv=("sh", "-c", script), environ=os.environ, log=log, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(("script", "code"), [("exit 3", 3), ("kill -9 $$", 137), ("true", 0)])
async def test_the_exit_code_is_a_shells(tmp_path: Path, script: str, code: int) -> None:
    child = await start(shell(script, tmp_path / "log"))
    assert await child.wait() == code


async def test_both_outputs_are_appended_to_the_log(tmp_path: Path) -> None:
    for _ in range(2):
        await (await start(shell("echo out; echo err >&2; echo $GRPC_ENABLE_FORK_SUPPORT", tmp_path / "log"))).wait()
    assert (tmp_path / "log").read_text() == "out\nerr\n0\n" * 2


async def test_a_large_log_is_moved_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "LOG_LIMIT_BYTES", 3)
    for word in ("first", "second"):
        await (await start(shell(f"echo {word}", tmp_path / "log"))).wait()
    assert ((tmp_path / "log.1").read_text(), (tmp_path / "log").read_text()) == ("first\n", "second\n")


async def test_a_child_dies_with_a_killed_parent() -> None:
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", PARENT, stdout=asyncio.subprocess.PIPE)
    assert parent.stdout is not None
    async with asyncio.timeout(20):
        pid = int(await parent.stdout.readline())
        parent.send_signal(signal.SIGKILL)
        await until(gone(pid))
        await parent.communicate()


async def test_a_started_child_has_its_death_signal() -> None:
    for _ in range(20):
        child = await start(Command(argv=("sleep", "600"), environ=os.environ))
        program = Path(f"/proc/{child.pid}/exe").readlink().name
        await child.killed()
        assert program != "setpriv", "its parent may be killed before the signal is set"


@pytest.mark.parametrize("name", ["no-such-program", "./no-such-program", "/"])
async def test_a_missing_program_is_one_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(Error, match=f"command not found: {name} ") as caught:
        await start(Command(argv=(name,), environ=os.environ, log=tmp_path / "log"))
    assert "\n" not in caught.value.message


async def test_a_missing_folder_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(Error, match="there is no folder"):
        await start(shell("true", tmp_path / "log", directory=tmp_path / "none"))


@pytest.mark.parametrize("lines", [0, 1, 3, 5000, 9999])
def test_the_tail_of_a_log_has_as_many_lines_as_asked(tmp_path: Path, lines: int) -> None:
    written = [f"{number} {'x' * (number % 700)}" for number in range(5000)]
    (tmp_path / "log").write_text("".join(f"{line}\n" for line in written))
    assert logs.tail(tmp_path / "log", lines) == (written[-lines:] if lines else [])


async def test_following_a_log_goes_on_into_the_one_that_takes_its_place(tmp_path: Path) -> None:
    log, output = tmp_path / "log", io.StringIO()
    log.write_text("old\n")

    async def shows(text: str) -> bool:
        return output.getvalue() == text

    async with asyncio.timeout(20), Scope() as scope:
        scope.start(logs.follow(log, output))
        await asyncio.sleep(0)
        with log.open("a") as file:
            file.write("new\n")
        await until(lambda: shows("new\n"))
        log.rename(tmp_path / "log.1")
        log.write_text("next\n")
        await until(lambda: shows("new\nnext\n"))


@pytest.mark.parametrize("name", ["none", "../secret"])
def test_an_unknown_log_is_answered_with_the_known_ones(tmp_path: Path, name: str) -> None:
    paths = Paths.locate({}, tmp_path)
    paths.logs.mkdir()
    (tmp_path / "secret.log").touch()
    (paths.logs / "envoy.log").touch()
    with pytest.raises(Error, match="there are: envoy"):
        logs.find(paths, name)
