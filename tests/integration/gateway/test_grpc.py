"""gRPC through a real Envoy: calls, streams, refusals that stay gRPC, and merged reflection."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

from mesh.contract import Contract
from mesh.load import REPORT_KEY
from tests.fixtures.echo import dialled, path, served, unary_unary
from tests.integration.gateway.harness import Edge
from tests.integration.gateway.probe import SERVICE, Probe, contract

PROBE = Probe("caller")
NOT_YET = (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.UNAVAILABLE)
"""What the edge says of a service that it knows nothing of, or only the contract."""
GRPCURL = str(Path(sys.executable).parent / "grpcurl")


@pytest.fixture
async def channel(edge: Edge) -> AsyncIterator[grpc.aio.Channel]:
    """A plain channel to the edge."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{edge.port}") as made:
        yield made


def unary(channel: grpc.aio.Channel, path: str) -> Any:
    return channel.unary_unary(
        path,
        request_serializer=PROBE.message("GetThingRequest").SerializeToString,
        response_deserializer=PROBE.message("Thing").FromString,
    )


def request(name: str) -> Any:
    return PROBE.message("GetThingRequest")(id=name)


async def failure(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


def grpcurl(*arguments: str) -> Sequence[str]:
    done = subprocess.run([GRPCURL, "-plaintext", *arguments], capture_output=True, text=True, check=True, timeout=30)
    return done.stdout.split()


async def test_a_call_reaches_both_instances(channel: grpc.aio.Channel) -> None:
    get = unary(channel, f"/{SERVICE}/GetThing")
    async with asyncio.timeout(20):
        seen = {(await get(request("a"))).metadata["instance"] for _ in range(20)}
    assert seen == {"probe-1", "probe-2"}


async def test_an_error_of_a_service_arrives_whole(channel: grpc.aio.Channel) -> None:
    error = await failure(unary(channel, f"/{SERVICE}/GetThing")(request("missing")))
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert error.details() == 'thing "missing"\ndoes not exist: é'
    trailers = error.trailing_metadata()
    assert trailers is not None
    assert b"THING_NOT_FOUND" in dict(trailers)["grpc-status-details-bin"]


async def test_a_call_past_the_policys_deadline_is_ended(channel: grpc.aio.Channel) -> None:
    error = await failure(unary(channel, f"/{SERVICE}/GetThing")(request("slow"), timeout=15))
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_an_unknown_service_is_unimplemented_in_words(channel: grpc.aio.Channel) -> None:
    error = await failure(unary(channel, "/nope.v1.Nope/Get")(request("a")))
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    assert error.details() == "nothing on the mesh answers to /nope.v1.Nope/Get"


async def test_a_long_client_stream_is_passed_on_as_it_comes(channel: grpc.aio.Channel) -> None:
    thing = PROBE.message("Thing")
    load = channel.stream_unary(
        f"/{SERVICE}/ImportThings", request_serializer=thing.SerializeToString, response_deserializer=thing.FromString
    )
    answer = await load(iter([thing(note="x" * 1_000_000) for _ in range(8)]))  # more than the limit of REST bodies
    assert (answer.quantity, answer.big_number) == (8, 8_000_000)


@pytest.mark.parametrize(("method", "thing"), [("GetThing", "a"), ("GetThing", "plain"), ("WatchThing", "a")])
def test_what_an_instance_says_of_its_load_stays_within(edge: Edge, tmp_path: Path, method: str, thing: str) -> None:
    protoset = tmp_path / "probe.binpb"
    protoset.write_bytes(FileDescriptorSet(file=contract().files).SerializeToString())
    straight, through = [said_to_go(protoset, port, method, thing) for port in (edge.ports[0], edge.port)]
    assert f"{REPORT_KEY}: " in straight
    assert "Response trailers received:" in through
    assert REPORT_KEY not in through


def said_to_go(protoset: Path, port: int, method: str, thing: str) -> str:
    """All that a client in Go is told, trailers included; C-core keeps them to itself."""
    command = [GRPCURL, "-v", "-plaintext", "-d", f'{{"id":"{thing}"}}', "-protoset", str(protoset),
               f"127.0.0.1:{port}", f"{SERVICE}/{method}"]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30).stdout


def test_reflection_lists_every_service_of_the_mesh(edge: Edge) -> None:
    address = f"127.0.0.1:{edge.port}"
    assert SERVICE in grpcurl(address, "list")
    assert f"{SERVICE}.WatchThing" in grpcurl(address, "list", SERVICE)


def test_a_call_may_be_made_by_reflection_alone(edge: Edge) -> None:
    said = grpcurl("-d", '{"id":"a"}', f"127.0.0.1:{edge.port}", f"{SERVICE}/GetThing")
    assert '"id":' in said


async def test_a_deadline_at_the_edge_stops_every_hop_behind_it(edge: Edge, channel: grpc.aio.Channel) -> None:
    budgets: list[float] = []
    stopped = asyncio.Event()

    async def last(request: bytes, context: Any) -> bytes:
        budgets.append(context.time_remaining())
        try:
            await asyncio.sleep(60)
        finally:
            stopped.set()
        return b""

    async with asyncio.timeout(30), served({"It": unary_unary(last)}) as far, dialled(far) as onward:

        async def hop(request: bytes, context: Any) -> bytes:
            budgets.append(context.time_remaining())
            answer: bytes = await onward.unary_unary(path("It"))(request)
            return answer

        async with served({"It": unary_unary(hop)}) as near:
            await asyncio.to_thread(edge.join, "echo", "echo-1", near.port, echo_contract('"0.5s"'))
            call: Any = channel.unary_unary(path("It"))
            while (error := await failure(call(b""))).code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                assert error.code() is grpc.StatusCode.UNIMPLEMENTED, "until the edge knows it"
            await stopped.wait()
            await asyncio.to_thread(edge.leave, "echo-1")
    near_budget, far_budget = budgets
    assert 0 < near_budget <= 0.5
    assert 0 < far_budget <= near_budget + ROUNDING_SECONDS


ROUNDING_SECONDS = 0.01
"""What gRPC may add to a deadline, as it writes at most three digits of one and rounds up."""


def echo_contract(timeout: str) -> Contract:
    """The contract of the service that `served` serves, with a deadline for its methods."""
    service, _, method = path("It").strip("/").partition("/")
    package, _, name = service.rpartition(".")
    file = FileDescriptorProto(name="echo.proto", package=package)
    file.message_type.add(name="Any")
    file.service.add(name=name).method.add(name=method, input_type=f".{package}.Any", output_type=f".{package}.Any")
    config = f'{{"methodConfig": [{{"name": [{{"service": "{service}"}}], "timeout": {timeout}}}]}}'
    return Contract.of([service], [file], config)
