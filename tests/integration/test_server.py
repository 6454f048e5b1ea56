"""`mesh.server` around real calls: every arity and style, errors, deadlines, spans, health, reflection, drain."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest, ServerReflectionResponse
from opentelemetry.trace import SpanKind, get_current_span

import mesh
from mesh.reflection import NAMES
from mesh.serving import SPARE_STREAMS, STREAM_GRACE_SECONDS, options
from mesh.tracing import trace_context
from meshwright.order.v1 import order_service_pb2, order_service_pb2_grpc
from tests.fixtures import made
from tests.fixtures.echo import (
    bare,
    dialled,
    failure,
    health_of,
    path,
    served,
    stream_stream,
    stream_unary,
    unary_stream,
    unary_unary,
)
from tests.fixtures.spans import Spans

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
UUID = "0b8e4a5c-6a5b-4d39-9ad1-0a7c6f9b2f11"


pytestmark = pytest.mark.timeout(30)


async def echo(request: bytes, context: Any) -> bytes:
    return request


async def generate(request: bytes, context: Any) -> AsyncIterator[bytes]:
    yield request
    yield request


async def hold(request: bytes, context: Any) -> bytes:
    time.sleep(0.3)
    return request


async def write(request: bytes, context: Any) -> None:
    await context.write(request)
    await context.write(request)


async def join(requests: AsyncIterator[bytes], context: Any) -> bytes:
    return b"".join([request async for request in requests])


async def generate_each(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
    async for request in requests:
        yield request


async def write_each(requests: AsyncIterator[bytes], context: Any) -> None:
    async for request in requests:
        await context.write(request)


async def read_each(requests: AsyncIterator[bytes], context: Any) -> None:
    while (request := await context.read()) is not grpc.aio.EOF:
        await context.write(request)


async def test_every_arity_and_style() -> None:
    methods: dict[str, Any] = {
        "Echo": unary_unary(echo), "Join": stream_unary(join),
        "Generate": unary_stream(generate), "Write": unary_stream(write),
        "GenerateEach": stream_stream(generate_each), "WriteEach": stream_stream(write_each),
        "ReadEach": stream_stream(read_each),
    }
    async with served(methods) as server, dialled(server) as channel:
        assert await channel.unary_unary(path("Echo"))(b"x") == b"x"
        assert await channel.stream_unary(path("Join"))(iter([b"a", b"b"])) == b"ab"
        for method in ("Generate", "Write"):
            assert [answer async for answer in channel.unary_stream(path(method))(b"x")] == [b"x", b"x"]
        for method in ("GenerateEach", "WriteEach", "ReadEach"):
            assert [each async for each in channel.stream_stream(path(method))(iter([b"a", b"b"]))] == [b"a", b"b"]


async def test_handlers_of_a_generic_handler_are_wrapped_too(spans: Spans) -> None:
    async with mesh.server(mesh.Settings()) as server:
        handlers: dict[str, Any] = {"Echo": unary_unary(echo)}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", handlers),))
        await server.start()
        async with dialled(server) as channel:
            assert await channel.unary_unary(path("Echo"))(b"x") == b"x"
            unknown = await failure(channel.unary_unary(path("Nothing"))(b"x"))
    assert unknown.code() is grpc.StatusCode.UNIMPLEMENTED
    assert (await spans.next(SpanKind.SERVER)).name == "test.Echo/Echo"


# --- errors -------------------------------------------------------------------------------------------------


async def fails(behaviour: Any, **settings: Any) -> grpc.aio.AioRpcError:
    """The error that a unary call of a behaviour ends with."""
    async with served({"It": unary_unary(behaviour)}, **settings) as server, dialled(server) as channel:
        return await failure(channel.unary_unary(path("It"))(b""))


async def test_an_error_arrives_with_its_details() -> None:
    async def refuse(request: bytes, context: Any) -> bytes:
        raise mesh.Error(
            mesh.Code.NOT_FOUND, "order 7 does not exist", reason="ORDER_NOT_FOUND", metadata={"id": "7"},
            retry_after_seconds=0.5,
        )

    error = mesh.from_rpc(await fails(refuse))
    assert (error.code, error.message) == (mesh.Code.NOT_FOUND, "order 7 does not exist")
    assert (error.reason, error.metadata, error.retry_after_seconds) == ("ORDER_NOT_FOUND", {"id": "7"}, 0.5)


def never(data: bytes) -> bytes:
    raise ValueError("not a message")


@pytest.mark.parametrize("streams", [False, True])
async def test_bytes_that_are_no_message_are_the_callers_fault(streams: bool) -> None:
    handler = stream_unary(join, never) if streams else unary_unary(echo, never)
    async with served({"It": handler}) as server, dialled(server) as channel:
        call = channel.stream_unary(path("It"))(iter([b"?"])) if streams else channel.unary_unary(path("It"))(b"?")
        error = mesh.from_rpc(await failure(call))
    assert (error.code, error.reason) == (mesh.Code.INVALID_ARGUMENT, "MALFORMED_REQUEST")


async def test_an_unknown_method_is_told_with_details() -> None:
    async with served({"It": unary_unary(echo)}) as server, dialled(server) as channel:
        for method in (path("Nothing"), "/no.such.Service/It"):
            error = mesh.from_rpc(await failure(channel.unary_unary(method)(b"")))
            assert (error.code, error.reason) == (mesh.Code.UNIMPLEMENTED, "METHOD_NOT_FOUND")
            assert error.message == f"{method} is not offered here; reflection tells what is"


async def test_large_metadata_arrives_whole_every_time() -> None:
    async with served({"It": unary_unary(echo)}) as server, dialled(server) as channel:
        for _ in range(20):
            assert await channel.unary_unary(path("It"))(b"x", metadata=(("cookie", "c" * 40_000),)) == b"x"


async def test_a_stream_may_fail_after_answers() -> None:
    async def two_then_fail(request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield b"1"
        yield b"2"
        raise mesh.Error(mesh.Code.DATA_LOSS, "no more")

    async with served({"It": unary_stream(two_then_fail)}) as server, dialled(server) as channel:
        call = channel.unary_stream(path("It"))(b"")
        assert [await call.read(), await call.read()] == [b"1", b"2"]
        error = await failure(call.read())
    assert (error.code(), error.details()) == (grpc.StatusCode.DATA_LOSS, "no more")


async def test_an_unexpected_exception_says_nothing_but_an_id(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(request: bytes, context: Any) -> bytes:
        raise RuntimeError("the password is hunter2")

    error = mesh.from_rpc(await fails(broken))
    assert (error.code, error.reason) == (mesh.Code.INTERNAL, "INTERNAL")
    assert error.message == f"internal error {error.metadata['error_id']}"
    assert error.metadata["error_id"] in caplog.text
    assert "hunter2" in caplog.text


class Mute(Exception):
    """Has no text."""

    def __str__(self) -> str:
        raise ZeroDivisionError


async def test_an_exception_without_a_text_is_answered_like_any_other(
    spans: Spans, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(request: bytes, context: Any) -> bytes:
        raise Mute

    error = mesh.from_rpc(await fails(broken))
    assert (error.code, error.reason) == (mesh.Code.INTERNAL, "INTERNAL")
    assert attributes(await spans.next(SpanKind.SERVER))["rpc.response.status_code"] == "INTERNAL"


async def test_a_servicer_may_abort_by_itself_and_its_trailer_arrives() -> None:
    async def abort(request: bytes, context: Any) -> bytes:
        context.set_trailing_metadata((("a", "b"),))
        await context.abort(grpc.StatusCode.ABORTED, "as you wish")
        raise AssertionError("abort returned")

    error = await fails(abort)
    assert (error.code(), error.details()) == (grpc.StatusCode.ABORTED, "as you wish")
    assert ("a", "b") in tuple(error.trailing_metadata())


async def test_a_trailer_of_the_servicer_survives_a_mapped_error() -> None:
    async def trail(request: bytes, context: Any) -> bytes:
        context.set_trailing_metadata((("a", "b"),))
        raise mesh.Error(mesh.Code.ABORTED, "no")

    error = await fails(trail)
    assert ("a", "b") in tuple(error.trailing_metadata())
    assert mesh.from_rpc(error).reason == "ABORTED"


@pytest.mark.parametrize(
    ("code", "seen"),
    [(grpc.StatusCode.UNAVAILABLE, mesh.Code.UNAVAILABLE), (grpc.StatusCode.NOT_FOUND, mesh.Code.INTERNAL)],
)
async def test_an_unhandled_failure_of_a_call_made_meanwhile(code: grpc.StatusCode, seen: mesh.Code) -> None:
    async def depend(request: bytes, context: Any) -> bytes:
        raise grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), "10.0.0.7 is secret")

    error = mesh.from_rpc(await fails(depend))
    assert error.code is seen
    assert "secret" not in error.message


async def test_a_method_that_the_servicer_lacks_is_unimplemented(caplog: pytest.LogCaptureFixture) -> None:
    servicer: Any = order_service_pb2_grpc.OrderServiceServicer
    async with mesh.server(mesh.Settings()) as server:
        order_service_pb2_grpc.add_OrderServiceServicer_to_server(servicer(), server)
        await server.start()
        async with dialled(server) as channel:
            stub = order_service_pb2_grpc.OrderServiceStub(channel)
            error = await failure(stub.GetOrder(order_service_pb2.GetOrderRequest(id=UUID)))
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


# --- validation ---------------------------------------------------------------------------------------------


ORDERS = "meshwright.order.v1.OrderService"
GET: dict[str, Any] = {
    "request_deserializer": order_service_pb2.GetOrderRequest.FromString,
    "response_serializer": order_service_pb2.GetOrderRequest.SerializeToString,
}


async def first(requests: AsyncIterator[Any], context: Any) -> Any:
    seen = [request async for request in requests]
    return seen[0]


async def test_a_wrong_request_does_not_reach_the_method() -> None:
    reached: list[str] = []

    async def get(request: Any, context: Any) -> Any:
        reached.append(request.id)
        return request

    async with mesh.server(mesh.Settings()) as server:
        server.add_registered_method_handlers(ORDERS, {"GetOrder": unary_unary(get, **GET)})
        await server.start()
        async with dialled(server) as channel:
            call = channel.unary_unary(f"/{ORDERS}/GetOrder")
            right, wrong = (order_service_pb2.GetOrderRequest(id=id_).SerializeToString() for id_ in (UUID, "7"))
            assert await call(right) == right
            error = mesh.from_rpc(await failure(call(wrong)))
    assert (error.code, error.reason) == (mesh.Code.INVALID_ARGUMENT, "INVALID_FIELD")
    assert error.violations == (("id", "is not a UUID of version 4"),)
    assert reached == [UUID]


async def test_each_message_of_a_client_stream_is_checked() -> None:
    async with mesh.server(mesh.Settings()) as server:
        server.add_registered_method_handlers(ORDERS, {"GetOrder": stream_unary(first, **GET)})
        await server.start()
        async with dialled(server) as channel:
            call = channel.stream_unary(f"/{ORDERS}/GetOrder")
            right, wrong = (order_service_pb2.GetOrderRequest(id=id_).SerializeToString() for id_ in (UUID, "7"))
            assert await call(iter([right, right])) == right
            error = mesh.from_rpc(await failure(call(iter([right, wrong]))))
    assert error.violations == (("id", "is not a UUID of version 4"),)


async def test_rules_that_cannot_be_kept_are_found_at_registration() -> None:
    wrong = made.message_type(made.field("it", type_=made.Type.TYPE_INT32, pattern="x"), service="Wrong")
    async with mesh.server(mesh.Settings()) as server:
        with pytest.raises(mesh.InvalidConfig, match="a format or pattern is for text"):
            server.add_registered_method_handlers(f"{wrong.DESCRIPTOR.file.package}.Wrong", {"Call": unary_unary(echo)})


# --- deadline and cancellation ------------------------------------------------------------------------------


async def test_work_stops_soon_after_the_deadline(spans: Spans) -> None:
    stopped: asyncio.Future[float | None] = asyncio.get_running_loop().create_future()

    async def slow(request: bytes, context: Any) -> bytes:
        try:
            await asyncio.sleep(60)
        finally:
            stopped.set_result(mesh.deadline.remaining())
        return b""

    async with served({"It": unary_unary(slow)}) as server, dialled(server) as channel:
        error = await failure(channel.unary_unary(path("It"))(b"", timeout=0.2))
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert await stopped == 0.0
        span = await spans.next(SpanKind.SERVER)
    assert attributes(span)["rpc.response.status_code"] == "DEADLINE_EXCEEDED"


async def test_the_budget_is_known_to_the_method_and_to_tasks_it_starts() -> None:
    async def left() -> float | None:
        return mesh.deadline.remaining()

    async def tell(request: bytes, context: Any) -> bytes:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(left())
        return repr(task.result()).encode()

    async with served({"It": unary_unary(tell)}) as server, bare(server) as channel:
        tell_it = channel.unary_unary(path("It"))
        assert 5 < float(await tell_it(b"", timeout=10)) <= 10.1
        assert await tell_it(b"") == b"None"


async def test_a_time_out_of_the_method_itself_is_a_fault_of_its_own() -> None:
    async def impatient(request: bytes, context: Any) -> bytes:
        async with asyncio.timeout(0):
            await asyncio.sleep(60)
        return b""

    assert (await fails(impatient)).code() is grpc.StatusCode.INTERNAL


@pytest.mark.parametrize("streams", [False, True])
async def test_a_cancelled_call_ends_its_span_and_its_generator(spans: Spans, streams: bool) -> None:
    begun, closed = asyncio.Event(), asyncio.Event()

    async def wait(request: bytes, context: Any) -> bytes:
        try:
            begun.set()
            await asyncio.sleep(60)
            return b""
        finally:
            closed.set()

    async def endless(request: bytes, context: Any) -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"x" * 100_000
                begun.set()
        finally:
            closed.set()

    methods: dict[str, Any] = {"It": unary_stream(endless) if streams else unary_unary(wait)}
    async with served(methods) as server, dialled(server) as channel:
        start = channel.unary_stream if streams else channel.unary_unary
        call = start(path("It"))(b"")
        await begun.wait()
        call.cancel()
        await closed.wait()
        span = await spans.next(SpanKind.SERVER)
    assert attributes(span)["rpc.response.status_code"] == "CANCELLED"


# --- spans --------------------------------------------------------------------------------------------------


def attributes(span: Any) -> dict[str, Any]:
    """Attributes of an ended span."""
    return dict(span.attributes or {})


async def test_the_span_of_a_call(spans: Spans) -> None:
    metadata = (("traceparent", f"00-{TRACE}-{SPAN}-01"), ("x-envoy-attempt-count", "2"))
    async with served({"It": unary_unary(echo)}) as server, bare(server) as channel:
        await channel.unary_unary(path("It"))(b"", metadata=metadata, timeout=10)
        span = await spans.next(SpanKind.SERVER)
    found = attributes(span)
    assert span.name == "test.Echo/It"
    assert span.context is not None
    assert span.parent is not None
    assert (f"{span.context.trace_id:032x}", f"{span.parent.span_id:016x}") == (TRACE, SPAN)
    assert found.pop("network.peer.port") > 0
    assert 5 < found.pop("meshwright.deadline_seconds") <= 10.1
    assert found == {
        "rpc.system.name": "grpc", "rpc.method": "test.Echo/It", "rpc.response.status_code": "OK",
        "network.peer.address": "127.0.0.1", "meshwright.attempt": 2,
    }


@pytest.mark.parametrize(
    ("code", "is_error"), [(mesh.Code.NOT_FOUND, False), (mesh.Code.UNAVAILABLE, True), (mesh.Code.INTERNAL, True)]
)
async def test_only_the_servers_own_faults_mark_its_span(spans: Spans, code: mesh.Code, is_error: bool) -> None:
    async def fail(request: bytes, context: Any) -> bytes:
        raise mesh.Error(code, "no")

    await fails(fail)
    span = await spans.next(SpanKind.SERVER)
    assert attributes(span)["rpc.response.status_code"] == code.name
    assert ("error.type" in attributes(span)) is is_error is (not span.status.is_unset)


async def test_an_unsampled_trace_stays_unsampled(spans: Spans) -> None:
    inner: list[str] = []

    async def tell(request: bytes, context: Any) -> bytes:
        inner.extend(value for _, value in trace_context(get_current_span()))
        return b""

    metadata = (("traceparent", f"00-{TRACE}-{SPAN}-00"),)
    async with served({"It": unary_unary(tell)}) as server, bare(server) as channel:
        await channel.unary_unary(path("It"))(b"", metadata=metadata)
    assert [value[:36] + value[-2:] for value in inner] == [f"00-{TRACE}-00"]
    assert spans.get_finished_spans() == ()


# --- limits, health, reflection -----------------------------------------------------------------------------


async def test_too_many_calls_are_refused_but_health_answers(spans: Spans) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def wait(request: bytes, context: Any) -> bytes:
        begun.set()
        await go_on.wait()
        return b""

    async with (
        served({"It": unary_unary(wait)}, max_concurrent_calls=1) as server, dialled(server) as channel,
    ):
        call = channel.unary_unary(path("It"))
        first = call(b"")
        await begun.wait()
        error = mesh.from_rpc(await failure(call(b"")))
        health = await health_of(channel).Check(health_pb2.HealthCheckRequest())
        refused = attributes(await spans.next(SpanKind.SERVER))
        go_on.set()
        await first
        await call(b"")
    assert refused["rpc.response.status_code"] == "RESOURCE_EXHAUSTED"
    assert (error.code, error.reason, error.retry_after_seconds) == (mesh.Code.RESOURCE_EXHAUSTED, "OVERLOADED", 1.0)
    assert health.status == mesh.Serving.SERVING


async def test_streams_beyond_their_limit_are_refused_and_leave_room_for_other_calls() -> None:
    closed = asyncio.Event()

    async def answers(request: bytes, context: Any) -> AsyncIterator[bytes]:
        try:
            yield b""
            await asyncio.Event().wait()
        finally:
            closed.set()

    async def reads(requests: AsyncIterator[bytes], context: Any) -> bytes:
        await asyncio.Event().wait()
        return b""

    methods = {"It": unary_unary(echo), "Answers": unary_stream(answers), "Reads": stream_unary(reads)}
    async with served(methods, max_concurrent_calls=60, max_streams=50) as server, bare(server) as channel:
        watch = channel.unary_stream(path("Answers"))
        watches = [watch(b"") for _ in range(50)]
        await asyncio.gather(*(one.read() for one in watches))
        more = [watch(b"").read() for _ in range(60)] + [channel.stream_unary(path("Reads"))()]
        refused = await asyncio.gather(*map(failure, more))
        await channel.unary_unary(path("It"))(b"")
        watches.pop().cancel()
        await closed.wait()
        await watch(b"").read()
    assert {(error.code(), error.details()) for error in refused} == {
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "this instance has 50 streams in hand; try again")
    }


async def test_a_message_that_is_too_long_is_refused_either_way() -> None:
    async def answer(request: bytes, context: Any) -> bytes:
        return b"x" * int(request)

    async with served({"It": unary_unary(answer)}, max_message_bytes=2048) as server, bare(server) as channel:
        call = channel.unary_unary(path("It"))
        assert len(await call(b"1024")) == 1024
        for request in b" " * 4096, b"4096":
            assert (await failure(call(request))).code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_streams_of_one_connection_are_bounded_with_room_to_refuse_some() -> None:
    bound = dict(options(mesh.Settings(max_concurrent_calls=7)))["grpc.max_concurrent_streams"]
    assert bound == 7 + SPARE_STREAMS


async def test_health_is_told_at_once_and_again_at_each_change(spans: Spans) -> None:
    async with served({"It": unary_unary(echo)}) as server, bare(server) as channel:
        stub = health_of(channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest(service="test.Echo"))
        unknown = stub.Watch(health_pb2.HealthCheckRequest(service="later.Service"))
        seen = [(await watch.read()).status, (await unknown.read()).status]
        server.health.set("test.Echo", mesh.Serving.NOT_SERVING)
        server.health.set("later.Service", mesh.Serving.SERVING)
        seen += [(await watch.read()).status, (await unknown.read()).status]
        missing = await failure(stub.Check(health_pb2.HealthCheckRequest(service="no.Such")))
        watch.cancel()
        unknown.cancel()
    assert seen == [
        mesh.Serving.SERVING, mesh.Serving.UNKNOWN_SERVICE, mesh.Serving.NOT_SERVING, mesh.Serving.SERVING,
    ]
    assert missing.code() is grpc.StatusCode.NOT_FOUND
    assert spans.get_finished_spans() == ()


@pytest.mark.parametrize("name", NAMES)
async def test_reflection_by_both_names(name: str, spans: Spans) -> None:
    questions = [
        ServerReflectionRequest(list_services=""),
        ServerReflectionRequest(file_containing_symbol="meshwright.order.v1.OrderService"),
        ServerReflectionRequest(file_by_filename="no/such.proto"),
        ServerReflectionRequest(all_extension_numbers_of_type="google.protobuf.FieldOptions"),
        ServerReflectionRequest(file_by_filename="google/rpc/status.proto"),
        ServerReflectionRequest(file_containing_symbol="meshwright.order.v1.OrderService.WatchOrder"),
        ServerReflectionRequest(file_containing_symbol="meshwright.order.v1.OrderService.Watch"),
    ]
    async with mesh.server(mesh.Settings()) as server:
        server.add_registered_method_handlers(ORDERS, {"GetOrder": unary_unary(echo, **GET)})
        await server.start()
        async with bare(server) as channel:
            ask = channel.stream_stream(
                f"/{name}/ServerReflectionInfo", ServerReflectionRequest.SerializeToString,
                ServerReflectionResponse.FromString,
            )
            answers = [answer async for answer in ask(iter(questions))]
    services = [each.name for each in answers[0].list_services_response.service]
    assert services == ["grpc.health.v1.Health", *NAMES, "meshwright.order.v1.OrderService"]
    files = list(map(FileDescriptorProto.FromString, answers[1].file_descriptor_response.file_descriptor_proto))
    assert len(files) > 5
    assert all(field.json_name for file in files for message in file.message_type for field in message.field)
    assert answers[2].error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]
    assert answers[5].file_descriptor_response == answers[1].file_descriptor_response
    assert answers[6].error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]
    assert 50651 in answers[3].all_extension_numbers_response.extension_number
    assert [answer.original_request for answer in answers] == questions
    assert spans.get_finished_spans() == ()


# --- start and stop -----------------------------------------------------------------------------------------


async def test_a_busy_port_is_a_clear_error() -> None:
    async with served({}) as first:
        settings = mesh.Settings(port=first.port)
        async with mesh.server(settings) as second:
            with pytest.raises(mesh.Error, match=f"cannot listen on 127.0.0.1:{first.port}.*set PORT") as caught:
                await second.start()
    assert caught.value.reason == "PORT_BUSY"


async def test_a_stop_lets_calls_end_and_sends_streams_elsewhere() -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def wait(request: bytes, context: Any) -> bytes:
        begun.set()
        await go_on.wait()
        return b"done"

    async def endless(request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield b"x"
        await asyncio.sleep(60)

    methods: dict[str, Any] = {"It": unary_unary(wait), "Stream": unary_stream(endless)}
    async with served(methods) as server, bare(server) as channel:
        health = health_of(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await health.read()).status == mesh.Serving.SERVING
        call, stream = channel.unary_unary(path("It"))(b""), channel.unary_stream(path("Stream"))(b"")
        await begun.wait()
        await stream.read()
        async with asyncio.TaskGroup() as group:
            stopping = group.create_task(server.stop(20))
            assert (await health.read()).status == mesh.Serving.NOT_SERVING
            assert await health.read() is grpc.aio.EOF
            error = mesh.from_rpc(await failure(stream.read()))
            assert not stopping.done()
            go_on.set()
            assert await call == b"done"
    assert (error.code, error.reason) == (mesh.Code.UNAVAILABLE, "DRAINING")


async def test_a_stop_loses_no_call_that_has_come_and_not_begun() -> None:
    asked = asyncio.Event()

    async def blocking(request: bytes, context: Any) -> bytes:
        asked.set()
        time.sleep(0.01)  # so that calls queue up in gRPC
        return b"done"

    async with served({"It": unary_unary(blocking)}) as server, bare(server) as channel:
        calls = [channel.unary_unary(path("It"))(b"", timeout=30) for _ in range(100)]
        await asked.wait()
        await server.stop(20)
        assert {await call for call in calls} == {b"done"}


async def test_a_stop_begins_what_has_come_however_late_the_loop_is() -> None:
    """It begins one call in several turns, and looks quiet for longer than anybody would wait."""

    async def be_late() -> None:
        while True:
            time.sleep(0.045)
            await asyncio.sleep(0)

    def come(calls: list[Any]) -> None:
        calls += [channel.unary_unary(path("It")).future(b"x", timeout=30) for _ in range(4)]
        time.sleep(0.1)

    calls: list[Any] = []
    async with served({"It": unary_unary(echo)}) as server:
        with grpc.insecure_channel(server.address) as opened:
            channel: Any = opened
            await asyncio.to_thread(lambda: channel.unary_unary(path("It"))(b"x"))
            late = asyncio.ensure_future(be_late())
            await asyncio.to_thread(come, calls)
            await server.stop(20)
            late.cancel()
            assert [await asyncio.to_thread(call.result) for call in calls] == [b"x"] * len(calls)


async def test_a_stop_with_nothing_in_hand_takes_no_time() -> None:
    async with served({"It": unary_unary(echo)}) as server, dialled(server) as channel:
        await channel.unary_unary(path("It"))(b"")
        async with asyncio.timeout(STREAM_GRACE_SECONDS):
            await server.stop(20)


PROGRAM = """
import asyncio, sys, grpc, mesh

