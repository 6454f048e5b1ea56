"""What one slow host of three does to callers: `nox -s bench -- slow_host`.

Calls come at a fixed rate whatever the answers take (an open loop), to three instances that take 2 ms. Then one of them
takes 200 ms longer: once with round_robin, once with weights from the load that the servers report, in one run.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from bench import ads, echo, parts
from bench.figures import milliseconds, quantile, table
from mesh.local_sidecar import BOOTSTRAP_OPTION
from mesh.policy import Balancing
from mesh.recovery import now
from mesh.xds.balancing import weighted_round_robin

RATE = 200
SECONDS = 8.0
WARM_SECONDS = 4.0
"""Until every instance has reported for the two seconds that weights need, and more."""

QUICK, SLOWER_BY = 0.002, 0.2


@dataclass
class Seen:
    """What calls saw."""

    latencies: list[float] = field(default_factory=list)
    peers: Counter[int] = field(default_factory=Counter)

    def row(self, name: str, slow: int, healthy: Seen) -> Sequence[object]:
        """Figures, beside those of three healthy instances."""
        p50, p95, p99 = (quantile(self.latencies, share) for share in (0.5, 0.95, 0.99))
        shares = [f"{count / self.peers.total():.0%}" for port, count in sorted(self.peers.items()) if port != slow]
        of_slow = f"{self.peers[slow] / self.peers.total():.1%}"
        ratio = p99 / quantile(healthy.latencies, 0.99)
        return name, *map(milliseconds, (p50, p95, p99)), f"{ratio:.1f}", of_slow, " ".join(shares)


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/tmp") as name, ExitStack() as stack:
        folder = Path(name)
        ports = [stack.enter_context(parts.backend(folder, f"quick-{i}", QUICK))[1] for i in range(3)]
        _, slow = stack.enter_context(parts.backend(folder, "slow", QUICK + SLOWER_BY))
        healthy, round_robin, weighted = asyncio.run(_all(folder, ports, slow))
    rows = [
        healthy.row("three healthy, round_robin", -1, healthy),
        round_robin.row("one slow, round_robin", slow, healthy),
        weighted.row("one slow, weighted_round_robin", slow, healthy),
    ]
    print(table(("", "p50", "p95", "p99", "p99 of healthy", "share of the slow", "of the others"), rows))


async def _all(folder: Path, ports: Sequence[int], slow: int) -> Sequence[Seen]:
    with_slow = [*ports[:2], slow]
    return [
        await _measure(folder, ports, weighted=False),
        await _measure(folder, with_slow, weighted=False),
        await _measure(folder, with_slow, weighted=True),
    ]


async def _measure(folder: Path, ports: Sequence[int], *, weighted: bool) -> Seen:
    made = ads.balanced("bench", ports, weighted_round_robin(Balancing()) if weighted else None)
    seen = Seen()
    async with ads.told(made, folder / "ads") as bootstrap, _dialled(bootstrap) as channel:
        call: Any = channel.unary_unary(echo.path("Unary"))
        await _at_a_rate(call, WARM_SECONDS, Seen())
        await _at_a_rate(call, SECONDS, seen)
    return seen


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
