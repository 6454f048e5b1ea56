"""Calls over HTTP as they end."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import grpc.aio
import pytest

from console.calls import Wish
from console.tap import WAITING, Watcher
from mesh import seen
from mesh.paths import Paths
from meshwright.launcher.v1 import launcher_service_pb2 as pb
from tests.fixtures.otlp import SECOND, batch, span
from tests.integration.console.conftest import Console
from tests.integration.console.test_console_pages import attempts

SERVICE = "meshwright.launcher.v1.LauncherService"
CALL = {"service": "order", "method": "Buy", "failed": False, "duration": 1.0}


async def messages(answer: aiohttp.ClientResponse) -> Any:
    """The next message of a stream."""
    async for line in answer.content:
        if line.startswith(b"data:"):
            return json.loads(line[5:])
    return None


async def test_calls_come_as_they_end(console: Console, http: aiohttp.ClientSession) -> None:
    url = f"{console.at.query}/console/data/live?topic=tap&service=sync&method=Buy"
    async with http.get(url) as answer:
        console.store.add([*attempts(), batch("sync", span(3, 1, name="shop.v1.Shop/Look"))])
        told = await messages(answer)
    assert told["dropped"] == 0
    [call] = told["calls"]
    assert (call["caller"], call["instance"], call["attempts"], call["status"]) == ("order", "sync-2", 2, "OK")


def launcher_of(address: str) -> grpc.aio.Server:
    """A launcher that knows of a console and nothing else; not bound to a socket yet."""

    async def list_processes(_request: bytes, _context: object) -> bytes:
        return pb.ListProcessesResponse(processes=[pb.Process(name="console", address=address)]).SerializeToString()

    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(list_processes)
    launcher = grpc.aio.server()
    launcher.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, {"ListProcesses": handler})])
    return launcher


async def test_the_heads_of_columns_are_there_when_nothing_is_missed_any_more(console: Console, tmp_path: Path) -> None:
    runtime = tmp_path / "runtime"
    runtime.mkdir(mode=0o700)
    paths = Paths.locate({"XDG_RUNTIME_DIR": str(runtime)}, tmp_path)
    paths.prepare()
    launcher = launcher_of(console.at.query.removeprefix("http://"))
    launcher.add_insecure_port(f"unix:{paths.launcher_socket}")

    def joined() -> None:
        console.store.add(attempts())

    query = {"topic": "tap", "service": "sync"}
    try:
        await launcher.start()
        async with asyncio.timeout(20), aclosing(seen.follow(paths, query, pytest.fail, {}, joined=joined)) as batches:
            told = await anext(batches)
    finally:
        await launcher.stop(None)
    assert [call["instance"] for call in told["calls"]] == ["sync-2"]


async def test_a_slow_watcher_is_told_what_it_missed() -> None:
    watcher = Watcher(Wish(service="order"))
    for _ in range(WAITING + 3):
        watcher.offer(CALL)
    watcher.offer({**CALL, "service": "sync"})
    found = watcher.fetch()
    assert found is not None
    assert (len(found["calls"]), found["dropped"]) == (WAITING, 3)
    assert watcher.fetch() is None


async def test_the_busiest_first(console: Console, http: aiohttp.ClientSession) -> None:
    now = attempts()[0].scope_spans[0].spans[0].start_time_unix_nano
    console.store.add([*attempts(), batch("sync", *(span(4, n, start=now - SECOND, name="often") for n in (1, 2, 3)))])
    async with http.get(f"{console.at.query}/console/data/live?topic=top") as answer:
        told = await messages(answer)
    assert [(row["service"], row["method"]) for row in told["methods"]][:2] == [
        ("sync", "often"),
        ("sync", "shop.v1.Shop/Buy"),
    ]
    assert {(row["from"], row["to"]) for row in told["edges"]} >= {("order", "sync"), ("outside", "sync")}