async def slow(request, context):
    print("begun", flush=True)
    await asyncio.sleep(float(request))
    return b"done"

async def main():
    async with mesh.server(mesh.Settings(grace_seconds=30)) as server:
        server.add_registered_method_handlers("test.Echo", {"It": grpc.unary_unary_rpc_method_handler(slow)})
        async def tell():
            while not server.port:
                await asyncio.sleep(0.01)
            print(server.port, flush=True)
        async with asyncio.TaskGroup() as group:
            group.create_task(tell())
            await server.serve()
    print("drained", flush=True)

asyncio.run(main())
"""


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("twice", [False, True])
async def test_a_signal_drains_and_a_second_one_ends(first: signal.Signals, twice: bool) -> None:
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", PROGRAM, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    try:
        port = int(await process.stdout.readline())
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as dialled_:
            channel: Any = dialled_
            health = health_of(channel).Watch(health_pb2.HealthCheckRequest())
            await health.read()
            call = channel.unary_unary(path("It"))(b"25" if twice else b"1")
            assert await process.stdout.readline() == b"begun\n"
            process.send_signal(first)
            assert (await health.read()).status == mesh.Serving.NOT_SERVING
            if twice:
                process.send_signal(signal.SIGTERM)
                assert (await failure(call)).code() is grpc.StatusCode.UNAVAILABLE
                assert await process.wait() == -signal.SIGTERM
            else:
                assert await call == b"done"
                assert await process.stdout.readline() == b"drained\n"
                assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def dial(channel: Any, method: str) -> Any:
    return channel.unary_unary(path(method))(b"x")


async def test_calls_that_come_while_the_loop_is_held_up_are_not_said_to_be_cancelled() -> None:
    """More than gRPC itself lets wait, on connections enough for their streams."""
    own = (("grpc.use_local_subchannel_pool", 1),)
    async with served({"Echo": unary_unary(echo), "Hold": unary_unary(hold)}) as server:
        channels = [grpc.aio.insecure_channel(server.address, options=own) for _ in range(3)]
        calls: list[Any] = [dial(channel, "Echo") for channel in channels for _ in range(700)]
        held = dial(channels[0], "Hold")
        codes = {await call.code() for call in (held, *calls)}
        for channel in channels:
            await channel.close()
    assert codes <= {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
