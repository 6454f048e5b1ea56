"""Losing any part of a stack under load loses no call, and what was lost comes back by itself."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import suppress

import aiohttp
import grpc
import pytest

import mesh
from mesh.scope import Scope
from mesh.up import client
from meshwright.launcher.v1 import launcher_service_pb2 as pb
from tests.faults.conftest import RATE, Site, Watch, until
from tests.faults.load import DEADLINE_SECONDS, SLACK_SECONDS, Path, proxyless, rest
from tests.faults.observer import envoy

pytestmark = pytest.mark.timeout(240)

AWAY_SECONDS = 30


async def no_call_failed(watch: Watch) -> None:
    """Ends the load: all went well, also a while after the last event."""
    await watch.load.more(2 * RATE)
    await watch.load.end()
    assert watch.load.failures == []


async def test_kill_of_an_instance(watch: Watch) -> None:
    killed = await watch.site.kill("order-1")
    took = await watch.until_dropped(killed.address, seconds=5)
    await watch.until_settled()
    await no_call_failed(watch)
    assert took <= 1.0


async def test_an_instance_that_hangs(watch: Watch) -> None:
    """The edge sends such calls to another instance as well. gRPC knows no time limit for one attempt of a call: what
    a proxyless client sent to the instance before that was out of rotation ends at its deadline, and never later.
    """
    stopped = await watch.site.kill("order-1", signal.SIGSTOP)
    try:
        took = await watch.until_dropped(stopped.address, seconds=10)
        await watch.load.more(int(RATE * (DEADLINE_SECONDS + SLACK_SECONDS)))
    finally:
        os.kill(stopped.pid, signal.SIGCONT)
    await watch.until_settled()
    await watch.load.more(2 * RATE)
    await watch.load.end()
    retries = await watch.envoy.retries()
    assert took <= 5.0
    assert watch.load.failed("gateway") == [], retries
    hung = watch.load.failed("proxyless")
    assert {failure["error"] for failure in hung} <= {"DEADLINE_EXCEEDED: Deadline Exceeded"}
    assert len(hung) <= RATE / 2 * (took + 1), "no more than its half of the calls until a moment after it was out"
    slowest = max(path["slowest_seconds"] for path in watch.load.totals.value.values())
    assert slowest <= DEADLINE_SECONDS + SLACK_SECONDS


async def test_an_instance_that_hangs_before_the_edge_is_connected_to_it(site: Site) -> None:
    """The system takes the connection, and the handshake that calls wait for never comes: they go elsewhere."""
    await client.restart(site.paths, "envoy")
    await site.until_all_ready()
    stopped = await site.kill("order-1", signal.SIGSTOP)
    try:
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
            envoy(site.paths.envoy_admin_socket) as edge,
        ):
            path = Path("gateway", rest(session, site.stack.gateway_port))

            async def has_had_enough() -> bool:
                return path.done > 2 * RATE

            async with Scope() as scope:
                scope.start(path.keep(RATE / 2))
                await until(has_had_enough, seconds=60)
            await asyncio.gather(*path.running)
            counted = await edge.retries()
    finally:
        os.kill(stopped.pid, signal.SIGCONT)
    await site.until_all_ready()
    assert counted["cluster.order.upstream_cx_connect_timeout"] > 0
    assert path.failed == 0, counted


async def test_the_registry_is_away_and_comes_back_empty(watch: Watch) -> None:
    before, pushes = await watch.held(), await watch.pushes()
    await registry_away(watch.site)
    assert await watch.held() == before
    assert await watch.pushed_since(pushes) == {}

    async def is_registered() -> bool:
        with suppress(mesh.Error):
            return await watch.site.registered("order") == await watch.site.orders()
        return False

    await until(is_registered, seconds=60)
    await watch.until_settled()
    await no_call_failed(watch)
    assert await watch.held() == before
    assert await watch.pushed_since(pushes) == {}


async def registry_away(site: Site) -> None:
    """Consul is killed, and started after a while; the dev registry is killed again whenever it was started."""
    if site.consul:
        site.consul.kill()
        await asyncio.sleep(AWAY_SECONDS)
        await asyncio.to_thread(site.consul.start)
        return
    until_when = time.monotonic() + AWAY_SECONDS
    while time.monotonic() < until_when:
        if pid := (await site.processes())["registry"].pid:
            os.kill(pid, signal.SIGKILL)
        await asyncio.sleep(0.02)


async def test_kill_of_the_sidecar(watch: Watch) -> None:
    before, pushes, streams = await watch.held(), await watch.pushes(), watch.client.streams
    await watch.site.kill("sidecar")

    async def is_back() -> bool:
        return watch.client.streams > streams

    await until(is_back, seconds=30)
    await watch.until_settled()
    await no_call_failed(watch)
    assert await watch.held() == before
    assert await watch.pushed_since(pushes) == {}


async def test_kill_of_the_gateways_control_process(watch: Watch) -> None:
    pushes = await watch.pushes()
    before = await watch.site.kill("gateway")

    async def is_back() -> bool:
        return (await watch.site.processes())["gateway"].pid not in (0, before.pid)

    await until(is_back, seconds=30)
    await watch.until_settled()
    await no_call_failed(watch)
    assert await watch.pushed_since(pushes) == {}


async def test_kill_of_envoy(watch: Watch) -> None:
    killed = await watch.site.kill("envoy")
    began, at = time.monotonic(), time.time()
    done = watch.load.totals.value["gateway"]["done"] - watch.load.totals.value["gateway"]["failed"]

    async def answers() -> bool:
        totals = watch.load.totals.value["gateway"]
        is_new = (await watch.site.processes())["envoy"].pid not in (0, killed.pid)
        return bool(is_new and totals["done"] - totals["failed"] > done + RATE // 10)

    await until(answers, seconds=20)
    took = time.monotonic() - began
    await watch.until_settled()
    await watch.load.more(2 * RATE)
    await watch.load.end()
    assert watch.load.failed("proxyless") == []
    failed = watch.load.failed("gateway")
    print(f"{took=} {len(failed)=}", max((f["at"] - at for f in failed), default=0))
    assert took <= 2.0
    assert all(failure["at"] - at <= 2.0 for failure in failed)


async def test_a_restart_of_everything(watch: Watch) -> None:
    """Also the calls of a gRPC client of the edge, over HTTP/2."""
    edge = f"127.0.0.1:{watch.site.stack.gateway_port}"
    async with grpc.aio.insecure_channel(edge) as channel, Scope() as scope:
        path = Path("edge over HTTP/2", proxyless(channel))
        scope.start(path.keep(RATE))
        surged = [name for name in await watch.site.processes() if (await restart(watch, name)).surged]
        await watch.until_settled()
        await no_call_failed(watch)
        assert (path.failed, path.done > RATE) == (0, True)
    assert surged == ["gateway", "envoy", "sync-1", "sync-2", "order-1", "order-2", "status-1", "status-2"]


async def restart(watch: Watch, name: str) -> pb.RestartProcessResponse:
    """Restart one; returns when the registry knows all instances, which a new one is told of within 5 s."""

    async def all_are_registered() -> bool:
        return await watch.site.registered("order") == await watch.site.orders()

    began = time.monotonic()
    answer = await client.restart(watch.site.paths, name)
    await until(all_are_registered, seconds=30)
    print(f"{name}: {time.monotonic() - began:.1f} s, {len(watch.load.failures)} failures so far")
    return answer
