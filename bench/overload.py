"""Goodput when more is asked for than can be done: `nox -s bench -- overload`.

CreateOrder through the gateway of a whole stack. First so many callers as keep it busy (the peak), then calls at a
steady rate that wait for nothing: as many as the peak, and three times as many, in rounds that take turns. Goodput is
what was answered well within the deadline. The client is another process on the same two cores. Aim: 0.8 of the peak.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
from functools import partial

from bench.figures import milliseconds, quantile, table
from bench.offered import Took, at_once, at_rate
from bench.shop import shop

CALLERS = 32
ROUNDS = 3
SECONDS = 5.0
TIMES = (1, 3)
AIM = 0.8


async def main(deadline_seconds: float) -> None:
    """Measure and print."""
    rounds: dict[str, list[tuple[float, Took]]] = {}
    async with shop() as made:
        call = partial(made.order, deadline_seconds)
        await at_once(call, CALLERS, 2.0)
        for _ in range(ROUNDS):
            peak = await at_once(call, CALLERS, SECONDS)
            rounds.setdefault("peak", []).append((1.0, peak))
            for times in TIMES:
                took = await at_rate(call, times * peak.rate, SECONDS)
                rounds.setdefault(f"{times} x peak", []).append((took.rate / peak.rate, took))
                await asyncio.sleep(1.0)
    print(table(("", "asked for", "goodput", "of peak", "p50", "p99", "failures"), map(_row, rounds, rounds.values())))
    ratio = statistics.median(ratio for ratio, _ in rounds[f"{TIMES[-1]} x peak"])
    print(f"goodput at {TIMES[-1]} times the peak, deadline {deadline_seconds:g} s: {ratio:.2f} of it; aim {AIM:.2f}")


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
