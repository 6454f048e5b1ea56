"""Blocking queries behave the same on the built-in registry and on a real Consul."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator

import aiohttp
import pytest

from tests.contract.steps import DEADLINE_SECONDS, fresh
from tests.contract.test_http import Answer, Peer


@pytest.fixture
async def peer(registry_address: str) -> AsyncIterator[Peer]:
    async with aiohttp.ClientSession() as session:
        yield Peer(registry_address, session)


async def test_query_returns_at_the_end_of_its_wait_with_the_same_number(peer: Peer) -> None:
    key = fresh("contract/wait")
    await peer.ask(f"PUT /v1/kv/{key}", "x")
    before = await peer.ask(f"GET /v1/kv/{key}")
    started = time.monotonic()
    after = await peer.ask(f"GET /v1/kv/{key}?index={before.index}&wait=300ms")
    assert 0.29 < time.monotonic() - started < 5
    assert (after.index, after.content) == (before.index, before.content)


@pytest.mark.parametrize("path", ["kv/{}", "kv/{}?recurse", "kv/{}?keys"])
async def test_query_for_values_returns_on_change(peer: Peer, path: str) -> None:
    key = fresh("contract/change")
    path = f"GET /v1/{path.format(key)}"
    before = await peer.ask(path)
    held = _held(peer, path, before.index)
    await peer.ask(f"PUT /v1/kv/{key}", "x")
    after = await _changed(held)
    assert after.index > before.index


@pytest.mark.parametrize("path", ["health/service/{}", "catalog/service/{}", "health/checks/{}", "catalog/services"])
async def test_query_for_a_service_returns_on_change(peer: Peer, path: str) -> None:
    service = fresh()
    path = f"GET /v1/{path.format(service)}"
    before = await peer.ask(path)
    held = _held(peer, path, before.index)
    await peer.ask("PUT /v1/agent/service/register", json.dumps({"Name": service, "Check": {"TTL": "60s"}}))
    after = await _changed(held)
    assert after.index > before.index


async def test_query_for_config_entries_returns_on_change(peer: Peer) -> None:
    before = await peer.ask("GET /v1/config/service-resolver")
    held = _held(peer, "GET /v1/config/service-resolver", before.index)
    await peer.ask("PUT /v1/config", json.dumps({"Kind": "service-resolver", "Name": fresh(), "ConnectTimeout": "2s"}))
    assert (await _changed(held)).index > before.index


async def test_numbers_only_grow(peer: Peer) -> None:
    service, numbers = fresh(), []
    await peer.ask("PUT /v1/agent/service/register", json.dumps({"Name": service, "Check": {"TTL": "60s"}}))
    for status in ("pass", "fail", "warn", "pass"):
        await peer.ask(f"PUT /v1/agent/check/{status}/service:{service}")
        numbers.append((await peer.ask(f"GET /v1/health/service/{service}")).index)
    await peer.ask(f"PUT /v1/agent/service/deregister/{service}")
    numbers.append((await peer.ask(f"GET /v1/health/service/{service}")).index)
    assert numbers == sorted(set(numbers))


async def test_renewing_a_check_wakes_nobody(peer: Peer) -> None:
    service = fresh()
    await peer.ask("PUT /v1/agent/service/register", json.dumps({"Name": service, "Check": {"TTL": "60s"}}))
    await peer.ask(f"PUT /v1/agent/check/pass/service:{service}")
    before = await peer.ask(f"GET /v1/health/service/{service}")
    held = _held(peer, f"GET /v1/health/service/{service}", before.index, wait="500ms")
    for _ in range(5):
        await peer.ask(f"PUT /v1/agent/check/pass/service:{service}")
    assert (await _changed(held)).index == before.index


async def test_number_from_the_future_is_held_until_the_wait_ends(peer: Peer) -> None:
    key = fresh("contract/future")
    await peer.ask(f"PUT /v1/kv/{key}", "x")
    number = (await peer.ask(f"GET /v1/kv/{key}")).index
    answer = await peer.ask(f"GET /v1/kv/{key}?index={number + 1_000_000}&wait=200ms")
    assert answer.index == number


def _held(peer: Peer, path: str, index: int, wait: str = "15s") -> asyncio.Task[Answer]:
    """A blocking query that runs while the test goes on."""
    separator = "&" if "?" in path else "?"
    return asyncio.ensure_future(peer.ask(f"{path}{separator}index={index}&wait={wait}"))


async def _changed(held: asyncio.Task[Answer]) -> Answer:
    async with asyncio.timeout(DEADLINE_SECONDS):
        return await held
