"""The console and its commands on a whole stack: what happens there is seen there."""

from __future__ import annotations

import asyncio
import json
import uuid
from asyncio.subprocess import DEVNULL, PIPE
from typing import Any

import pytest

from tests.e2e.conftest import BIN, Stack
from tests.fixtures.browser import Tab
from tests.fixtures.shop import eventually

TEXT = "document.getElementById('page').innerText"
LIVE = "document.getElementById('live').dataset.state === 'live'"


@pytest.fixture(scope="module")
def user(stack: Stack) -> str:
    """Id of a user; a run of sync has at least begun."""
    if stack.consul:
        pytest.skip("the registry is no matter of the console")
    stack.curl("/v1/syncs", "-X", "POST", "-d", json.dumps({"requestId": str(uuid.uuid4())}))
    eventually(lambda: stack.curl("/v1/users?page_size=1").get("users"))
    return str(stack.curl("/v1/users?page_size=1")["users"][0]["id"])


def order(stack: Stack, user: str) -> str:
    """Id of a new order."""
    line = {"sku": "A-1", "quantity": 2, "unitPrice": {"currencyCode": "EUR", "units": "21"}}
    body = json.dumps({"requestId": str(uuid.uuid4()), "customerId": user, "lines": [line]})
    return str(stack.curl("/v1/orders", "-X", "POST", "-d", body)["id"])


async def test_pages_show_what_happens(stack: Stack, user: str, tab: Tab) -> None:
    at = f"http://localhost:{stack.gateway_port}/console"
    fault = asyncio.to_thread(stack.mesh, "fault", "order/GetOrder", "--delay", "120ms", "--for", "60s")
    async with asyncio.TaskGroup() as group:
        group.create_task(fault)
        await tab.open(f"{at}/events")
        await tab.until(f"{LIVE} && {TEXT}.includes('scim') && {TEXT}.includes('Dead letters')")
        made = await asyncio.to_thread(order, stack, user)
        await tab.until(f"{TEXT}.includes('{made[:8]} · 42.00 EUR')")
        await tab.until("document.querySelectorAll('.progress').length > 0")
        await tab.open(f"{at}/services/order")
        await tab.until(f"{TEXT}.includes('3 attempts on UNAVAILABLE') && {TEXT}.includes('CreateOrder')")
        assert await tab.value("document.querySelectorAll('.charts .line').length") >= 4
        assert await tab.value(f"({TEXT}.match(/passing/g)).length") == 2
    await tab.open(f"{at}/mesh")
    await tab.until(f"{TEXT}.includes('wait 120 ms') && {TEXT}.includes('order GetOrder')")
    await tab.until(f"{TEXT}.includes('14 of 14')")
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.to_thread(stack.mesh, "fault", "--clear"))
        await tab.open(f"{at}/")
        await tab.until("Boolean(document.querySelector('[data-key=\"edge:gateway|order\"]'))")
    assert tab.problems == []


async def test_top_and_tap(stack: Stack, user: str) -> None:
    words = ("tap", "order/CreateOrder", "--count", "1", "--output", "json", "--min-duration", "1us")
    tap = await asyncio.create_subprocess_exec(
        BIN / "mesh", *words, "--dir", stack.state, stdout=PIPE, stderr=DEVNULL, env=stack.environ
    )
    ordering = asyncio.create_task(orders(stack, user))
    async with asyncio.timeout(60):
        told, _ = await tap.communicate()
    ordering.cancel()
    call: dict[str, Any] = json.loads(told)
    assert (tap.returncode, call["caller"], call["status"], call["attempts"]) == (0, "gateway", "OK", 1)
    top = json.loads(stack.mesh("top", "--once", "--output", "json").stdout)
    assert ("order", call["method"]) in {(row["service"], row["method"]) for row in top["methods"]}
    assert ("gateway", "order") in {(row["from"], row["to"]) for row in top["edges"]}


@pytest.mark.usefixtures("user")
def test_a_page_of_a_service_that_nobody_knows_is_not_found(stack: Stack) -> None:
    """And has the frame of the others, in which it says so; what fills it is told which name was meant."""
    page = stack.curl_text("/console/services/ordr", "-w", "%{http_code}")
    assert page.startswith(stack.curl_text("/console/services/order"))
    assert page.endswith("404")
    assert "did you mean order?" in stack.curl("/console/data/services/ordr")["message"]


@pytest.mark.usefixtures("user")
async def test_a_tap_of_a_name_that_nobody_has_says_so_and_waits(stack: Stack) -> None:
    tap = await asyncio.create_subprocess_exec(
        BIN / "mesh", "tap", "ordr", "--dir", stack.state, stdout=DEVNULL, stderr=PIPE, env=stack.environ
    )
    assert tap.stderr
    async with asyncio.timeout(60):
        said = (await tap.stderr.readline()).decode()
    assert "did you mean order?; waiting for its calls" in said
    assert tap.returncode is None
    tap.terminate()
    await tap.wait()


async def orders(stack: Stack, user: str) -> None:
    """One after the other: nobody says when a command has begun to watch."""
    while True:
        await asyncio.to_thread(order, stack, user)
        await asyncio.sleep(0.2)
