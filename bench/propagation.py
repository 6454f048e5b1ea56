"""How soon a change is felt: `nox -s bench -- propagation`.

From the moment at which the registry is asked for a change to the first call that it affects, beside the floor: when a
bare blocking query on the same registry shows it. Meanwhile the sidecar watches a hundred services. Aim: at most 50 ms
above the floor at p99.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import grpc

import mesh
from bench import echo, parts
from bench.figures import milliseconds, quantile, table
from bench.intended import Intended
from bench.noticing import Change, Floor, Named, Noticed, Sample
from mesh.contract import PREFIX as CONTRACTS
from mesh.local_sidecar import BOOTSTRAP_OPTION
from mesh.policy import DEFAULT_TIMEOUT_SECONDS
from mesh.policy import PREFIX as CONFIGS
from mesh.recovery import now
from mesh.registry import MESH_TAG, Health, Registration, Registry, RegistrySettings, connect
from tests.fixtures.shop import xds_credentials

SAMPLES = 120
WATCHED = 100
QUIET_SECONDS = 0.1
"""An instance that got no call for so long, of calls that follow one another, is out."""

HEALTH = "/v1/health/service/bench?"


def deadline(seconds: int) -> str:
    """A service config with one deadline for all methods."""
    return json.dumps({"methodConfig": [{"name": [{"service": echo.SERVICE}], "timeout": f"{seconds}s"}]})


@dataclass
class Bench:
    """Who changes, who asks, who calls."""

    registry: Registry
    floor: Floor
    call: Any
    """Through a channel of gRPC's own: what xDS says is all that it follows."""

    policed: Any
    """Through `mesh.channel`, which has deadlines."""

    moving: int
    """Port of the instance that comes and goes."""

    elsewhere: int
    """Port of the only instance of another service, which calls are led to for a while."""

    async def instance(self) -> AsyncIterator[Named]:
        """The life of an instance: it registers, is unhealthy, is healthy again, leaves."""
        passing, failing, leaving = (
            self._reporting(*said)
            for said in ((Health.PASSING, ""), (Health.CRITICAL, "not serving"), (Health.CRITICAL, "leaving"))
        )

        reached, quiet = self._until(self.moving), self._until_quiet(self.moving)

        async def register() -> None:
            await self.registry.register(Registration(
                service="bench", id="moving", address="127.0.0.1", port=self.moving, tags=(MESH_TAG,), ttl_seconds=600,
                meta=parts.SECURED,
            ))  # fmt: skip
            await passing()

        yield "an instance registers", await self.floor.measure(register, reached, HEALTH, self._is_in)
        yield "an instance is unhealthy", await self.floor.measure(failing, quiet, HEALTH, self._is_out)
        yield "an instance is healthy again", await self.floor.measure(passing, reached, HEALTH, self._is_in)
        yield "an instance leaves", await self.floor.measure(leaving, quiet, HEALTH, self._is_out)
        await self.registry.deregister("moving")

    async def policy(self) -> AsyncIterator[Named]:
        """Another deadline from each place where it may be said, the weakest first, and another target; then none."""
        async def contract() -> None:
            await self.registry.put(f"{CONTRACTS}bench", echo.contract(deadline(100)).serialize())

        async def config() -> None:
            await self.registry.put(f"{CONFIGS}bench", deadline(200).encode())

        async def router() -> None:
            routes = [{"Destination": {"RequestTimeout": "300s"}}]
            await self.floor.write({"Kind": "service-router", "Name": "bench", "Routes": routes})

        async def redirect() -> None:
            await self.floor.write({"Kind": "service-resolver", "Name": "bench", "Redirect": {"Service": "elsewhere"}})

        kv, entries = "/v1/kv/{}?recurse=1", "/v1/config/service-{}?"
        yield "the contract changes", await self.floor.measure(contract, self._until_left(100), kv.format(CONTRACTS))
        yield "a service config in KV", await self.floor.measure(config, self._until_left(200), kv.format(CONFIGS))
        yield "a config entry", await self.floor.measure(router, self._until_left(300), entries.format("router"))
        yield "a redirect", await self.floor.measure(redirect, self._until(self.elsewhere), entries.format("resolver"))
        await self._forget_policy()

    async def prepare(self) -> None:
        """Tell Consul that it may take routers and redirects, and wait for the first call."""
        for name in ("bench", "elsewhere"):
            await self.floor.write({"Kind": "service-defaults", "Name": name, "Protocol": "grpc"})
        await self.call(echo.WHO, wait_for_ready=True, timeout=30)

    async def _forget_policy(self) -> None:
        for kind in ("router", "resolver"):
            await self.floor.ask("DELETE", f"/v1/config/service-{kind}/bench")
        await self.floor.ask("DELETE", f"/v1/kv/{CONFIGS}bench")
        await self.registry.put(f"{CONTRACTS}bench", echo.contract().serialize())
        await self._until_left(DEFAULT_TIMEOUT_SECONDS)()
        await self._until_quiet(self.elsewhere)()

    def _is_in(self, found: Any) -> bool:
        checks = [one["Checks"] for one in found if one["Service"]["ID"] == "moving"]
        return bool(checks) and all(check["Status"] == "passing" for check in checks[0])

    def _is_out(self, found: Any) -> bool:
        return not self._is_in(found)

    def _reporting(self, health: Health, output: str) -> Change:
        return lambda: self.registry.report("moving", health, output)

    def _until(self, port: int) -> Noticed:
        """The first call that a server answers."""
        async def affected() -> float:
            while int(await self.call(echo.WHO)) != port:
                pass
            return now()

        return affected

    def _until_quiet(self, port: int) -> Noticed:
        """The last call that it answers."""
        async def affected() -> float:
            last = now()
            while now() - last < QUIET_SECONDS:
                if int(await self.call(echo.WHO)) == port:
                    last = now()
            return last

        return affected

    def _until_left(self, seconds: float) -> Noticed:
        """The first call with so much time left."""
        async def affected() -> float:
            while abs(float(await self.policed(echo.LEFT)) - seconds) > 2:
                pass
            return now()

        return affected


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/tmp") as name, ExitStack() as stack:
        folder = Path(name)
        consul = stack.enter_context(parts.registry(folder))
        _, paths = stack.enter_context(parts.sidecar(folder, consul, mtls=True))
        fixed, moving, elsewhere = (
            stack.enter_context(parts.secured_backend(folder, consul, paths, name, service))
            for name, service in (("fixed", "bench"), ("moving", "bench"), ("elsewhere", "elsewhere"))
        )
        plain = stack.enter_context(parts.backend(folder, "plain"))[1]
        settings = parts.published(consul, "bench", [fixed], meta=parts.SECURED)
        parts.published(consul, "elsewhere", [elsewhere], meta=parts.SECURED)
        parts.published(consul, "plain", [plain], contract=echo.contract(service=echo.PLAIN))
        edge = stack.enter_context(parts.edge(folder / "edge", consul.address, MESH_MTLS="true"))
        places = Places(settings, paths.bootstrap.read_text(), moving, elsewhere, edge.port)
        samples = asyncio.run(_all(places))
    print(f"{WATCHED} services watched, {SAMPLES} samples of each, mutual TLS; registry: {consul.name}")
    heads = ("", "floor p50", "p99", "first call p50", "p99", "above the floor p50", "p99")
    print(table(heads, (_row(name, taken) for name, taken in samples.items())))


