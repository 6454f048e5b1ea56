"""What is said of a process that was never healthy."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from mesh.health import Health
from mesh.ports import free_port
from mesh.process import Command, start
from mesh.scope import Scope


@pytest.mark.parametrize("protocol", ["grpc", "http"])
async def test_a_port_on_which_nothing_listens_is_named_until_something_does(protocol: str, tmp_path: Path) -> None:
    port = free_port()
    health = Health("127.0.0.1", port, protocol=protocol)
    async with asyncio.timeout(20), Scope() as scope:
        scope.start(health.follow())
        async for verdict in health.verdict.changes():
            if verdict.reason == f"nothing listens on port {port}":
                break
        assert verdict.starting
        if protocol == "grpc":  # one that speaks no gRPC, and listens before the channel tries again
            async with await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", port):
                async for verdict in health.verdict.changes():
                    assert "Connection refused" not in verdict.reason
                    if not verdict.reason.startswith("nothing listens"):
                        break
        if protocol == "http":
            argv = (sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1")
            server = await start(Command(argv=argv, environ=os.environ, log=tmp_path / "log"))
            async for verdict in health.verdict.changes():
                if verdict.serving:
                    break
            await server.stop()
            async for verdict in health.verdict.changes():
                if not verdict.serving:
                    break
            assert not verdict.starting


async def test_a_server_that_speaks_no_grpc_is_told_apart(tmp_path: Path) -> None:
    port = free_port()
    argv = (sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1")
    server = await start(Command(argv=argv, environ=os.environ, log=tmp_path / "log"))
    health = Health("127.0.0.1", port)
    async with asyncio.timeout(20), Scope() as scope:
        scope.start(health.follow())
        async for verdict in health.verdict.changes():
            assert not verdict.serving
            if verdict.reason == f"it speaks no gRPC on port {port}: is it `--protocol http`?":
                break
        await server.stop()
