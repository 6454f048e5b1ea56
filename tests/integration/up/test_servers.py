"""Servers of the user's own that do not answer are told before anything starts, with the variable and no password."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from mesh.errors import Error, InvalidConfig
from mesh.paths import Paths
from mesh.ports import free_port
from mesh.process import Command, start
from mesh.up.plan import Plan, Ports
from mesh.up.probes import tcp, until
from mesh.up.servers import check
from mesh.up.stack import Stack
from tests.integration.up.test_mesh_up import SERVERS, STACK, folder_with

REMEDY = "start it, correct the variable, or unset it, and `mesh up` starts one of its own"


def planned(folder: Path, environ: Mapping[str, str], stack: Stack | None = None) -> Plan:
    return Plan.of(stack or Stack(), Paths.locate({}, folder), folder, environ, Ports())


@asynccontextmanager
async def listening() -> AsyncIterator[int]:
    """Something that takes connections and says nothing."""
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_each_server_that_does_not_answer_has_a_line(tmp_path: Path) -> None:
    port, socket = free_port(), tmp_path / "none.sock"
    environ = {
        "CONSUL_HTTP_ADDR": f"127.0.0.1:{port}",
        "DATABASE_URL": f"postgres://u:s3cret@localhost:{port}/x",
        "REDIS_URL": f"unix://u:s3cret@{socket}",
    }
    with pytest.raises(Error) as caught:
        await check(planned(tmp_path, environ))
    told = "which does not answer: Connection refused"
    assert caught.value.message.splitlines() == [
        f"CONSUL_HTTP_ADDR names 127.0.0.1:{port}, {told}; {REMEDY}",
        f"DATABASE_URL names localhost:{port}, {told}; {REMEDY}",
        f"REDIS_URL names {socket}, which does not answer: No such file or directory; {REMEDY}",
    ]


async def test_one_that_listens_but_does_not_answer_is_given_up_in_time(tmp_path: Path) -> None:
    done = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await done.wait()
        writer.close()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as server, asyncio.timeout(10):
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(Error, match=r"CONSUL_HTTP_ADDR: .* \(no answer in time\)"):
            await check(planned(tmp_path, {"CONSUL_HTTP_ADDR": address}))
        done.set()


@pytest.mark.parametrize("head", ["404 Not Found", "200 OK"])
async def test_a_web_server_that_is_no_consul_is_told(tmp_path: Path, head: str) -> None:
    async def page(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 {head}\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{{}}".encode())
        writer.close()

    async with await asyncio.start_server(page, "127.0.0.1", 0) as server, asyncio.timeout(10):
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(Error, match=f"CONSUL_HTTP_ADDR: what answers at http://{address} is no Consul"):
            await check(planned(tmp_path, {"CONSUL_HTTP_ADDR": address}))


async def test_servers_that_answer_are_fine(tmp_path: Path) -> None:
    port = free_port()
    argv = (sys.executable, "-m", "mesh.registry", "--port", str(port), "--data", str(tmp_path / "registry"))
    registry = await start(Command(argv=argv, environ=os.environ, log=tmp_path / "registry.log"))
    async with asyncio.timeout(20), listening() as other:
        await until(tcp(port))
        environ = {
            "CONSUL_HTTP_ADDR": f"127.0.0.1:{port}",
            "DATABASE_URL": f"postgres://u:p@127.0.0.1:{other}/x",
            "REDIS_URL": f"redis://127.0.0.1:{other}",
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{other}",
        }
        assert await check(planned(tmp_path, environ)) == ()
    await registry.stop()


async def test_what_the_stack_does_not_use_need_not_answer(tmp_path: Path) -> None:
    environ = {name: f"redis://127.0.0.1:{free_port()}" for name in ("DATABASE_URL", "REDIS_URL")}
    assert await check(planned(tmp_path, environ, Stack(postgres=False, valkey=False))) == ()


async def test_a_collector_that_is_away_is_a_warning(tmp_path: Path) -> None:
    port = free_port()
    (line,) = await check(planned(tmp_path, {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}"}))
    assert line.startswith(f"OTEL_EXPORTER_OTLP_ENDPOINT names 127.0.0.1:{port}, which does not answer: Connection")


async def test_all_that_cannot_be_read_is_told_at_once(tmp_path: Path) -> None:
    environ = {
        "CONSUL_HTTP_ADDR": "ftp://x",
        "DATABASE_URL": "postgres://u:s3cret@db:port/x",
        "REDIS_URL": "s3cret",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "nonsense",
    }
    with pytest.raises(InvalidConfig) as caught:
        await check(planned(tmp_path, environ))
    lines = caught.value.message.splitlines()
    assert [line.split(" ")[0].rstrip(":") for line in lines] == list(environ)
    assert "s3cret" not in caught.value.message


@pytest.mark.parametrize("detach", [["--detach"], []])
async def test_mesh_up_starts_nothing_where_a_server_is_away(tmp_path: Path, detach: list[str]) -> None:
    stack = folder_with(tmp_path, STACK.format(stores="true", python=sys.executable))
    port = free_port()
    environ = {name: value for name, value in os.environ.items() if name not in SERVERS}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "mesh", "up", *detach,
        cwd=tmp_path, env={**environ, "DATABASE_URL": f"postgres://u:s3cret@127.0.0.1:{port}/x"},
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(30):
        _, messages = await process.communicate()
    assert (process.returncode, messages.decode()) == (
        1, f"mesh: DATABASE_URL names 127.0.0.1:{port}, which does not answer: Connection refused; {REMEDY}\n"
    )  # fmt: skip
    assert list(stack.paths.logs.iterdir()) == []
