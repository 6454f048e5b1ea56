"""Load that is offered to a service: so many calls at once, or so many a second whatever becomes of them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import grpc

from mesh.recovery import now

TICK_SECONDS = 0.005

Call = Callable[[], Awaitable[None]]


@dataclass
class Took:
    """What became of calls, and how long those took that went well."""

    seconds: float = 0.0
    begun: int = 0
    latencies: list[float] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)

    @property
    def rate(self) -> float:
        """Calls in a second that went well."""
        return len(self.latencies) / self.seconds


async def at_once(call: Call, count: int, seconds: float) -> Took:
    """So many callers, each of whom calls again as soon as it is answered."""
    took, began = Took(), now()

    async def keep_calling() -> None:
        while now() < began + seconds:
            await _one(call, took)

    await asyncio.gather(*(keep_calling() for _ in range(count)))
    took.seconds = now() - began
    return took


async def at_rate(call: Call, rate: float, seconds: float) -> Took:
    """Calls that come whatever becomes of those before; the time is that until the last one has ended."""
    took, began = Took(), now()
    async with asyncio.TaskGroup() as group:
        while (elapsed := now() - began) < seconds:
            for _ in range(round(rate * elapsed) - took.begun):
                group.create_task(_one(call, took))
            await asyncio.sleep(TICK_SECONDS)
    took.seconds = now() - began
    return took


async def _one(call: Call, took: Took) -> None:
    took.begun += 1
    began = now()
    try:
        await call()
    except grpc.aio.AioRpcError as error:
        took.failures[error.code().name] += 1
    else:
        took.latencies.append(now() - began)
