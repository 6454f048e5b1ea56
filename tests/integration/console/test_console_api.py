"""The query API and the page over HTTP."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.fixtures.otlp import START, batch, span, trace_id
from tests.integration.console.conftest import Console

STATIC = Path(__file__).parents[3] / "console" / "static"


@pytest.fixture(autouse=True)
def spans(console: Console) -> None:
    """Two traces; the first through two services."""
    hostile = span(2, 3, name="<img src=x onerror=alert(1)>", start=START + 5_000)
    console.store.add(
        [batch("order/eu", span(1, 1, name="Create"), hostile), batch("sync", span(1, 2, parent=1, name="Get"))]
    )


async def get(http: aiohttp.ClientSession, url: str, status: int = 200) -> Any:
    """The JSON at a URL."""
    async with http.get(url) as answer:
        assert answer.status == status
        assert answer.content_type == "application/json"
        return await answer.json()


async def test_trace_by_id(console: Console, http: aiohttp.ClientSession) -> None:
    for text in (trace_id(1).hex(), "1"):
        tree = await get(http, f"{console.at.query}/api/traces/{text}")
        assert set(tree) == {"data", "total", "limit", "offset", "errors"}
        assert [one["operationName"] for one in tree["data"][0]["spans"]] == ["Create", "Get"]
        assert {one["serviceName"] for one in tree["data"][0]["processes"].values()} == {"order/eu", "sync"}


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("/api/traces/abc", 404, "trace not found"),
        ("/api/traces/xyz", 400, "hex digits"),
        ("/api/traces/" + "1" * 33, 400, "hex digits"),
        ("/api/traces", 400, "'service' is required"),
        ("/api/traces?traceID=xyz", 400, "hex digits"),
        ("/api/traces?service=sync&limit=-1", 400, "a whole number of 1 or more"),
        ("/api/operations", 400, "'service' is required"),
        ("/api/nothing", 404, "/api/nothing is not served"),
    ],
)
async def test_api_errors_have_jaegers_shape(
    console: Console, http: aiohttp.ClientSession, path: str, status: int, message: str
) -> None:
    tree = await get(http, console.at.query + path, status)
    assert tree["data"] is None
    assert tree["errors"][0]["code"] == status
    assert message in tree["errors"][0]["msg"]


async def test_services_and_operations(console: Console, http: aiohttp.ClientSession) -> None:
    base = f"{console.at.query}/api"
    assert (await get(http, f"{base}/services"))["data"] == ["order/eu", "sync"]
    assert (await get(http, f"{base}/services/sync/operations"))["data"] == ["Get"]
    assert (await get(http, f"{base}/services/nobody/operations"))["data"] == []
    assert (await get(http, f"{base}/operations?service=sync"))["data"] == [{"name": "Get", "spanKind": "server"}]


async def test_service_with_a_slash_in_its_name(console: Console, http: aiohttp.ClientSession) -> None:
    async with http.get(f"{console.at.query}/api/services/order%2Feu/operations") as answer:
        assert len((await answer.json())["data"]) == 2


async def test_search(console: Console, http: aiohttp.ClientSession) -> None:
    tree = await get(http, f"{console.at.query}/api/traces?service=order%2Feu")
    assert [one["traceID"] for one in tree["data"]] == [trace_id(2).hex(), trace_id(1).hex()]
    tree = await get(http, f"{console.at.query}/api/traces?service=order%2Feu&operation=Create&limit=5")
    assert [one["traceID"] for one in tree["data"]] == [trace_id(1).hex()]


async def test_usage_of_the_store(console: Console, http: aiohttp.ClientSession) -> None:
    tree = await get(http, f"{console.at.query}/console/data/store")
    assert (tree["now"]["spans"], tree["now"]["traces"]) == (3, 2)
    assert tree["since_start"]["stored"] == 3
    assert tree["limits"]["max_spans"] == 20_000


async def test_several_ids_at_once_name_the_missing(console: Console, http: aiohttp.ClientSession) -> None:
    tree = await get(http, f"{console.at.query}/api/traces?traceID=1&traceID=99&traceID=1")
    assert len(tree["data"]) == 1
    assert tree["errors"] == [{"msg": "trace not found", "traceID": trace_id(0x99).hex()}]


async def test_page_runs_nothing_but_its_own_files(console: Console, http: aiohttp.ClientSession) -> None:
    for path in ("/", "/console", "/console/", "/console/traces", "/console/traces/1", "/console/services/order%2Feu"):
        async with http.get(console.at.query + path) as answer:
            assert (answer.status, answer.content_type) == (200, "text/html")
            assert answer.url.path.startswith("/console/")
            policy = answer.headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert "//" not in (await answer.text()).replace("<!doctype", "")
    kinds = {".js": "text/javascript", ".css": "text/css"}
    for file in [path for path in STATIC.iterdir() if path.suffix in kinds]:
        async with http.get(f"{console.at.query}/console/static/{file.name}") as answer:
            text = await answer.text()
            assert (answer.status, answer.content_type) == (200, kinds[file.suffix])
            code = re.sub(r"^\s*//.*|http://www.w3.org/2000/svg", "", text, flags=re.MULTILINE)
            assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|https?:", code)


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [("GET", "/nothing", 404, 5), ("GET", "/console/../etc", 404, 5), ("POST", "/console/", 405, 3)],
)
async def test_other_errors_have_the_meshs_shape(
    console: Console, http: aiohttp.ClientSession, method: str, path: str, status: int, code: int
) -> None:
    async with http.request(method, console.at.query + path) as answer:
        tree = await answer.json()
        assert (answer.status, tree["code"]) == (status, code)
        assert tree["details"][0]["domain"] == "meshwright"
