"""A client in a process of its own: `python -m bench.caller KIND ADDRESS AT_ONCE [PATH HEX]`.

KIND is `bare` for a channel of gRPC's own or `mesh` for `mesh.channel`. PATH and HEX are a method and its request,
else 100 bytes for `bench.v1.Echo/Unary`. Each line of its input is a round: a number of seconds; the answer is a line
of JSON: calls, seconds, CPU seconds of this process, and latencies.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import grpc

import mesh
from bench import echo
from mesh.recovery import now

ECHO = (echo.path("Unary"), (b"x" * 100).hex())


async def main(kind: str, address: str, at_once: int, path: str, request: bytes) -> None:
    """Calls of one method, so many at once, until the input ends."""
    async with AsyncExitStack() as stack:
        if kind == "mesh":
            service = address.removeprefix("xds:///")
            made = mesh.channel("bench", target=address) if service == address else mesh.channel(service)
            channel: Any = await stack.enter_async_context(made)
        else:
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(address))
        call = channel.unary_unary(path)
        await call(request, timeout=20, wait_for_ready=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            print(json.dumps(await _round(partial(call, request, timeout=20), float(line), at_once)), flush=True)


async def _round(call: Any, seconds: float, at_once: int) -> dict[str, Any]:
    latencies: list[float] = []
    began, cpu = now(), time.process_time()

    async def work() -> None:
        while now() < began + seconds:
            start = now()
            await call()
            latencies.append(now() - start)

    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(work())
    return {"seconds": now() - began, "cpu": time.process_time() - cpu, "latencies": latencies}


if __name__ == "__main__":
    path, request = sys.argv[4:] or ECHO
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), path, bytes.fromhex(request)))
