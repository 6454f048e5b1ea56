"""How soon the console's pages are painted with 10,000 spans stored: `nox -s bench -- console`.

Headless Chromium opens each page anew, without anything kept from before, and says itself when it painted first (its
own entries `paint`) and when the page had what it shows. Limit: one second to the first paint.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import aiohttp
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans

from bench import parts
from bench.figures import table
from mesh.ports import free_port
from tests.fixtures.browser import Tab, chromium_binary, new_tab, running
from tests.fixtures.otlp import SECOND, batch, export, span, trace_id

SPANS = 10_000
ONE_TRACE = 5_000
"""Half of them are one trace, the others 1,000 traces of five spans."""

SERVICES = 5
ROUNDS = 7
LIMIT_MS = 1_000
PAGES = (
    ("map", "", "document.querySelectorAll('.node').length > 4"),
    ("traces", "traces", "document.querySelectorAll('tbody tr').length >= 100"),
    ("service", "services/service-1", "document.querySelectorAll('tbody tr').length > 0"),
    ("a trace of 5,000 spans", f"traces/{trace_id(1).hex()}", "document.querySelectorAll('.row').length > 5"),
)

PAINTED = "performance.getEntriesByType('paint').find((one) => one.name === 'first-contentful-paint')?.startTime"


async def main() -> None:
    """Measure and print."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-", dir="/tmp")))
        grpc_port, http_port, port = free_port(), free_port(), free_port()
        flags = ("--otlp-grpc-port", str(grpc_port), "--otlp-http-port", str(http_port), "--port", str(port))
        stack.enter_context(
            parts.process(folder, "console", ["-m", "console", "--dir", str(folder), *flags], "console on")
        )
        await _store(f"http://127.0.0.1:{http_port}/v1/traces")
        address = stack.enter_context(running(chromium_binary()))
        rows = [await _page(address, f"http://127.0.0.1:{port}/console/", *page) for page in PAGES]
    print(table(("", "first paint", "slowest", "of the limit", "shown in full"), rows))


async def _store(url: str) -> None:
    async with aiohttp.ClientSession() as http:
        body = export(*_spans()).SerializeToString()
        async with http.post(url, data=body, headers={"Content-Type": "application/x-protobuf"}) as answer:
            answer.raise_for_status()


def _spans() -> Sequence[ResourceSpans]:
    now = time.time_ns() - 5 * SECOND
    large = [(1, n, n // 2) for n in range(1, ONE_TRACE + 1)]
    small = [(2 + n // 5, n % 5 + 1, n % 5) for n in range(SPANS - ONE_TRACE)]
    places = [*large, *small]
    return [
        batch(f"service-{number % SERVICES}", span(trace, number, parent=parent, name="shop.v1.Shop/Get", start=now))
        for trace, number, parent in places
    ]


async def _page(browser_at: str, console_at: str, name: str, path: str, ready: str) -> tuple[str, ...]:
    painted, full = [], []
    for number in range(ROUNDS + 1):
        async with new_tab(browser_at) as fresh:
            first, whole = await _opened(fresh, console_at + path, ready)
        if number:
            painted.append(first)
            full.append(whole)
    middle = statistics.median(painted)
    return (
        name,
        f"{middle:.0f} ms",
        f"{max(painted):.0f} ms",
        f"{middle / LIMIT_MS:.2f}",
        f"{statistics.median(full):.0f} ms",
    )


async def _opened(fresh: Tab, url: str, ready: str) -> tuple[float, float]:
    """Milliseconds from the navigation to the first paint, and until all is there."""
    await fresh.tell("Network.setCacheDisabled", cacheDisabled=True)
    await fresh.open(url)
    full = await fresh.until(f"({ready}) && performance.now()")
    return float(await fresh.until(PAINTED)), float(full)


if __name__ == "__main__":
    asyncio.run(main())
