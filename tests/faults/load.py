"""Load as a program of its own: GETs at a steady rate through the gateway, and by `xds:///order`, past it.

Open loop, unless a path has a bound: a call starts when it is due, whatever became of those before it. One JSON line on
stdout for each call that failed or took longer than its deadline, and one with the totals every `REPORT_SECONDS` and at
the end.
"""

from __future__ import annotations

import asyncio
import json
import math
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import aiohttp
import grpc
from grpc.experimental import insecure_channel_credentials

from meshwright.order.v1.order_service_pb2 import ListOrdersRequest
from meshwright.order.v1.order_service_pb2_grpc import OrderServiceStub

DEADLINE_SECONDS = 5.0
SLACK_SECONDS = 0.5
"""How much later than its deadline a call may be told of, on a busy machine."""

REPORT_SECONDS = 0.1

Call = Callable[[], Awaitable[str]]
"""One call; what is wrong with its answer, or nothing."""


@dataclass
class Path:
    """One way to the service, and what became of the calls on it."""

    name: str
    call: Call
    begun: int = 0
    done: int = 0
    failed: int = 0
    slowest_seconds: float = 0.0
    patience_seconds: float = DEADLINE_SECONDS + SLACK_SECONDS
    """What takes longer counts as failed."""

    running: set[asyncio.Task[None]] = field(default_factory=set)
    most: float = math.inf
    """So many run at one time. Those beyond are left out: on a machine too busy for the rate they would only add up."""

    async def keep(self, rate: float) -> None:
        """Start calls until cancelled."""
        due = time.monotonic()
        while True:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            while len(self.running) >= self.most:
                await asyncio.wait(self.running, return_when=asyncio.FIRST_COMPLETED)
                due = time.monotonic()
            due += 1 / rate
            self.begun += 1
            task = asyncio.ensure_future(self._make())
            self.running.add(task)
            task.add_done_callback(self.running.discard)

    async def _make(self) -> None:
        at, began = time.time(), time.monotonic()
        error = await self.call()
        seconds = time.monotonic() - began
        self.done += 1
        self.slowest_seconds = max(self.slowest_seconds, seconds)
        if error or seconds > self.patience_seconds:
            self.failed += 1
            tell(path=self.name, at=at, seconds=round(seconds, 3), error=error or "later than its deadline")

    def totals(self) -> dict[str, float]:
        """Numbers so far."""
        slowest = round(self.slowest_seconds, 3)
        return {"begun": self.begun, "done": self.done, "failed": self.failed, "slowest_seconds": slowest}


def rest(session: aiohttp.ClientSession, port: int) -> Call:
    """`GET /v1/orders` at the gateway."""
    url = f"http://127.0.0.1:{port}/v1/orders?page_size=1"

    async def call() -> str:
        try:
            async with session.get(url) as answer:
                text = await answer.text()
                return "" if answer.status == 200 else f"{answer.status}: {text}"
        except (aiohttp.ClientError, TimeoutError) as error:
            return f"{type(error).__name__}: {error}"

    return call


def proxyless(channel: grpc.aio.Channel) -> Call:
    """ListOrders by `xds:///order`."""
    stub = OrderServiceStub(channel)

    async def call() -> str:
        try:
            await stub.ListOrders(ListOrdersRequest(page_size=1), timeout=DEADLINE_SECONDS)
        except grpc.aio.AioRpcError as error:
            return f"{error.code().name}: {error.details()}"
        return ""

    return call


async def main(port: int, rate: float) -> None:
    """The calls of the reference application."""
    patience = aiohttp.ClientTimeout(total=4 * DEADLINE_SECONDS)
    plain = insecure_channel_credentials()  # type: ignore[no-untyped-call]
    async with (
        aiohttp.ClientSession(timeout=patience, connector=aiohttp.TCPConnector(limit=0)) as session,
        grpc.aio.secure_channel("xds:///order", grpc.xds_channel_credentials(plain)) as channel,
    ):
        await keep_calling([Path("gateway", rest(session, port)), Path("proxyless", proxyless(channel))], rate)


async def keep_calling(paths: Sequence[Path], rate: float) -> None:
    """Call on each path until SIGTERM, then wait for the calls in hand."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    keeping = [asyncio.ensure_future(path.keep(rate)) for path in paths]
    while not stop.is_set():
        await asyncio.sleep(REPORT_SECONDS)
        tell(**{path.name: path.totals() for path in paths})
    for task in keeping:
        task.cancel()
    await asyncio.gather(*(task for path in paths for task in path.running))
    tell(**{path.name: path.totals() for path in paths})


def tell(**words: object) -> None:
    """One line."""
    print(json.dumps(words), flush=True)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), float(sys.argv[2])))
