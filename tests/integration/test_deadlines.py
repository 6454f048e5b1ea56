"""Deadlines that `mesh.channel` applies: those of a real sidecar's policy, from the first call on and never early."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

import mesh
from mesh.bootstrap import bootstrap
from mesh.recovery import now
from mesh.registry import RegistrySettings
from mesh.told import PATIENCE_SECONDS
from meshwright.sidecar.v1 import sidecar_service_pb2 as pb
from tests.fixtures.consul import RegistryProcess
from tests.fixtures.echo import SERVICE, path, served, unary_stream, unary_unary
from tests.fixtures.operator import Operator, operator_of
from tests.fixtures.shop import Host, host, joined

pytestmark = pytest.mark.timeout(60)

LIMITS = (0.05, 0.5, 3.0)
HANG, OPEN = ({limit: f"{what}{limit * 1000:.0f}" for limit in LIMITS} for what in ("Hang", "Open"))


async def left(request: bytes, context: Any) -> bytes:
    return repr(context.time_remaining()).encode()


async def left_stream(request: bytes, context: Any) -> AsyncIterator[bytes]:
    yield repr(context.time_remaining()).encode()


async def hang(request: bytes, context: Any) -> bytes:
    await asyncio.sleep(60)
    return b""


async def stay_open(request: bytes, context: Any) -> AsyncIterator[bytes]:
    yield b""
    await asyncio.sleep(60)


UNARY = {"Left": left, "Other": left, **dict.fromkeys(HANG.values(), hang)}
STREAMS = {
    **dict.fromkeys(("Stream", "OtherStream", "Unpublished"), left_stream), **dict.fromkeys(OPEN.values(), stay_open)
}  # fmt: skip


def descriptors() -> bytes:
    package, _, name = SERVICE.rpartition(".")
    file = FileDescriptorProto(name="echo.proto", package=package)
    file.message_type.add(name="Any")
    service = file.service.add(name=name)
    for method in (*UNARY, *(STREAMS.keys() - {"Unpublished"})):
        made = service.method.add(name=method, input_type=f".{package}.Any", output_type=f".{package}.Any")
        made.server_streaming = method in STREAMS
    return FileDescriptorSet(file=[file]).SerializeToString()


METHODS = {
    **{name: unary_unary(behaviour) for name, behaviour in UNARY.items()},
    **{name: unary_stream(behaviour) for name, behaviour in STREAMS.items()},
}


def offer(server: mesh.Server) -> None:
    """Have a server serve all methods."""
    server.add_registered_method_handlers(SERVICE, METHODS)


@asynccontextmanager
async def listening() -> AsyncIterator[mesh.Server]:
    """A server of all methods; who is on no mesh yet."""
    async with served(METHODS, host="127.0.0.1") as server:
        yield server


async def join(made: Host, service: str, server: mesh.Server) -> Any:
    """Its stream to a sidecar, once it serves."""
    return await joined(made, pb.Workload(
        service=service, id=service, address="127.0.0.1", port=server.port, descriptors=descriptors()
    ))  # fmt: skip


async def be(made: Host, operator: Operator, service: str, for_all: float | None = None, **seconds: float) -> None:
    """Set the deadlines of some methods, and of all others, and wait until the sidecar tells of them."""
    named = [
        {"name": [{"service": SERVICE, "method": name}], "timeout": f"{value}s"} for name, value in seconds.items()
    ]
    others = [{"name": [{}], "timeout": f"{for_all}s"}] if for_all else []
    await operator.config(service, methodConfig=named + others)
    told: Any = made.stub.WatchPolicy(pb.WatchPolicyRequest(service=service))
    async for policy in told:
        found = {method.path: method.timeout.ToMilliseconds() / 1000 for method in policy.methods}
        if all(found.get(path(name)) == value for name, value in seconds.items()):
            break
    told.cancel()


async def budget(channel: mesh.Channel, method: str) -> float | None:
    """What a method sees of the deadline when a call arrives; None for no deadline."""
    if method in STREAMS:
        (answer,) = [each async for each in channel.unary_stream(path(method))(b"")]
    else:
        answer = await channel.unary_unary(path(method))(b"")
    return None if answer == b"None" else float(answer)


def is_near(seen: float | None, seconds: float) -> bool:
    """Whether this is what is left of so many seconds, give or take."""
    return seen is not None and seconds * 0.6 < seen < seconds + 0.1


async def until(channel: mesh.Channel, method: str, seconds: float) -> None:
    """Call until a method sees a deadline, give or take."""
    while not is_near(await budget(channel, method), seconds):  # noqa: ASYNC110 (the answer is on the other side of a network)
        await asyncio.sleep(0.01)


async def test_the_first_call_has_the_deadline_of_the_policy_and_other_streams_none(
    dev_host: Host, operator: Operator, service: str
) -> None:
    settings = mesh.Settings(bootstrap=dev_host.bootstrap.read_text())
    async with dev_host.serving(service, offer, descriptors=descriptors()):
        await be(dev_host, operator, service, Left=20, Stream=20)
        for method in ("Left", "Stream") * 3:
            async with mesh.channel(service, settings) as channel:
                assert is_near(await budget(channel, method), 20)
                assert await budget(channel, "OtherStream") is None
        await be(dev_host, operator, service, for_all=100, Left=30)
        async with mesh.channel(service, settings) as channel:
            assert is_near(await budget(channel, "Unpublished"), 100)


async def test_no_deadline_of_the_policy_fires_early(dev_host: Host, operator: Operator, service: str) -> None:
    """gRPC's own do, always (grpc/grpc#34547)."""
    settings = mesh.Settings(bootstrap=dev_host.bootstrap.read_text())
    named = {name: limit for names in (HANG, OPEN) for limit, name in names.items()}
    async with dev_host.serving(service, offer, descriptors=descriptors()):
        await be(dev_host, operator, service, **named)
        async with mesh.channel(service, settings) as channel:
            limits = [limit for limit in named.values() for _ in range(10)]
            took = await asyncio.gather(*(_seconds(channel, name) for name in named for _ in range(10)))
    late = [seconds - limit for seconds, limit in zip(took, limits, strict=True)]
    assert min(late) >= 0
    assert max(late) < 10


