"""Goodput when more is asked for than can be done: `nox -s bench -- overload [SECONDS]`, the deadline of each call.

First so many callers as keep a server busy (the peak), then calls at a steady rate that wait for nothing: as many as
the peak, and three times as many, in rounds that take turns. Goodput is what was answered well within the deadline.

- One process on a core of its own that works 1.5 ms for each call, its caller on the other core: by `mesh.channel`,
  and by a channel of gRPC's own.
- CreateOrder through the gateway of a whole stack, the caller on the same two cores.

Aim: 0.8 of the peak.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import grpc

import mesh
from bench import echo
from bench.figures import milliseconds, quantile, table
from bench.offered import Call, Took, at_once, at_rate
from bench.parts import backend
from bench.shop import shop

CALLERS = 32
ROUNDS = 3
SECONDS = 5.0
TIMES = (1, 3)
AIM = 0.8

Rounds = dict[str, list[tuple[float, Took]]]
"""For each load what every round brought: of the peak of that round, and what became of the calls."""


async def main(deadline_seconds: float) -> None:
    """Measure and print."""
    ways: dict[str, Rounds] = {"mesh.channel": {}, "grpc.aio": {}, "gateway": {}}
    with _alone() as port:
        address = f"127.0.0.1:{port}"
        async with mesh.channel("bench", target=f"dns:///{address}") as own, grpc.aio.insecure_channel(address) as bare:
            for _ in range(ROUNDS):
                await _round(ways["mesh.channel"], partial(_work, own, deadline_seconds))
                await _round(ways["grpc.aio"], partial(_work, bare, deadline_seconds))
    async with shop() as made:
        for _ in range(ROUNDS):
            await _round(ways["gateway"], partial(made.order, deadline_seconds))
    show(ways, deadline_seconds)


async def _work(channel: Any, deadline_seconds: float) -> None:
    await channel.unary_unary(echo.path("Unary"))(echo.WORK, timeout=deadline_seconds)


async def _round(rounds: Rounds, call: Call) -> None:
    await at_once(call, CALLERS, 1.0)
    peak = await at_once(call, CALLERS, SECONDS)
    rounds.setdefault("peak", []).append((1.0, peak))
    for times in TIMES:
        took = await at_rate(call, times * peak.rate, SECONDS)
        rounds.setdefault(f"{times} x peak", []).append((took.rate / peak.rate, took))
        await asyncio.sleep(1.0)


@contextmanager
def _alone() -> Iterator[int]:
    """A server on a core that this process keeps away from meanwhile, where there are two; its port."""
    cores = os.sched_getaffinity(0)
    its = {min(cores)}
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/tmp") as name:
        os.sched_setaffinity(0, its)  # a child begins where its parent is
        try:
            with backend(Path(name), "server") as (_, port):
                os.sched_setaffinity(0, cores - its or cores)
                yield port
        finally:
            os.sched_setaffinity(0, cores)


def show(ways: Mapping[str, Rounds], deadline_seconds: float) -> None:
    """Print a table for each way."""
    for way, rounds in ways.items():
        heads = (way, "asked for", "goodput", "of peak", "p50", "p99", "failures")
        print(table(heads, [_row(name, found) for name, found in rounds.items()]))
        ratio = statistics.median(ratio for ratio, _ in rounds[f"{TIMES[-1]} x peak"])
        print(f"{way}, {TIMES[-1]} times the peak, deadline {deadline_seconds:g} s: {ratio:.2f} of it; aim {AIM:.2f}\n")


def _row(name: str, rounds: list[tuple[float, Took]]) -> tuple[str, ...]:
    ratios, took = zip(*rounds, strict=True)
    latencies = [latency for one in took for latency in one.latencies]
    failures = sum((one.failures for one in took), start=type(took[0].failures)())
    return (
        name, f"{statistics.median(one.begun / SECONDS for one in took):.0f}/s",
        f"{statistics.median(one.rate for one in took):.0f}/s", f"{statistics.median(ratios):.2f}",
        milliseconds(quantile(latencies, 0.5)), milliseconds(quantile(latencies, 0.99)),
        ", ".join(f"{number} {code}" for code, number in failures.most_common()) or "none",
    )  # fmt: skip


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1]) if len(sys.argv) > 1 else 10.0))
