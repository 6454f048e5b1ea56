"""The pages in a real browser, and what they are fed with."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Span

from console.access import COOKIE
from console.server import serve
from console.settings import Settings
from mesh.recovery import time_of_day
from mesh.tracing import LOOP_HELD_UP
from tests.fixtures.browser import Tab
from tests.fixtures.otlp import SECOND, Value, batch, key_values, span, span_id, trace_id
from tests.integration.console.conftest import Console

SHOTS = Path(__file__).parents[3] / ".cache" / "screenshots"
HOSTILE = "<img src=x onerror=alert(1)>"
CLIENT = Span.SPAN_KIND_CLIENT
MANY = 10_000
TEXT = "document.getElementById('page').innerText"


def attempts() -> list[ResourceSpans]:
    """A call that was answered UNAVAILABLE once, just now; its trace is number 1."""
    now = int(time_of_day().timestamp() * SECOND) - SECOND
    ms = 1_000_000
    rpc: dict[str, Any] = {"rpc.system.name": "grpc", "server.address": "sync", "meshwright.deadline_seconds": 0.08}
    bad, good = {**rpc, "rpc.response.status_code": "UNAVAILABLE"}, {**rpc, "meshwright.attempt": 2}
    asked = span(1, 1, parent=9, name="shop.v1.Shop/Buy", kind=CLIENT, start=now, duration=100 * ms, attributes=rpc)
    first = span(
        1, 2, parent=1, name="shop.v1.Shop/Buy", start=now + ms, duration=10 * ms, attributes=bad, error=HOSTILE
    )
    event = first.events.add(name=HOSTILE, time_unix_nano=now + 2 * ms)
    event.attributes.extend(first.attributes)
    second = span(1, 3, parent=1, name="shop.v1.Shop/Buy", start=now + 60 * ms, duration=35 * ms, attributes=good)
    second.links.add(trace_id=trace_id(2), span_id=asked.span_id)
    hostile = span(2, 1, name=HOSTILE, start=now, duration=ms)
    return [
        batch("order", asked),
        batch("sync", first, **{"service.instance.id": "sync-1"}),
        batch("sync", second, **{"service.instance.id": "sync-2"}),
        batch(HOSTILE, hostile),
    ]


async def shoot(tab: Tab, name: str) -> None:
    """Keep a picture for people to look at."""
    SHOTS.mkdir(parents=True, exist_ok=True)
    shot = await tab.tell("Page.captureScreenshot", format="png")
    (SHOTS / f"{name}.png").write_bytes(base64.b64decode(shot["data"]))


async def resize(tab: Tab, width: int, height: int = 800) -> None:
    """The size of the window."""
    await tab.tell(
        "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
    )


async def press(tab: Tab, *keys: str) -> None:
    """Keys on whatever has the focus."""
    for key in keys:
        for kind in ("keyDown", "keyUp"):
            await tab.tell("Input.dispatchKeyEvent", type=kind, key=key)


async def test_the_map_shows_calls_and_their_details(console: Console, tab: Tab) -> None:
    console.store.add(attempts())
    await resize(tab, 1280)
    await tab.open(f"{console.at.query}/console/")
    await tab.until("document.getElementById('live').dataset.state === 'live'")
    edge = "document.querySelector('[data-key=\"edge:order|sync\"]')"
    await tab.until(f"{edge}.getAttribute('aria-label').includes('order calls sync')")
    await shoot(tab, "map")
    await tab.value("document.querySelector('[data-key=\"node:sync\"]').focus()")
    await press(tab, "Enter")
    await tab.until("document.querySelector('aside h2').textContent === 'sync'")
    assert "selected=node" in await tab.value("location.search")
    assert tab.problems == []


async def test_the_map_follows_without_being_asked(console: Console, tab: Tab) -> None:
    await tab.open(f"{console.at.query}/console/")
    await tab.until(f"{TEXT}.includes('No spans yet')")
    console.store.add(attempts())
    await tab.until("Boolean(document.querySelector('[data-key=\"node:sync\"]'))")


async def test_a_search_leads_to_a_trace_with_its_attempts(console: Console, tab: Tab) -> None:
    console.store.add(attempts())
    await tab.open(f"{console.at.query}/console/traces?service=sync&error=true")
    await tab.until("document.querySelectorAll('tbody tr').length === 1")
    await shoot(tab, "traces")
    await tab.value("document.querySelector('tbody a').click()")
    await tab.until("document.querySelectorAll('.row').length === 4")
    assert await tab.value("location.pathname") == f"/console/traces/{trace_id(1).hex()}"
    rows = await tab.value("[...document.querySelectorAll('.row')].map((row) => row.innerText)")
    assert "is not here" in rows[0]
    assert "1 parent span is not here" in await tab.value(TEXT)
    assert all(part in rows[2] for part in ("attempt 1/2", "UNAVAILABLE", "sync-1"))
    assert all(part in rows[3] for part in ("attempt 2/2", "sync-2"))
    assert "too late" in await tab.value("document.querySelector('.budget').innerText")
    await shoot(tab, "trace")
    assert tab.problems == []


async def test_a_trace_shows_events_and_links_and_can_be_downloaded(console: Console, tab: Tab) -> None:
    console.store.add(attempts())
    await tab.open(f"{console.at.query}/console/traces/{trace_id(1).hex()}")
    await tab.until("document.querySelectorAll('.row').length === 4")
    marks = "[...document.querySelectorAll('.row')].map((row) => row.querySelectorAll('.mark').length)"
    assert await tab.value(marks) == [0, 0, 1, 0]
    await tab.value("document.querySelectorAll('.row')[2].click()")
    await tab.until(f"document.querySelector('aside .event').innerText.includes({json.dumps(HOSTILE)})")
    await tab.value("document.querySelectorAll('.row')[3].click()")
    linked = f"/console/traces/{trace_id(2).hex()}?span={span_id(1).hex()}"
    await tab.until(f"Boolean(document.querySelector('aside a[href=\"{linked}\"]'))")
    link = "document.querySelector('a[download]')"
    assert await tab.value(f"{link}.download") == f"trace-{trace_id(1).hex()}.json"
    async with aiohttp.ClientSession() as session, session.get(await tab.value(f"{link}.href")) as answer:
        (trace,) = (await answer.json())["data"]
    assert (trace["traceID"], len(trace["spans"])) == (trace_id(1).hex(), 3)
    assert tab.problems == []


def placed() -> list[ResourceSpans]:
    """A call of a gateway, which says what it dialled: two attempts, the first failed; its trace is number 3."""
    now = int(time_of_day().timestamp() * SECOND) - SECOND
    whole = span(3, 1, name="shop.v1.Shop/Buy", start=now, duration=10_000_000)
    tried = [
        span(3, 2, parent=1, name="shop.v1.Shop/Buy", kind=CLIENT, start=now, error="a cold", attributes={
            "rpc.response.status_code": "UNAVAILABLE", "upstream_address": "127.0.0.1:23315"}),
        span(3, 3, parent=1, name="shop.v1.Shop/Buy", kind=CLIENT, start=now + 5_000_000, attributes={
            "meshwright.attempt": 2, "upstream_address": "127.0.0.1:24273"}),
    ]  # fmt: skip
    return [batch("gateway", whole, *tried)]


@pytest.mark.parametrize("width", [1280, 375])
async def test_an_attempt_shows_the_whole_of_its_instance(console: Console, tab: Tab, width: int) -> None:
    console.store.add(placed())
    await resize(tab, width)
    await tab.open(f"{console.at.query}/console/traces/{trace_id(3).hex()}")
    await tab.until("document.querySelectorAll('.row .place').length === 2")
    for at, address in enumerate(("127.0.0.1:23315", "127.0.0.1:24273")):
        place = f"document.querySelectorAll('.row .place')[{at}]"
        room = f"{place}.closest('.what')"
        assert await tab.value(f"{place}.textContent") == address
        text = f"(range => (range.selectNodeContents({place}), range))(document.createRange())"
        assert await tab.value(f"{text}.getBoundingClientRect().width <= {place}.getBoundingClientRect().width + 0.05")
        right = f"{room}.getBoundingClientRect().right - parseFloat(getComputedStyle({room}).paddingRight)"
        assert await tab.value(f"{place}.getBoundingClientRect().right <= {right} + 0.5")
    await shoot(tab, f"attempts-{width}")


async def test_the_form_asks_for_traces(console: Console, tab: Tab) -> None:
    console.store.add([*attempts(), *placed()])
    await tab.open(f"{console.at.query}/console/traces")
    await tab.until("document.querySelectorAll('tbody tr').length === 3")
    fill = "document.querySelector('[name={}]').{}"
    await tab.until(f"{fill.format('service', 'options')}.length > 1")
    await tab.value(fill.format("service", "value = 'sync'"))
    await tab.value(f"{fill.format('service', 'dispatchEvent')}(new Event('change'))")
    await tab.until(f"{fill.format('operation', 'options')}.length > 1")
    await tab.value(fill.format("operation", "value = 'shop.v1.Shop/Buy'"))
    await tab.value(fill.format("minDuration", "value = '5ms'"))
    await tab.value(fill.format("within", "value = '5m'"))
    await tab.value(fill.format("tags", "value = 'rpc.response.status_code=UNAVAILABLE'"))
    await tab.value(fill.format("error", "checked = true"))
    await tab.value("document.querySelector('.search button').click()")
    await tab.until("document.querySelectorAll('tbody tr').length === 1")
    assert await tab.value("new URLSearchParams(location.search).get('operation')") == "shop.v1.Shop/Buy"
    await tab.value(fill.format("minDuration", "value = '1h'"))
    await tab.value("document.querySelector('.search button').click()")
    await tab.until(f"{TEXT}.includes('No trace matches')")
    await tab.value(fill.format("tags", f"value = '{trace_id(3).hex()}'"))
    await tab.value("document.querySelector('.search button').click()")
    await tab.until(f"location.pathname === '/console/traces/{trace_id(3).hex()}'")
    assert tab.problems == []


async def test_a_long_name_stays_in_its_box_of_the_map(console: Console, tab: Tab) -> None:
    now = int(time_of_day().timestamp() * SECOND) - SECOND
    db: dict[str, Value] = {"db.system.name": "postgresql", "db.namespace": "WWWWWWWWWWWWWWWWWW"}
    asked = span(5, 2, parent=1, name="SELECT", kind=CLIENT, start=now, attributes=db)
    console.store.add([batch("order", span(5, 1, start=now), asked)])
    await tab.open(f"{console.at.query}/console/")
    box = "document.querySelector('[data-key^=\"node:postgresql\"]')"
    await tab.until(f"{box}.querySelector('.name').textContent.endsWith('…')")
    assert "calls of the last minute" in await tab.value(TEXT)
    name, frame = (f"{box}.querySelector('{part}').getBoundingClientRect()" for part in (".name", ".box"))
    assert await tab.value(f"{name}.right <= {frame}.right - 4 && {name}.width > {frame}.width / 2")


async def test_the_page_of_the_mesh_says_what_became_of_spans(console: Console, tab: Tab) -> None:
    console.store.add([*attempts(), batch("sync", Span(name="nameless"))])
    await tab.open(f"{console.at.query}/console/mesh")
    await tab.until(f"{TEXT}.includes('4 kept of 4 stored')")
    assert "0 dropped for newer ones · 1 refused" in await tab.value(TEXT)


async def test_keys_walk_through_a_trace_and_the_address_follows(console: Console, tab: Tab) -> None:
    console.store.add(attempts())
    await tab.open(f"{console.at.query}/console/traces/{trace_id(1).hex()}?span={span(1, 2).span_id.hex()}")
    await tab.until("document.querySelector('.row[aria-selected=true]').innerText.includes('attempt 1/2')")
    await tab.value("document.querySelector('.rows').focus()")
    await press(tab, "ArrowDown")
    await tab.until(f"location.search.includes('{span(1, 3).span_id.hex()}')")
    await press(tab, "ArrowLeft", "ArrowLeft")
    await tab.until("document.querySelectorAll('.row').length === 2")
    await press(tab, "ArrowRight", "ArrowRight")
    await tab.until("document.querySelector('.row[aria-selected=true]').innerText.includes('attempt 1/2')")


async def test_what_spans_say_stays_text(console: Console, tab: Tab) -> None:
    console.store.add(attempts())
    for path in (
        "",
        "traces",
        f"services/{quote(HOSTILE)}",
        f"traces/{trace_id(2).hex()}",
        f"traces/{trace_id(1).hex()}?span={span(1, 2).span_id.hex()}",
    ):
        await tab.open(f"{console.at.query}/console/{path}")
        await tab.until(f"document.body.textContent.includes({json.dumps(HOSTILE[:16])})")
        assert await tab.value("document.querySelectorAll('img').length") == 0
    assert tab.problems == []


async def test_the_page_of_a_service_names_the_code_that_held_its_loop_up(console: Console, tab: Tab) -> None:
    held = attempts()[1].scope_spans[0].spans[0]
    file, line = "code.file.path", "code.line.number"
    code: dict[str, Value] = {"code.function.name": f"Shop.{HOSTILE}", file: "/srv/shop/buy.py", line: 7}
    held.events.add(name=LOOP_HELD_UP, time_unix_nano=held.start_time_unix_nano, attributes=key_values(code))
    console.store.add([batch("sync", held, **{"service.instance.id": "sync-1"})])
    await resize(tab, 1280)
    await tab.open(f"{console.at.query}/console/services/sync")
    await tab.until(f"{TEXT}.includes('Shop.{HOSTILE} (shop/buy.py:7)')")
    await shoot(tab, "held-up")


async def test_ten_thousand_spans_are_as_many_rows_as_there_is_room(console: Console, tab: Tab) -> None:
    console.store.add([batch(f"s{n % 5}", span(1, n + 1, parent=n // 2)) for n in range(MANY)])
    await resize(tab, 1280)
    await tab.open(f"{console.at.query}/console/traces/1")
    await tab.until(f"{TEXT}.includes('10,000 spans')")
    await tab.value("document.querySelector('.rows').focus()")
    await press(tab, "End")
    await tab.until("document.querySelector('.row[aria-selected=true]').getAttribute('aria-posinset') === '10000'")
    assert await tab.value("document.querySelectorAll('.row').length") < 60


@pytest.mark.parametrize("path", ["", "traces", "services/sync", f"traces/{trace_id(1).hex()}"])
async def test_a_phone_needs_no_sideways_scrolling(console: Console, tab: Tab, path: str) -> None:
    console.store.add(attempts())
    await resize(tab, 375)
    await tab.tell("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    await tab.open(f"{console.at.query}/console/{path}")
    await tab.until("document.querySelectorAll('.node, tbody tr, .row').length > 1")
    await shoot(tab, f"phone-{path.split('/')[0] or 'map'}{'-one' if '/' in path else ''}")
    assert await tab.value("document.documentElement.scrollWidth") <= 375


async def test_events_are_at_the_gateway(console: Console, tab: Tab) -> None:
    await tab.open(f"{console.at.query}/console/events")
    await tab.until(f"{TEXT}.includes('Open this page at the gateway')")


async def test_the_page_says_when_the_console_is_away(tab: Tab) -> None:
    async with serve(Settings(otlp_grpc_port=0, otlp_http_port=0, query_port=0)) as at:
        await tab.open(f"{at.query}/console/")
        await tab.until("document.getElementById('live').dataset.state === 'live'")
    await tab.until("document.getElementById('live').dataset.state === 'away'")


async def test_the_stream_ends_with_the_process(http: aiohttp.ClientSession) -> None:
    settings = Settings(otlp_grpc_port=0, otlp_http_port=0, query_port=0, grace_seconds=30)
    async with serve(settings) as at:
        answer = await http.get(f"{at.query}/console/data/live?topic=map")
        assert answer.content_type == "text/event-stream"
        async for line in answer.content:
            if line.startswith(b'data: {"window_seconds"'):
                break
    assert b"data:" not in await answer.content.read()


@pytest.fixture
async def guarded() -> AsyncIterator[str]:
    """Address of a console that wants a token."""
    settings = Settings(otlp_grpc_port=0, otlp_http_port=0, query_port=0, token="secret", names=("console.example",))
    async with serve(settings) as at:
        yield at.query


async def test_a_token_opens_the_pages_and_leaves_the_address(guarded: str, tab: Tab) -> None:
    await tab.open(f"{guarded}/console/traces?token=secret&limit=5")
    await tab.until(f"{TEXT}.includes('No trace matches')")
    assert await tab.value("location.search") == "?limit=5"
    assert COOKIE not in await tab.value("document.cookie")
    assert tab.problems == []


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Authorization": "Basic secret"}, 401),
        ({"Cookie": f"{COOKIE}=wrong"}, 401),
        ({"Authorization": "Bearer secret"}, 200),
        ({"Cookie": f"{COOKIE}=secret"}, 200),
        ({"Authorization": "Bearer secret", "Host": "console.example"}, 200),
        ({"Authorization": "Bearer secret", "Host": "evil.example"}, 403),
        ({"Authorization": "Bearer secret", "Origin": "http://evil.example"}, 403),
        ({"Authorization": "Bearer secret", "Origin": "null"}, 403),
    ],
)
@pytest.mark.parametrize("path", ["/api/services", "/console/data/map"])
async def test_who_is_let_in(
    guarded: str, http: aiohttp.ClientSession, path: str, headers: dict[str, str], status: int
) -> None:
    async with http.get(guarded + path, headers=headers) as answer:
        assert answer.status == status, await answer.text()


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("live?topic=none", 400),
        ("services/x?minutes=0", 400),
        ("services/x?minutes=61", 400),
        ("services/x", 200),
        ("mesh", 200),
        ("traces?minDuration=1x", 400),
        ("nothing", 404),
    ],
)
async def test_odd_questions(console: Console, http: aiohttp.ClientSession, path: str, status: int) -> None:
    async with http.get(f"{console.at.query}/console/data/{path}") as answer:
        assert (answer.status, answer.content_type) == (status, "application/json")


async def test_dependencies_as_jaeger_tells_them(console: Console, http: aiohttp.ClientSession) -> None:
    console.store.add(attempts())
    now = int(time_of_day().timestamp() * 1_000)
    async with http.get(f"{console.at.query}/api/dependencies?endTs={now + 1_000}&lookback=600000") as answer:
        assert (await answer.json())["data"] == [{"parent": "order", "child": "sync", "callCount": 1}]
    async with http.get(f"{console.at.query}/api/dependencies?endTs=x") as answer:
        assert (answer.status, (await answer.json())["errors"][0]["code"]) == (400, 400)
