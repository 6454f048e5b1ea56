"""The edge in a real browser: gRPC-Web and REST from a page of another origin, and the page at /docs."""

from __future__ import annotations

import asyncio
import functools
import http.server
import json
import threading
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.rpc import error_details_pb2, status_pb2

from mesh.contract import Contract
from tests.fixtures.browser import Tab, missing
from tests.fixtures.npm import NoPackages, node_modules
from tests.integration.gateway.harness import Edge, eventually
from tests.integration.gateway.test_rest import THINGS

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
FORMATS = ["text", "binary"]


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves a folder without a word."""

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Origin of a page that has a gRPC-Web client, on a port of its own."""
    folder = tmp_path_factory.mktemp("page")
    try:
        (folder / "node_modules").symlink_to(node_modules(HERE / "browser"))
    except NoPackages as reason:
        missing(reason)
    for file in (HERE / "browser" / "page.html", HERE / "browser" / "page.js", HERE / "probe.proto"):
        (folder / file.name).symlink_to(file)
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://localhost:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.fixture
async def page(tab: Tab, origin: str) -> Tab:
    """The page, loaded."""
    await tab.open(f"{origin}/page.html")
    await tab.until("Boolean(window.page)")
    return tab


async def call(page: Tab, function: str, *arguments: Any) -> Any:
    return await page.value(f"page.{function}({', '.join(map(json.dumps, arguments))})")


def url(edge: Edge) -> str:
    return f"http://localhost:{edge.port}"


@pytest.mark.parametrize("format_", FORMATS)
async def test_a_unary_call_with_metadata(edge: Edge, page: Tab, format_: str) -> None:
    seen = await call(page, "unary", url(edge), format_, "a", {"x-mine": "yes", "authorization": "Bearer none"})
    assert seen["error"] is None
    assert seen["message"]["id"] == "a"
    assert seen["message"]["metadata"]["x-mine"] == "yes"
    assert seen["message"]["metadata"]["authorization"] == "Bearer none"
    instance = seen["message"]["metadata"]["instance"]
    assert seen["metadata"]["x-began"] == instance
    assert (seen["status"]["code"], seen["status"]["metadata"]["x-ended"]) == (0, instance)


@pytest.mark.parametrize("format_", FORMATS)
async def test_an_error_with_details(edge: Edge, page: Tab, format_: str) -> None:
    error = (await call(page, "unary", url(edge), format_, "missing", {}))["error"]
    assert (error["code"], error["message"]) == (5, 'thing "missing"\ndoes not exist: é')
    status = status_pb2.Status.FromString(b64decode(error["metadata"]["grpc-status-details-bin"] + "=="))
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    assert status.details[0].Unpack(info)
    assert status.details[1].Unpack(bad)
    assert (info.reason, bad.field_violations[0].field) == ("THING_NOT_FOUND", "id")


@pytest.mark.parametrize("format_", FORMATS)
async def test_a_stream_with_its_trailers(edge: Edge, page: Tab, format_: str) -> None:
    seen = await call(page, "stream", url(edge), format_, "a")
    assert seen["error"] is None
    assert [message["quantity"] for message in seen["messages"]] == [1, 2]
    assert seen["status"]["code"] == 0
    assert seen["status"]["metadata"]["x-ended"] in ("probe-1", "probe-2")


async def test_messages_come_while_the_stream_is_open_and_the_page_may_go(edge: Edge, page: Tab) -> None:
    def ended() -> int:
        return sum(probe.output().count("watch of forever ended") for probe in edge.probes)

    before = ended()
    assert [message["quantity"] for message in await call(page, "glance", url(edge), "forever")] == [1, 2]
    eventually(lambda: ended() == before + 1, "the call is cancelled", edge.logs)


async def test_rest_from_another_origin(edge: Edge, page: Tab) -> None:
    headers = {"content-type": "application/json", "x-mine": "1"}
    options = {"method": "POST", "headers": headers, "body": '{"quantity":3}'}
    assert (await call(page, "rest", f"{url(edge)}{THINGS}", options))["body"]["quantity"] == 3
    refused = await call(page, "rest", f"{url(edge)}{THINGS}/missing", {})
    assert (refused["status"], refused["body"]["code"]) == (404, 5)


async def test_the_docs_show_the_api_without_asking_anybody_else(edge: Edge, tab: Tab) -> None:
    await tab.open(f"{url(edge)}/")
    operations = "[...document.querySelectorAll('.opblock-summary-path')].map((one) => one.dataset.path)"
    await tab.until(f"{operations}.length >= 5")
    below = ("", "/{id}", "/{id}:cancel", "/{id}:watch")
    assert set(await tab.value(operations)) == {THINGS + rest for rest in below}
    assert await tab.value("location.pathname") == "/docs"
    assert {one.split("/")[2] for one in tab.requests if not one.startswith("data:")} == {f"localhost:{edge.port}"}
    assert tab.problems == []


async def test_the_docs_follow_the_services_by_themselves(edge: Edge, tab: Tab) -> None:
    """Every five seconds, which are a tenth of a second here."""
    hurry = "const slow = setInterval; window.setInterval = (look, time) => slow(look, time / 50)"
    files = FileDescriptorSet.FromString((ROOT / "gen" / "descriptors.binpb").read_bytes()).file
    there = "Boolean(document.querySelector('.opblock-summary-path[data-path=\"/v1/services\"]'))"
    await tab.tell("Page.addScriptToEvaluateOnNewDocument", source=hurry)
    await tab.open(f"{url(edge)}/docs")
    await tab.until("Boolean(document.querySelector('.opblock'))")
    assert not await tab.value(there)
    contract = Contract.of(["meshwright.status.v1.StatusService"], files)
    await asyncio.to_thread(edge.join, "status", "status-1", 1, contract)
    await tab.until(there)
    await asyncio.to_thread(edge.leave, "status-1")
    await asyncio.to_thread(edge.remove, "status-1")
    await tab.until(f"!{there}")


async def test_an_operation_can_be_tried_from_the_docs(edge: Edge, tab: Tab) -> None:
    await tab.open(f"{url(edge)}/docs")
    block = "document.getElementById('operations-ProbeService-ProbeService_ListThings')"
    await tab.until(f"Boolean({block}.querySelector('.opblock-summary-control'))")
    await tab.value(f"{block}.querySelector('.opblock-summary-control').click()")
    # References are resolved a little later than the form is there, and before that Swagger UI sends nothing.
    await tab.until(f"{block}.querySelectorAll('select option').length > 2")
    await tab.until(f"Boolean({block}.querySelector('.example'))")
    await tab.value(f"{block}.querySelector('button.execute').click()")
    await tab.until(f"{block}.querySelector('.live-responses-table').innerText.includes('\"things\"')")
    assert tab.problems == []
