"""`python -m console` as a process: it starts, says where, keeps its ports to itself, and stops."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp


@asynccontextmanager
async def process(*arguments: str, **environ: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A console process; killed at the end if it still runs."""
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "console",
        *arguments,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **environ},
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield child
    finally:
        if child.returncode is None:
            child.kill()
        await child.communicate()


async def first_line(child: asyncio.subprocess.Process) -> str:
    """What it says when it is ready."""
    assert child.stderr is not None
    async with asyncio.timeout(20):
        return (await child.stderr.readline()).decode()


FREE = ("--otlp-grpc-port", "0", "--otlp-http-port", "0")


async def test_starts_answers_and_stops_at_sigterm(http: aiohttp.ClientSession) -> None:
    async with process(*FREE, PORT="0") as child:
        found = re.search(r"console on (http://127\.0\.0\.1:\d+)/console/", await first_line(child))
        assert found is not None
        async with http.get(f"{found[1]}/api/services") as answer:
            assert (await answer.json())["data"] == []
        child.send_signal(signal.SIGTERM)
        async with asyncio.timeout(20):
            assert await child.wait() == 0


async def test_busy_port_is_named_with_the_flag_that_changes_it() -> None:
    async with process(*FREE, PORT="0") as first:
        found = re.search(r"OTLP/gRPC on 127\.0\.0\.1:(\d+)", await first_line(first))
        assert found is not None
        async with process("--otlp-grpc-port", found[1], "--otlp-http-port", "0", PORT="0") as second:
            line = await first_line(second)
            async with asyncio.timeout(20):
                assert await second.wait() == 1
        assert found[1] in line
        assert "--otlp-grpc-port" in line


async def test_bad_setting_is_one_clear_line() -> None:
    async with process(*FREE, PORT="http") as child:
        assert await first_line(child) == "console: PORT='http' is not a whole number\n"
        async with asyncio.timeout(20):
            assert await child.wait() == 1
