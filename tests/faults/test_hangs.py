"""Whatever hangs, the console and the alert name the cause, and callers get their answers elsewhere.

By a real Prometheus and a real Alertmanager whose times are shorter, as in test_alerts.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue

import mesh
from mesh import identity_files
from mesh.ports import free_port
from mesh.registry import MESH_TAG, Health, Registration, RegistrySettings, connect
from mesh.registry.model import MUTUAL_TLS, TLS_META
from tests.e2e.conftest import ROOT, Stack, stack_in
from tests.faults.conftest import until
from tests.fixtures.monitoring import Monitoring, monitored
from tests.fixtures.programs import hanging
from tests.fixtures.shop import eventually
from tests.fixtures.tcp_path import tcp_path

pytestmark = pytest.mark.timeout(400)

TIMES_FASTER = 30
DEADLINE_SECONDS = 10.0
"""Of each call."""

RATE = 20
"""Calls in a second on each of the two paths."""

MUCH = "x" * 50_000
"""More than the end of a swallowed path takes in, and acknowledges, while nobody reads there."""

BACK_SECONDS = 150.0
"""How long an instance that goes on may get no calls: Envoy may have ejected it meanwhile, for longer each time."""

SLACK_SECONDS = 3.0
"""How late this program itself may be, on a machine with other work."""

MESH = """
[stores]
postgres = true
valkey = false

