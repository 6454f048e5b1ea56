"""How soon a change is felt: `nox -s bench -- propagation`.

From the moment at which the registry is asked for a change to the first call that it affects, beside the floor: when a
bare blocking query on the same registry returns. Meanwhile the sidecar watches a hundred services. Aim: at most 50 ms
above the floor at p99.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import grpc

import mesh
from bench import echo, parts
from bench.figures import milliseconds, quantile, table
from mesh.contract import PREFIX
from mesh.local_sidecar import BOOTSTRAP_OPTION
from mesh.recovery import now
from mesh.registry import MESH_TAG, Health, Registration, Registry, RegistrySettings, connect

SAMPLES = 24
WATCHED = 100
QUIET_SECONDS = 0.25
"""An instance that got no call for so long, of calls that follow one another, is out."""

Sample = tuple[float, float]
"""Seconds until the bare query knew, and until a call was affected."""


@dataclass
class Bench:
    """Who changes, who asks, who calls."""

    registry: Registry
    http: aiohttp.ClientSession
    address: str
    call: Any
    policed: Any
    fixed: int
    moving: int

    async def register(self) -> Sample:
        """A new instance turns healthy, and the first call reaches it."""
        await self._announce()
        sample = await self._measure(self._report(Health.PASSING, ""), self._until_reached)
        await self._forget()
        return sample

    async def leave(self) -> Sample:
        """An instance says that it leaves; the last call that still reached it."""
        await self._announce()
        await self._report(Health.PASSING, "")()
        await self._until_reached()
        sample = await self._measure(self._report(Health.CRITICAL, "leaving"), self._until_quiet)
        await self._forget()
        return sample

    async def flip(self) -> Sample:
        """An instance that was not serving is healthy again."""
        await self._announce()
        await self._report(Health.PASSING, "")()
        await self._until_reached()
        await self._report(Health.CRITICAL, "not serving")()
        await self._until_quiet()
        sample = await self._measure(self._report(Health.PASSING, ""), self._until_reached)
        await self._forget()
        return sample

    async def policy(self) -> Sample:
        """The deadline of a method is another, and the first call has it."""
        before = float(await self.policed(echo.LEFT))
        other = 20 if before < 15 else 10
        config = f'{{"methodConfig": [{{"name": [{{"service": "{echo.SERVICE}"}}], "timeout": "{other}s"}}]}}'

        async def change() -> None:
            await self.registry.put(PREFIX + "bench", echo.contract(config).serialize())

        async def affected() -> float:
            while abs(float(await self.policed(echo.LEFT)) - other) > 2:
                pass
            return now()

        return await self._measure(change, affected, f"/v1/kv/{PREFIX}?recurse=1")

    async def _measure(
        self, change: Callable[[], Awaitable[None]], affected: Callable[[], Awaitable[float]],
        path: str = "/v1/health/service/bench?",
    ) -> Sample:
        async with self.http.get(f"{self.address}{path}") as answer:
            index = answer.headers["X-Consul-Index"]
        floor = asyncio.ensure_future(self._blocking(f"{self.address}{path}&index={index}&wait=30s"))
        noticed = asyncio.ensure_future(affected())
        await asyncio.sleep(0.02)
        began = now()
        await change()
        return await floor - began, await noticed - began

    async def _blocking(self, url: str) -> float:
        async with self.http.get(url) as answer:
            await answer.read()
            return now()

    async def _announce(self) -> None:
        await self.registry.register(Registration(
            service="bench", id="moving", address="127.0.0.1", port=self.moving, tags=(MESH_TAG,), ttl_seconds=600,
        ))  # fmt: skip

    def _report(self, health: Health, output: str) -> Callable[[], Awaitable[None]]:
        return lambda: self.registry.report("moving", health, output)

    async def _forget(self) -> None:
        await self.registry.report("moving", Health.CRITICAL, "leaving")
        await self._until_quiet()
        await self.registry.deregister("moving")

    async def _until_reached(self) -> float:
        while int(await self.call(echo.WHO)) != self.moving:
            pass
        return now()

    async def _until_quiet(self) -> float:
        last = now()
        while now() - last < QUIET_SECONDS:
            if int(await self.call(echo.WHO)) == self.moving:
                last = now()
        return last


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/tmp") as name, ExitStack() as stack:
        folder = Path(name)
        consul = stack.enter_context(parts.registry(folder))
        (_, fixed), (_, moving) = (stack.enter_context(parts.backend(folder, name)) for name in ("fixed", "moving"))
        _, paths = stack.enter_context(parts.sidecar(folder, consul))
        settings = parts.published(consul, "bench", [fixed])
        rows = asyncio.run(_all(settings, paths.bootstrap.read_text(), fixed, moving))
    print(f"{WATCHED} services watched; registry: {consul.name}")
    print(table(("", "floor p50", "p99", "first call p50", "p99", "above the floor p50", "p99"), rows))


async def _all(settings: RegistrySettings, bootstrap: str, fixed: int, moving: int) -> list[Sequence[object]]:
    async with AsyncExitStack() as stack:
        registry = await stack.enter_async_context(connect(settings))
        http = await stack.enter_async_context(aiohttp.ClientSession())
        option = [(BOOTSTRAP_OPTION, bootstrap)]
        for number in range(WATCHED - 1):
            idle = await stack.enter_async_context(grpc.aio.insecure_channel(f"xds:///idle-{number}", option))
            idle.get_state(try_to_connect=True)
        bare = await stack.enter_async_context(grpc.aio.insecure_channel("xds:///bench", option))
        ours = await stack.enter_async_context(mesh.channel("bench", mesh.Settings(bootstrap=bootstrap)))
        unary = echo.path("Unary")
        bench = Bench(
            registry, http, settings.address, bare.unary_unary(unary), ours.unary_unary(unary), fixed, moving
        )
        await bench.call(echo.WHO, wait_for_ready=True, timeout=30)
        kinds = {"register": bench.register, "leave": bench.leave, "health": bench.flip, "policy": bench.policy}
        return [await _row(name, measure) for name, measure in kinds.items()]


async def _row(name: str, measure: Callable[[], Awaitable[Sample]]) -> Sequence[object]:
    samples = [await measure() for _ in range(SAMPLES)]
    columns = [floor for floor, _ in samples], [call for _, call in samples], [call - floor for floor, call in samples]
    return name, *(milliseconds(quantile(column, share)) for column in columns for share in (0.5, 0.99))


if __name__ == "__main__":
    main()