async def _seconds(channel: mesh.Channel, name: str) -> float:
    """How long a call takes that is ended by its deadline."""
    begun = now()
    call = (channel.unary_stream if name in STREAMS else channel.unary_unary)(path(name))(b"")
    assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    return now() - begun


async def test_deadlines_follow_live_and_outlive_the_sidecar(
    dev_registry: RegistryProcess, short_tmp: Path, service: str
) -> None:
    settings = mesh.Settings(bootstrap=bootstrap(short_tmp / "sidecar.sock", node_id="test"))
    async with (
        listening() as server, mesh.channel(service, settings, target=server.address) as channel,
        operator_of(RegistrySettings(address=dev_registry.address)) as operator, asyncio.timeout(50),
    ):  # fmt: skip
        assert is_near(await budget(channel, "Left"), 5)
        for seconds in (20, 40):
            async with host(short_tmp, dev_registry.address, mtls=False) as made:
                await join(made, service, server)
                await be(made, operator, service, Left=seconds)
                await until(channel, "Left", seconds)
                assert is_near(await budget(channel, "Other"), 5)
                await be(made, operator, service, Left=seconds / 2)
                await until(channel, "Left", seconds / 2)
            await until(channel, "Left", seconds / 2)


async def test_a_channel_opens_at_once_for_a_service_that_nobody_knows(dev_host: Host, service: str) -> None:
    begun = now()
    async with mesh.channel(service, mesh.Settings(bootstrap=dev_host.bootstrap.read_text())):
        assert now() - begun < PATIENCE_SECONDS


async def test_a_channel_opens_without_a_sidecar_too_and_says_so_once(
    short_tmp: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = mesh.Settings(bootstrap=bootstrap(short_tmp / "away", node_id="test"))
    with caplog.at_level(logging.WARNING, "mesh.client"):
        async with asyncio.timeout(20), mesh.channel("echo", settings):
            pass
    assert [record.message.partition(":")[2] for record in caplog.records] == [
        f"{short_tmp}/away does not tell the policy of echo: default deadlines hold until it does"
    ]


async def test_nothing_is_left_of_a_channel_that_was_cancelled_while_it_opened(short_tmp: Path) -> None:
    before = asyncio.all_tasks()
    channel = mesh.channel("echo", mesh.Settings(bootstrap=bootstrap(short_tmp / "away", node_id="test")))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05), channel:
            raise AssertionError("it opened")
    assert not [task for task in asyncio.all_tasks() - before if "policy" in task.get_name()]
