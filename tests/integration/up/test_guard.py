"""Nothing that a killed process started outlives it: children, grandchildren, daemons, with setpriv and without."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from mesh.up.probes import gone, until

PARENT = """
import asyncio, os, sys
from mesh.guard import guarded
from mesh.process import Command, start
async def main():
    child = await start(Command(argv=("sh", "-c", sys.argv[1]), environ=os.environ))
    os.write(1, f"{child.pid}\\n".encode())
    await child.wait()
    os.write(1, b"ended\\n")
with guarded():
    asyncio.run(main())
"""
ENDS_WITHIN_SECONDS = 5


async def parent(script: str, path: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", PARENT, script, stdout=asyncio.subprocess.PIPE, env={**os.environ, "PATH": path}
    )


@pytest.fixture(params=["with setpriv", "without"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A PATH with just the programs that these tests use."""
    if request.param == "with setpriv":
        return os.environ["PATH"]
    for name in ("sh", "sleep", "setsid", "env"):
        found = next(p for p in os.get_exec_path() if os.access(f"{p}/{name}", os.X_OK))
        (tmp_path / name).symlink_to(f"{found}/{name}")
    return str(tmp_path)


@pytest.mark.parametrize(
    "script",
    [
        "sleep 600 & echo $!; wait",
        "setsid sleep 600 & echo $!; wait",
        "env -i $(command -v sleep) 600 & echo $!; wait",
        "trap '' TERM; sh -c 'trap \"\" TERM; echo $$; while :; do sleep 600; done' & wait",
    ],
    ids=["a grandchild", "a daemon", "one without our environment", "one that ignores SIGTERM"],
)
async def test_a_killed_parent_leaves_nothing(script: str, path: str) -> None:
    process = await parent(script, path)
    assert process.stdout is not None
    async with asyncio.timeout(20):
        pids = [int(await process.stdout.readline()), int(await process.stdout.readline())]
    process.send_signal(signal.SIGKILL)
    async with asyncio.timeout(ENDS_WITHIN_SECONDS):
        for pid in pids:
            await until(gone(pid))
    await process.communicate()


async def test_a_parent_that_ends_takes_its_guard_along(path: str) -> None:
    process = await parent("echo $MESH_GUARDED_BY", path)
    async with asyncio.timeout(20):
        output, _ = await process.communicate()
    assert process.returncode == 0
    mark = next(word for word in output.decode().split() if "-" in word)
    assert mark.startswith(f"{process.pid}-")
    assert not any(mark in command(process) for process in Path("/proc").glob("[0-9]*"))


def command(process: Path) -> str:
    try:
        return (process / "cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""
