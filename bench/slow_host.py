"""What one slow host of three does to callers: `nox -s bench -- slow_host`.

Calls come at a fixed rate whatever the answers take (an open loop): to three instances that take 2 ms, and to two of
them and one that takes 200 ms longer, by round_robin and by weights from the load that the servers report. Rounds take
turns, so that what else the machine does meets all alike. Then the slow one is quick again, until it has its share.
Aim: by weight, a p99 of at most 1.5 times that of three healthy ones.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from envoy.config.cluster.v3.cluster_pb2 import LoadBalancingPolicy

from bench import ads, echo, parts
from bench.figures import milliseconds, quantile, table
from mesh.local_sidecar import BOOTSTRAP_OPTION
from mesh.policy import Balancing
from mesh.recovery import now
from mesh.xds.balancing import weighted_round_robin

RATE = 200
ROUNDS = 8
ROUND_SECONDS = 2.0
WARM_SECONDS = 5.0
"""Until every instance has reported for the two seconds that weights need, and more."""

QUICK, SLOWER_BY = 0.002, 0.2
AIM = 1.5
OWN_SHARE = 0.25
"""Of one of three that is well again."""


@dataclass
class Seen:
    """What calls saw."""

    latencies: list[float] = field(default_factory=list)
    peers: Counter[int] = field(default_factory=Counter)

    def p99(self) -> float:
        """In seconds."""
        return quantile(self.latencies, 0.99)


@dataclass
class Way:
    """Calls to three instances, balanced in one way."""

    name: str
    call: Any
    slow: int = -1
    """Port of the slow one."""
    first: Seen = field(default_factory=Seen)
    """What the first calls saw, before weights were known."""
    rounds: list[Seen] = field(default_factory=list)

    def p99_of(self, healthy: Way) -> float:
        """In relation to that of another way, round by round."""
        return statistics.median(mine.p99() / its.p99() for mine, its in zip(self.rounds, healthy.rounds, strict=True))

    def row(self, healthy: Way) -> Sequence[object]:
        """Figures, beside those of three healthy instances."""
        latencies = [latency for seen in self.rounds for latency in seen.latencies]
        peers = sum((seen.peers for seen in self.rounds), Counter[int]())
        quantiles = [quantile(latencies, share) for share in (0.5, 0.95, 0.99)]
        shares = [f"{count / peers.total():.0%}" for port, count in sorted(peers.items()) if port != self.slow]
        of_slow = f"{peers[self.slow] / peers.total():.2%}"
        return self.name, *map(milliseconds, quantiles), f"{self.p99_of(healthy):.2f}", of_slow, " ".join(shares)


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/tmp") as name, ExitStack() as stack:
        folder = Path(name)
        quick = [stack.enter_context(parts.backend(folder, f"quick-{i}", QUICK))[1] for i in range(3)]
        slow = [stack.enter_context(parts.backend(folder, f"slow-{i}", QUICK + SLOWER_BY))[1] for i in range(2)]
        ways, recovered = asyncio.run(_all(folder, quick, slow))
    healthy, _, weighted = ways
    head = ("", "p50", "p95", "p99", "p99 of healthy", "share of the slow", "of the others")
    print(table(head, [way.row(healthy) for way in ways]))
    print(f"p99 by weight / p99 of three healthy, round by round: {weighted.p99_of(healthy):.2f}; aim {AIM:.2f}")
    print(f"the slow one had {weighted.first.peers[weighted.slow]} of the first {weighted.first.peers.total()} calls, "
          f"and its share again {recovered:.0f} s after it was quick")  # fmt: skip


async def _all(folder: Path, quick: Sequence[int], slow: Sequence[int]) -> tuple[Sequence[Way], float]:
    some, by_weight = quick[:2], weighted_round_robin(Balancing())
    async with AsyncExitStack() as stack:
        ways = [
            Way("three healthy, round_robin", await _call(stack, folder, quick)),
            Way("one slow, round_robin", await _call(stack, folder, [*some, slow[0]]), slow[0]),
            Way("one slow, weighted_round_robin", await _call(stack, folder, [*some, slow[1]], by_weight), slow[1]),
        ]
        for each in ways:
            await _at_a_rate(each.call, WARM_SECONDS, each.first)
        for _ in range(ROUNDS):
            for each in ways:
                each.rounds.append(Seen())
                await _at_a_rate(each.call, ROUND_SECONDS, each.rounds[-1])
        return ways, await _recovery(ways[-1])


async def _call(
    stack: AsyncExitStack, folder: Path, ports: Sequence[int], policy: LoadBalancingPolicy | None = None
) -> Any:
    told = ads.told(ads.balanced("bench", ports, policy), folder / f"ads-{ports[-1]}")
    channel = await stack.enter_async_context(_dialled(await stack.enter_async_context(told)))
    return channel.unary_unary(echo.path("Unary"))


async def _recovery(way: Way) -> float:
    """Seconds until the slow one has its share, after it is as quick as the others."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{way.slow}") as channel:
        call: Any = channel.unary_unary(echo.path("Unary"))
        await call(echo.TAKE + str(QUICK).encode())
    begin = now()
    while True:
        seen = Seen()
        await _at_a_rate(way.call, 1.0, seen)
        if seen.peers[way.slow] >= OWN_SHARE * seen.peers.total():
            return now() - begin


def _dialled(bootstrap: str) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel("xds:///bench", [(BOOTSTRAP_OPTION, bootstrap)])


async def _at_a_rate(call: Any, seconds: float, seen: Seen) -> None:
    async def one(due: float) -> None:
        await asyncio.sleep(due - now())
        port = await call(echo.WHO, timeout=20, wait_for_ready=True)
        seen.latencies.append(now() - due)
        seen.peers[int(port)] += 1

    begin = now()
    async with asyncio.TaskGroup() as group:
        for i in range(round(RATE * seconds)):
            group.create_task(one(begin + i / RATE))


if __name__ == "__main__":
    main()
