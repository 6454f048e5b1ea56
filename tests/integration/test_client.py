"""`mesh.channel` around real calls: deadlines that go along, spans, a clean end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry import trace
from opentelemetry.trace import SpanKind

import mesh
from mesh.bootstrap import bootstrap
from mesh.policies import Policies
from mesh.scope import Scope
from tests.fixtures.echo import dialled, failure, path, served, stream_stream, stream_unary, unary_stream, unary_unary
from tests.fixtures.spans import Spans

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


pytestmark = pytest.mark.timeout(30)


async def left(request: bytes, context: Any) -> bytes:
    return repr(context.time_remaining()).encode()


async def echo(request: bytes, context: Any) -> bytes:
    return request


def seconds(answer: bytes) -> float | None:
    """What was left when the call arrived; None for no deadline."""
    return None if answer == b"None" else float(answer)


# --- the interface of grpc.aio -------------------------------------------------------------------------------


async def test_requests_that_stream_are_given_as_in_grpc_by_name_and_by_place() -> None:
    async def joined(requests: AsyncIterator[bytes], context: Any) -> bytes:
        return b"".join([request async for request in requests])

    async def each(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request

    async def letters() -> AsyncIterator[bytes]:
        for letter in (b"a", b"b"):
            yield letter

    methods = {"Join": stream_unary(joined), "Each": stream_stream(each)}
    async with served(methods) as server, dialled(server) as channel:
        join, every = channel.stream_unary(path("Join")), channel.stream_stream(path("Each"))
        assert await join(request_iterator=letters()) == b"ab"
        assert await join(letters(), 20.0, (("key", "value"),), wait_for_ready=True) == b"ab"
        assert [answer async for answer in every(request_iterator=letters())] == [b"a", b"b"]


async def test_a_sidecar_that_was_away_for_long_is_heard_as_soon_as_it_is_back(tmp_path: Path) -> None:
    """gRPC's own pauses would make ten attempts take 100 s."""
    attempts = asyncio.Semaphore(0)

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        attempts.release()
        writer.close()

    server = await asyncio.start_unix_server(refuse, tmp_path / "s")
    async with server, Scope() as scope, asyncio.timeout(15):
        scope.start(Policies("echo", f"unix:{tmp_path / 's'}").follow())
        for _ in range(10):
            await attempts.acquire()


# --- deadlines ----------------------------------------------------------------------------------------------


async def test_the_callers_own_time_out_wins() -> None:
    async with served({"It": unary_unary(left)}) as server, dialled(server) as channel:
        seen = seconds(await channel.unary_unary(path("It"))(b"", timeout=60))
    assert seen is not None
    assert 50 < seen < 61


async def test_an_inbound_deadline_bounds_the_next_hop_and_a_spent_one_sends_nothing(spans: Spans) -> None:
    reached: list[float | None] = []

    async def last(request: bytes, context: Any) -> bytes:
        reached.append(context.time_remaining())
        return b""

    async with served({"It": unary_unary(last)}) as far, dialled(far) as onward:
        refused: asyncio.Future[grpc.aio.AioRpcError] = asyncio.get_running_loop().create_future()
        it = onward.unary_unary(path("It"))

        async def hop(request: bytes, context: Any) -> bytes:
            await it(b"", timeout=60)
            try:
                await asyncio.sleep(60)
            finally:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    it(b"")
                refused.set_result(caught.value)
            return b""

        async with served({"It": unary_unary(hop)}) as near, dialled(near) as channel:
            await failure(channel.unary_unary(path("It"))(b"", timeout=0.5))
            error = await refused
    assert (error.code(), "was not sent" in (error.details() or "")) == (grpc.StatusCode.DEADLINE_EXCEEDED, True)
    assert len(reached) == 1
    assert reached[0] is not None
    assert reached[0] <= 0.6
    unsent = [span for span in spans.ended(SpanKind.CLIENT) if (span.attributes or {}).get("error.type")]
    assert len(unsent) == 2, "the call that ran out, and the one that was not sent"


# --- trace context and spans --------------------------------------------------------------------------------


async def show(request: bytes, context: Any) -> bytes:
    shown = [list(pair) for pair in context.invocation_metadata() if pair[0] in ("a", "traceparent")]
    return json.dumps(shown).encode()


@pytest.mark.parametrize("given", [None, (("a", "b"),), [("a", "b")], grpc.aio.Metadata(("a", "b"))])
async def test_the_trace_goes_along_beside_the_callers_metadata(given: Any, spans: Spans) -> None:
    async with served({"It": unary_unary(show)}) as server, dialled(server) as channel:
        with trace.get_tracer("test").start_as_current_span("outer") as outer:
            seen = dict(json.loads(await channel.unary_unary(path("It"))(b"", metadata=given)))
        client, inbound = await spans.next(SpanKind.CLIENT), await spans.next(SpanKind.SERVER)
    assert seen.get("a") == ("b" if given else None)
    assert client.context is not None
    assert client.parent is not None
    assert inbound.parent is not None
    assert client.parent.span_id == outer.get_span_context().span_id
    assert inbound.parent.span_id == client.context.span_id
    assert seen["traceparent"].startswith(f"00-{client.context.trace_id:032x}-{client.context.span_id:016x}-")


