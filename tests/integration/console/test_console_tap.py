"""Calls over HTTP as they end."""

from __future__ import annotations

import json
from typing import Any

import aiohttp

from console.calls import Wish
from console.tap import WAITING, Watcher
from tests.fixtures.otlp import SECOND, batch, span
from tests.integration.console.conftest import Console
from tests.integration.console.test_console_pages import attempts

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
        await answer.content.readline()
        console.store.add([*attempts(), batch("sync", span(3, 1, name="shop.v1.Shop/Look"))])
        told = await messages(answer)
    assert told["dropped"] == 0
    [call] = told["calls"]
    assert (call["caller"], call["instance"], call["attempts"], call["status"]) == ("order", "sync-2", 2, "OK")


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
