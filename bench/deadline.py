"""When deadlines of the policy fire: `nox -s bench -- deadline`.

Methods that answer after a minute are called through `mesh.channel`, whose sidecar tells it 50 ms, 500 ms and 3 s, and
through a channel of gRPC's own that has the same service config. A call that ends before its deadline is early.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc

import mesh
from bench import echo, parts
from bench.figures import milliseconds, quantile, table
from mesh.recovery import now

AIM_SECONDS = 0.02
CALLS = {50: 400, 500: 160, 3000: 60}
AT_ONCE = 10
"""Of each kind; a server refuses more of a method than it seems able to end (`mesh.pace`), and these never end."""


def main() -> None:
    """Measure and print."""
    with (
        tempfile.TemporaryDirectory(prefix="bench-", dir="/tmp") as name,
        parts.registry(folder := Path(name)) as consul,
        parts.backend(folder, "backend") as (_, port),
        parts.sidecar(folder, consul) as (_, paths),
    ):
        parts.published(consul, "bench", [port], echo.service_config())
        rows = asyncio.run(measure(f"127.0.0.1:{port}", paths.bootstrap.read_text()))
    heads = ("", "calls", "early", "earliest", "late p50", "late p99", "within 20 ms")
    print(table(heads, rows))


async def measure(address: str, bootstrap: str) -> list[Sequence[object]]:
    """A row for each deadline, arity and kind of channel."""
    options = [("grpc.service_config", echo.service_config())]
    async with (
        mesh.channel("bench", mesh.Settings(bootstrap=bootstrap)) as ours,
        grpc.aio.insecure_channel(address, options=options) as bare,
    ):
        rows: list[Sequence[object]] = []
        for limit in CALLS:
            names = [(kind, what, ch) for what in ("Hang", "Open") for kind, ch in (("mesh", ours), ("grpc", bare))]
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(_sample(ch, f"{what}{limit}", limit)) for _, what, ch in names]
            rows += [_row(kind, what, limit, task.result()) for (kind, what, _), task in zip(names, tasks, strict=True)]
    return rows


async def _sample(channel: Any, method: str, limit: int) -> list[float]:
    late: list[float] = []

    async def work() -> None:
        await asyncio.sleep(random.random() * limit / 1000)
        late.extend([await _lateness(channel, method, limit / 1000) for _ in range(CALLS[limit] // AT_ONCE)])

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(work())
    return late


async def _lateness(channel: Any, method: str, seconds: float) -> float:
    """Seconds by which a call ended after its deadline; negative for an early one."""
    began = now()
    try:
        if method.startswith("Open"):
            async for _ in channel.unary_stream(echo.path(method))(b"", wait_for_ready=True):
                pass
        else:
            await channel.unary_unary(echo.path(method))(b"", wait_for_ready=True)
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
            raise
    return now() - began - seconds


def _row(kind: str, what: str, limit: int, late: Sequence[float]) -> Sequence[object]:
    early = [value for value in late if value < 0]
    on_time = [value for value in late if value >= 0]
    arity, channel = "stream" if what == "Open" else "unary", "mesh.channel" if kind == "mesh" else "gRPC alone"
    name = f"{limit:>4} ms {arity:<6} {channel}"
    share = sum(value <= AIM_SECONDS for value in on_time) / len(late)
    earliest = milliseconds(-min(early)) if early else "-"
    p50, p99 = (milliseconds(quantile(on_time, q)) if on_time else "-" for q in (0.5, 0.99))
    return name, len(late), len(early), earliest, p50, p99, f"{share:.0%}"


if __name__ == "__main__":
    main()
