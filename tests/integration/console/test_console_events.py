"""The page of events, in a real browser, beside a gateway that keeps nothing from before."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from aiohttp import web

from console import pages
from mesh.errors import Code, Error
from mesh.status import to_json
from tests.fixtures.browser import Tab

NOW, NEXT = "order-99", "order-100"
EVENT = {"id": NEXT, "type": "order.created", "subject": "o-100", "time": "2026-01-01T00:00:00Z"}


@dataclass
class Forgetful:
    """A gateway whose stream of events begins now, and the places that it was asked to go on behind."""

    url: str = ""
    asked: list[str] = field(default_factory=list)
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    async def watch(self, request: web.Request) -> web.StreamResponse:
        """What `/v1/events:watch` answers."""
        self.asked.append(request.query.get("last_event_id", ""))
        if self.asked[-1]:
            error = Error(Code.OUT_OF_RANGE, "these are no longer kept", reason="EVENTS_EXPIRED")
            return web.json_response(to_json(error), status=400)
        stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await stream.prepare(request)
        for message in ({"lastEventId": NOW}, {"lastEventId": NEXT, "event": EVENT}):
            await stream.write(b"data: " + json.dumps(message).encode() + b"\n\n")
        await self.ended.wait()
        return stream


REASON = "ValueError: <b>a copy that cannot be</b>"
LETTER = {
    "id": "1767225600000-0", "eventId": "sync-907", "eventType": "user.created", "stream": "meshwright:events",
    "reason": REASON, "deliveries": "5", "time": "2026-01-01T00:00:00Z",
}  # fmt: skip


async def _status(_request: web.Request) -> web.Response:
    consumer = {"name": "users", "health": "HEALTH_WARNING", "deadLetters": "21", "newestDeadLetters": [LETTER]}
    return web.json_response({"consumers": [consumer]})


async def _no_doubt(_service: str) -> str:
    return ""


async def _nothing(_request: web.Request) -> web.Response:
    return web.json_response({})


@pytest.fixture
async def forgetful() -> AsyncIterator[Forgetful]:
    """One that runs."""
    made = Forgetful()
    app = web.Application()
    app.router.add_routes([*pages.routes(_no_doubt), web.get("/v1/events:watch", made.watch)])
    app.router.add_get("/v1/status", _status)
    app.router.add_get("/v1/{nothing}", _nothing)
    runner = web.AppRunner(app, shutdown_timeout=1.0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield made
    made.ended.set()
    await runner.cleanup()


async def test_a_place_that_is_no_longer_kept_is_given_up_and_told(forgetful: Forgetful, tab: Tab) -> None:
    await tab.open(f"{forgetful.url}/console/events")
    await tab.until("document.querySelector('.events').innerText.includes('o-100')")
    assert "those in between are no longer kept" in await tab.value("document.querySelector('.head').innerText")
    assert forgetful.asked[0] == ""
    assert forgetful.asked[-1] == ""
    assert "order-79" in forgetful.asked


async def test_dead_letters_are_listed_with_what_went_wrong_and_how_they_are_done_again(
    forgetful: Forgetful, tab: Tab
) -> None:
    await tab.open(f"{forgetful.url}/console/events")
    await tab.until("document.body.innerText.includes('sync-907')")
    text = await tab.value("document.body.innerText")
    for said in ("meshwright:events", REASON, "the newest 1 of 21", "python -m services replay users"):
        assert said in text
