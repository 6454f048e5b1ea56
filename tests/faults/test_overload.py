"""A server that is asked for three times what it can do goes on doing what it can."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from bench.offered import at_once, at_rate
from mesh import Code
from mesh.pace import MANY
from tests.fixtures.echo import dialled, path, served, unary_unary

pytestmark = pytest.mark.timeout(120)

WORK_SECONDS = 0.01
DEADLINE_SECONDS = 2.0
PEAK_SECONDS, SECONDS = 2.0, 8.0


async def test_at_three_times_capacity_goodput_stays_at_four_fifths_of_the_peak() -> None:
    """One call is worked on at a time and takes a fixed while, so that what is counted is no matter of the machine."""
    turn = asyncio.Lock()

    async def work(request: bytes, context: Any) -> bytes:
        async with turn:
            await asyncio.sleep(WORK_SECONDS)
        return b""

    async with served({"It": unary_unary(work)}) as server, dialled(server) as channel:

        async def call() -> None:
            await channel.unary_unary(path("It"))(b"", timeout=DEADLINE_SECONDS)

        peak = await at_once(call, MANY // 2, PEAK_SECONDS)
        took = await at_rate(call, 3 * peak.rate, SECONDS)
    print(peak.rate, took.rate, took.failures)
    assert not peak.failures
    assert took.rate >= 0.8 * peak.rate
    assert took.failures[Code.RESOURCE_EXHAUSTED.name] > took.failures[Code.DEADLINE_EXCEEDED.name]