[services.hanging]
command = ["python", "-m", "tests.fixtures.programs.hanging"]
replicas = 2
descriptors = "hanging.binpb"
service_config = "config.json"
"""
CONFIG = """
{"methodConfig": [{
  "name": [{"service": "hanging.v1.Hanging"}],
  "timeout": "10s",
  "retryPolicy": {"maxAttempts": 3, "initialBackoff": "0.05s", "maxBackoff": "0.5s", "backoffMultiplier": 2,
                  "retryableStatusCodes": ["UNAVAILABLE"]}
}]}
"""


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """Two instances of a program that hangs when it is told to."""
    with tempfile.TemporaryDirectory(prefix="mesh-hangs-") as name, ExitStack() as ending:
        folder = Path(name)
        (folder / "mesh.toml").write_text(MESH)
        (folder / "config.json").write_text(CONFIG)
        (folder / "hanging.binpb").write_bytes(hanging.descriptors())
        made = replace(stack_in(folder / "state", None), folder=folder)
        made.environ["PYTHONPATH"] = str(ROOT)
        ending.callback(made.mesh, "down", check=False)
        made.up()
        yield made


@pytest.fixture(scope="module")
def monitoring(stack: Stack) -> Iterator[Monitoring]:
    """That watches the stack, and has seen both instances."""
    with monitored(stack.paths.run, stack.state, times_faster=TIMES_FASTER) as made:
        eventually(lambda: len(made.ask('up{job="hanging"} == 1')) == 2)
        yield made


@dataclass(frozen=True)
class Failure:
    """One call."""

    began: float
    """By the monotonic clock."""
    seconds: float
    why: str


@dataclass
class Calls:
    """Calls of Echo, which may be sent again, on one path to it."""

    ask: Callable[[], Awaitable[str]]
    """One call; the port of the instance that answered."""

    answers: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)
    ended: bool = False

    async def run(self) -> None:
        """Until it is ended, and all calls are."""
        async with asyncio.TaskGroup() as calls:
            while not self.ended:
                calls.create_task(self._one())
                await asyncio.sleep(1 / RATE)

    async def _one(self) -> None:
        began = time.monotonic()
        try:
            self.answers[await self.ask()] += 1
        except (grpc.aio.AioRpcError, aiohttp.ClientError) as error:
            self.failures.append(Failure(began, time.monotonic() - began, repr(error)))

    async def from_all(self, *ports: str) -> None:
        """Until each of these has answered once more, and some more calls were."""
        before = self.answers.copy()

        async def have() -> bool:
            return all((self.answers - before)[port] for port in ports) and (self.answers - before).total() >= RATE

        await until(have, seconds=BACK_SECONDS)


@dataclass(frozen=True)
class Callers:
    """Both paths."""

    channel: Calls
    rest: Calls

    async def from_all(self, *ports: str) -> None:
        """As of `Calls`, on both."""
        await asyncio.gather(self.channel.from_all(*ports), self.rest.from_all(*ports))

    def prove_within_deadlines(self, hung_at: float, out_at: float) -> None:
        """The gateway lost nothing; past it, what an instance had taken before it was out ended at its deadline.

        That is no more than its half of the calls until a moment after it was out.
        """
        assert self.rest.failures == []
        assert len(self.channel.failures) <= RATE / 2 * (out_at - hung_at + 1)
        for failure in self.channel.failures:
            assert "DEADLINE_EXCEEDED" in failure.why
            assert failure.seconds < DEADLINE_SECONDS + SLACK_SECONDS
            assert failure.began < out_at + SLACK_SECONDS


@asynccontextmanager
async def calling(stack: Stack) -> AsyncIterator[Callers]:
    """Calls all the while, which both instances answer at first."""
    settings = mesh.Settings(bootstrap=stack.paths.bootstrap.read_text())
    gateway = f"http://localhost:{stack.gateway_port}"
    async with (
        mesh.channel("hanging", settings) as channel,
        aiohttp.ClientSession(gateway, connector=aiohttp.TCPConnector(limit=0)) as session,
    ):
        echo = channel.unary_unary(
            f"/{hanging.SERVICE}/Echo", request_serializer=StringValue.SerializeToString,
            response_deserializer=StringValue.FromString,
        )  # fmt: skip

        async def by_channel() -> str:
            answer: StringValue = await echo(StringValue(value=MUCH), timeout=DEADLINE_SECONDS)
            return answer.value

        async def by_rest() -> str:
            async with session.get("/v1/hanging/echo/x", raise_for_status=True) as answer:
                port: str = await answer.json()
                return port

        callers = Callers(Calls(by_channel), Calls(by_rest))
        async with asyncio.TaskGroup() as group:
            for calls in (callers.channel, callers.rest):
                group.create_task(calls.run())
            await callers.from_all(*ports(stack))
            yield callers
            callers.channel.ended = callers.rest.ended = True


def ports(stack: Stack) -> list[str]:
    """Where the two instances listen."""
    return [place.rpartition(":")[2] for place in (stack.processes()[f"hanging-{n}"]["address"] for n in (1, 2))]


@pytest.mark.parametrize("method", ["Sleep", "Query"])
async def test_a_call_that_keeps_the_event_loop_for_itself(stack: Stack, monitoring: Monitoring, method: str) -> None:
    code = f"Hanging.{method.lower()} ({hanging.__file__}:"
    async with calling(stack) as callers:
        hung_at = time.monotonic()
        holding = asyncio.create_task(asyncio.to_thread(stack.curl_text, f"/v1/hanging/{method.lower()}/600"))
        held = await finding(stack, f" s by {code}")
        name, _, rest = held["text"].partition(" (pid ")
        assert held["remedy"].startswith(f"mesh stack {name}  #")
        out_at = await until_critical(stack, name)
        path, alert = await asyncio.to_thread(monitoring.hook.alert, "LoopBlocked", "firing")
        assert (path, alert["labels"]["job"]) == ("/page", "hanging")
        assert f" s by {code}" in (await ordered(stack, alert)).partition("\n")[0]
        os.kill(int(rest.partition(")")[0]), signal.SIGUSR1)
        await holding
        await callers.from_all(*ports(stack))
    callers.prove_within_deadlines(hung_at, out_at)
    assert (await stall(stack, method))["by"].startswith(code)
    await asyncio.to_thread(monitoring.hook.alert, "LoopBlocked", "resolved")


async def test_a_process_that_is_stopped(stack: Stack, monitoring: Monitoring) -> None:
    process = stack.processes()["hanging-1"]
    async with calling(stack) as callers:
        hung_at = time.monotonic()
        with stopped(process["pid"]):
            out_at = await until_critical(stack, "hanging-1")
            found = await finding(stack, f"hanging-1 (pid {process['pid']}) is stopped by a signal")
            assert found["remedy"] == f"kill -CONT {process['pid']}"
            assert "stopped by a signal" in stack.processes()["hanging-1"]["note"]
            path, alert = await asyncio.to_thread(monitoring.hook.alert, "InstanceDown", "firing")
            assert (path, alert["labels"]["job"]) == ("/page", "hanging")
            assert f"`kill -CONT {process['pid']}`" in await ordered(stack, alert)
        await callers.from_all(*ports(stack))
    callers.prove_within_deadlines(hung_at, out_at)
    await asyncio.to_thread(monitoring.hook.alert, "InstanceDown", "resolved")


async def test_a_path_that_swallows_packets(stack: Stack, monitoring: Monitoring) -> None:
    """To an instance of another host, whose own sidecar finds it well."""
    registry = RegistrySettings(address=f"http://127.0.0.1:{stack.flags[3]}")
    with program(stack) as port:
        async with tcp_path(port) as path, connect(registry) as there, calling(stack) as callers:
            await there.register(Registration(
                service="hanging", id="far", address="127.0.0.1", port=path.port, tags=(MESH_TAG,), ttl_seconds=600,
                meta={TLS_META: MUTUAL_TLS},
            ))  # fmt: skip
            await there.report("far", Health.PASSING)
            await callers.from_all(*ports(stack), str(port))
            await path.swallow()
            found = await finding(stack, f"Envoy cannot connect to hanging at 127.0.0.1:{path.port}")
            assert found["remedy"].startswith(f"nc -vz -w 5 127.0.0.1 {path.port}")
            to, alert = await asyncio.to_thread(monitoring.hook.alert, "InstanceUnreachable", "firing")
            assert (to, alert["labels"]["address"]) == ("/ticket", f"127.0.0.1:{path.port}")
            await until(lambda: says(stack, alert, found["text"].partition(":")[0]), seconds=60)
            await callers.from_all(*ports(stack))
            await there.report("far", Health.CRITICAL, "leaving")
            await there.deregister("far")
    assert callers.rest.failures == callers.channel.failures == []


async def finding(stack: Stack, words: str) -> dict[str, Any]:
    """What the console shows as wrong with the mesh, as soon as it has these words."""
    found: list[dict[str, Any]] = []

    async def is_told() -> bool:
        told = (await asyncio.to_thread(stack.curl, "/console/data/mesh"))["findings"] or {"findings": []}
        found[:] = [one for one in told["findings"] if words in one["text"] and not one["passed"]]
        return found != []

    await until(is_told, seconds=60)
    return found[0]


async def until_critical(stack: Stack, name: str) -> float:
    """Until the console's map shows an instance so, with a reason; when that was."""
    address = stack.processes()[name]["address"]

    async def is_shown() -> bool:
        nodes = (await asyncio.to_thread(stack.curl, "/console/data/map"))["nodes"]
        (place,) = [one for node in nodes for one in node["instances"] if one["address"] == address]
        return bool(place["health"] == "critical" and place["note"])

    await until(is_shown, seconds=60)
    return time.monotonic()


