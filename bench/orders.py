"""How many orders a second: `nox -s bench -- orders`.

CreateOrder through the gateway of a whole stack, with its check of the customer, its events and its spans; beside it
pgbench with the same statements on the same Postgres at the same concurrency, which is the limit. In rounds that take
turns.
"""

from __future__ import annotations

import asyncio
import os
import re
import statistics
from functools import partial
from pathlib import Path

from bench.figures import milliseconds, quantile, table
from bench.offered import Took, at_once
from bench.shop import shop
from mesh.up.stores import DATABASE, Postgres

AT_ONCE = 16
ROUNDS = 4
SECONDS = 4
DEADLINE_SECONDS = 10.0
SCRIPT = Path(__file__).with_name("orders.sql")
_RATE = re.compile(r"tps = ([\d.]+)")


async def main() -> None:
    """Measure and print."""
    limits: list[float] = []
    rounds: list[Took] = []
    async with shop() as made:
        postgres = Postgres.at(made.stack.state / "postgres", made.stack.paths.run, os.environ)
        call = partial(made.order, DEADLINE_SECONDS)
        await at_once(call, AT_ONCE, 2.0)
        for _ in range(ROUNDS):
            rounds.append(await at_once(call, AT_ONCE, SECONDS))
            limits.append(await _limit(postgres))
    latencies = [latency for one in rounds for latency in one.latencies]
    ratio = statistics.median(one.rate / limit for one, limit in zip(rounds, limits, strict=True))
    ours = statistics.median(one.rate for one in rounds)
    p50, p99 = (milliseconds(quantile(latencies, share)) for share in (0.5, 0.99))
    print(table(("", "orders", "of the limit", "p50", "p99"), [
        ("pgbench, the same statements", f"{statistics.median(limits):.0f}/s", "1.00", "", ""),
        ("CreateOrder through the gateway", f"{ours:.0f}/s", f"{ratio:.2f}", p50, p99),
    ]))  # fmt: skip
    print(f"{AT_ONCE} at once; failures: {sum(sum(one.failures.values()) for one in rounds)}")


async def _limit(postgres: Postgres) -> float:
    """Orders in a second that pgbench writes."""
    argv = [
        str(postgres.binaries / "pgbench"), "--no-vacuum", "--protocol=prepared", f"--file={SCRIPT}",
        f"--client={AT_ONCE}", "--jobs=2", f"--time={SECONDS}", f"--host={postgres.run}", f"--username={DATABASE}",
        DATABASE,
    ]  # fmt: skip
    pipe = asyncio.subprocess.PIPE
    child = await asyncio.create_subprocess_exec(*argv, stdout=pipe, stderr=pipe)
    said, errors = await child.communicate()
    found = _RATE.search(said.decode())
    if not found:
        raise SystemExit(f"pgbench: {errors.decode()}")
    return float(found[1])


if __name__ == "__main__":
    asyncio.run(main())