@dataclass(frozen=True)
class Places:
    """Where all that runs is."""

    registry: RegistrySettings
    bootstrap: str
    moving: int
    elsewhere: int
    edge: int


async def _all(places: Places) -> Mapping[str, list[Sample]]:
    async with AsyncExitStack() as stack:
        registry = await stack.enter_async_context(connect(places.registry))
        http = await stack.enter_async_context(aiohttp.ClientSession())
        option = [(BOOTSTRAP_OPTION, places.bootstrap)]
        for number in range(WATCHED - 2):
            idle = await stack.enter_async_context(grpc.aio.insecure_channel(f"xds:///idle-{number}", option))
            idle.get_state(try_to_connect=True)
        secured = grpc.aio.secure_channel("xds:///bench", xds_credentials(), option)
        bare: Any = await stack.enter_async_context(secured)
        ours = await stack.enter_async_context(mesh.channel("bench", mesh.Settings(bootstrap=places.bootstrap)))
        edge: Any = await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{places.edge}"))
        unary, floor = echo.path("Unary"), Floor(http, places.registry.address)
        calls = bare.unary_unary(unary), ours.unary_unary(unary)
        bench = Bench(registry, floor, *calls, places.moving, places.elsewhere)
        await bench.prepare()
        await permit(registry, edge)
        return await _samples(bench, Intended(floor, bare, edge))


async def permit(registry: Registry, edge: Any) -> None:
    """Have the gateway call the service in plaintext, and wait for the first call."""
    await registry.put(f"{CONFIGS}plain", b'{"mutualTlsMode": "permissive"}')
    async with asyncio.timeout(30):
        while True:
            with suppress(grpc.aio.AioRpcError):
                await edge.unary_unary(echo.path("Unary", echo.PLAIN))(b"x", timeout=5)
                return
            await asyncio.sleep(0.05)


async def _samples(bench: Bench, intended: Intended) -> Mapping[str, list[Sample]]:
    samples = defaultdict[str, list[Sample]](list)
    for _ in range(SAMPLES):
        for changes in (bench.instance(), bench.policy(), intended.samples()):
            async for name, sample in changes:
                samples[name].append(sample)
    return samples


def _row(name: str, samples: Sequence[Sample]) -> Sequence[object]:
    columns = [floor for floor, _ in samples], [call for _, call in samples], [call - floor for floor, call in samples]
    return name, *(milliseconds(quantile(column, share)) for column in columns for share in (0.5, 0.99))


if __name__ == "__main__":
    main()