async def test_a_trace_that_the_caller_names_is_left_alone() -> None:
    own = f"00-{TRACE}-{SPAN}-01"
    async with served({"It": unary_unary(show)}) as server, dialled(server) as channel:
        seen = json.loads(await channel.unary_unary(path("It"))(b"", metadata=(("traceparent", own),)))
    assert seen == [["traceparent", own]]


async def test_the_span_of_a_call(spans: Spans) -> None:
    async with served({"It": unary_unary(echo)}) as server, dialled(server) as channel:
        await channel.unary_unary(path("It"))(b"", timeout=10)
        span = await spans.next(SpanKind.CLIENT)
    assert span.name == "test.Echo/It"
    assert span.status.is_unset
    assert span.attributes == {
        "rpc.system.name": "grpc", "rpc.method": "test.Echo/It", "peer.service": "echo",
        "server.address": "127.0.0.1", "server.port": int(server.address.rpartition(":")[2]),
        "rpc.response.status_code": "OK", "meshwright.deadline_seconds": 10,
    }


async def stall(request: Any, context: Any) -> None:
    await asyncio.sleep(60)


async def some(request: Any, context: Any) -> AsyncIterator[bytes]:
    yield b"1"
    yield b"2"
    await asyncio.sleep(60 if request == b"stall" else 0)


async def join(requests: AsyncIterator[bytes], context: Any) -> bytes:
    return b"".join([request async for request in requests])


async def each(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
    async for request in requests:
        yield request


METHODS: dict[str, Any] = {
    "Stall": unary_unary(stall),
    "Some": unary_stream(some),
    "Join": stream_unary(join),
    "Each": stream_stream(each),
}


@pytest.mark.parametrize(
    "how",
    ["failed", "cancelled", "out of time", "not begun", "streamed", "stream cancelled", "stream left", "joined",
     "each"],
)
async def test_every_end_of_a_call_ends_its_span(how: str, spans: Spans) -> None:
    codes = {
        "failed": "UNIMPLEMENTED", "cancelled": "CANCELLED", "out of time": "DEADLINE_EXCEEDED",
        "not begun": "UNKNOWN", "stream cancelled": "CANCELLED", "stream left": "CANCELLED",
    }
    async with served(METHODS) as server, dialled(server) as channel:
        await _end(channel, how)
    span = await spans.next(SpanKind.CLIENT)
    code = codes.get(how, "OK")
    assert (span.attributes or {})["rpc.response.status_code"] == code
    assert span.status.is_unset is (code == "OK")


async def _end(channel: mesh.Channel, how: str) -> None:
    match how:
        case "failed":
            await failure(channel.unary_unary(path("Nothing"))(b""))
        case "out of time":
            await failure(channel.unary_unary(path("Stall"))(b"", timeout=0.1))
        case "not begun":
            with pytest.raises(TypeError):
                channel.unary_unary(path("Stall"))(b"", no_such_option=True)
        case "cancelled":
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(_own_task(channel), 0.1)
        case "streamed":
            assert [one async for one in channel.unary_stream(path("Some"))(b"")] == [b"1", b"2"]
        case "stream cancelled":
            call = channel.unary_stream(path("Some"))(b"stall")
            await call.read()
            call.cancel()
        case "stream left":
            async for _ in channel.unary_stream(path("Some"))(b"stall"):
                break
        case "joined":
            assert await channel.stream_unary(path("Join"))(iter([b"a", b"b"])) == b"ab"
        case _:
            assert [one async for one in channel.stream_stream(path("Each"))(iter([b"a"]))] == [b"a"]


async def _own_task(channel: mesh.Channel) -> None:
    await channel.unary_unary(path("Stall"))(b"")


# --- start and end ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({}, "not on a mesh"), ({"bootstrap_file": "/no/such"}, "cannot read the bootstrap /no/such"),
        ({"bootstrap": "{"}, "is no xDS bootstrap"), ({"bootstrap": "[]"}, "is no xDS bootstrap"),
        ({"bootstrap": '{"xds_servers": []}'}, "is no xDS bootstrap"),
    ],
)
async def test_without_a_sidecar_the_error_says_what_to_do(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(mesh.InvalidConfig, match=rf"{problem}.*`mesh run`.*`mesh bootstrap`"):
        mesh.channel("order", mesh.Settings(**settings))


async def test_nothing_is_left_when_a_channel_is_closed(tmp_path: Path) -> None:
    before = asyncio.all_tasks()
    async with served({"It": unary_unary(echo)}) as server:
        during = asyncio.all_tasks()
        async with dialled(server, bootstrap=bootstrap(tmp_path / "away", node_id="test")) as channel:
            await channel.unary_unary(path("It"))(b"")
            assert [task.get_name() for task in asyncio.all_tasks() - during if "policy" in task.get_name()]
        assert not [task for task in asyncio.all_tasks() - before if "policy" in task.get_name()]


async def test_an_error_inside_the_block_comes_out_as_it_is() -> None:
    async with served({}) as server:
        with pytest.raises(LookupError, match="mine"):
            async with dialled(server):
                raise LookupError("mine")