async def stall(stack: Stack, method: str) -> dict[str, Any]:
    """What the console's page of the service shows of a call that held a loop up, and its trace has the stack."""
    found: list[dict[str, Any]] = []

    async def is_shown() -> bool:
        page = await asyncio.to_thread(stack.curl, "/console/data/services/hanging")
        found[:] = [one for one in page["stalls"] if one["method"].endswith(f"/{method}")]
        return found != []

    await until(is_shown, seconds=60)
    trace = await asyncio.to_thread(stack.curl_text, f"/api/traces/{found[0]['trace_id']}")
    assert '"event loop held up"' in trace
    assert f"  {found[0]['by']}" in trace
    return found[0]


async def ordered(stack: Stack, alert: dict[str, Any]) -> str:
    """What the command of an alert prints."""
    _, *words = shlex.split(alert["annotations"]["command"], comments=True)
    return (await asyncio.to_thread(stack.mesh, *words, check=False)).stdout


async def says(stack: Stack, alert: dict[str, Any], words: str) -> bool:
    """Whether that is among it; Envoy does not try all the time."""
    return words in await ordered(stack, alert)


@contextmanager
def stopped(process: int) -> Iterator[None]:
    """A process that is stopped."""
    os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process, signal.SIGCONT)


@contextmanager
def program(stack: Stack) -> Iterator[int]:
    """One more instance, which can prove to be one, that nobody has registered; its port."""
    port = free_port()
    environ = {
        **stack.environ, "PORT": str(port), "OTEL_TRACES_EXPORTER": "none", "OTEL_SERVICE_NAME": "hanging",
        "GRPC_XDS_BOOTSTRAP": str(stack.paths.bootstrap),
        "MESH_IDENTITY": str(identity_files.folder_of(stack.paths.identities, "hanging")),
    }  # fmt: skip
    with subprocess.Popen([sys.executable, "-m", hanging.__name__], cwd=ROOT, env=environ) as process:
        try:
            yield port
        finally:
            process.kill()
