"""The OTLP sink: gRPC (port 4317) and HTTP (port 4318) in front of one Store.

Only traces are kept. Specification: https://opentelemetry.io/docs/specs/otlp/.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
import grpc.aio
from aiohttp import web
from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from console import decode
from console.errors import answering
from mesh.errors import Code, Error
from mesh.status import DETAILS_KEY, to_status

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from google.protobuf.message import Message

    from console.store import Outcome, Store

log = logging.getLogger(__name__)

_TRACES_ONLY = "only traces are stored here: send {signal} elsewhere, or none (OTEL_{variable}_EXPORTER=none)"
_COLLECTOR = "opentelemetry.proto.collector"
_NOTHING_REFUSED = ExportTraceServiceResponse().SerializeToString()


def grpc_server(store: Store, max_bytes: int) -> grpc.aio.Server:
    """A server with TraceService, not bound to a port yet.

    Metrics and logs are answered UNIMPLEMENTED with what to do. Ports are never shared with another process.
    `max_bytes` bounds an export, also after decompression (gRPC stops unpacking there: RESOURCE_EXHAUSTED).
    """
    options = [("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", max_bytes)]
    server = grpc.aio.server(options=options)
    server.add_generic_rpc_handlers(
        (
            _service(f"{_COLLECTOR}.trace.v1.TraceService", _export_to(store)),
            _service(f"{_COLLECTOR}.metrics.v1.MetricsService", _refuse("metrics")),
            _service(f"{_COLLECTOR}.logs.v1.LogsService", _refuse("logs")),
        )
    )
    return server


def _service(name: str, export: Callable[[bytes, Any], Awaitable[bytes]]) -> grpc.GenericRpcHandler:
    # No deserializer: a message that cannot be parsed is then ours to answer, as INVALID_ARGUMENT.
    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(export)
    return grpc.method_handlers_generic_handler(name, {"Export": handler})


def _export_to(store: Store) -> Callable[[bytes, Any], Awaitable[bytes]]:
    async def export(body: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        try:
            outcome = store.add(decode.from_protobuf(body).resource_spans)
        except Error as error:
            await _abort(context, error)
        _report(store, outcome)
        return decode.success(outcome).SerializeToString() if outcome.refused else _NOTHING_REFUSED

    return export


def _refuse(signal: str) -> Callable[[bytes, Any], Awaitable[bytes]]:
    async def export(_body: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> NoReturn:
        await _abort(context, _traces_only(signal))

    return export


async def _abort(context: grpc.aio.ServicerContext[bytes, bytes], error: Error) -> NoReturn:
    details = ((DETAILS_KEY, to_status(error).SerializeToString()),)
    await context.abort(grpc.StatusCode[error.code.name], error.message, details)


def _traces_only(signal: str) -> Error:
    message = _TRACES_ONLY.format(signal=signal, variable=signal.upper())
    return Error(Code.UNIMPLEMENTED, message, reason="TRACES_ONLY")


def http_app(store: Store, max_bytes: int) -> web.Application:
    """POST /v1/traces in protobuf or JSON; run it with `auto_decompress=False`, it bounds decompression itself."""
    app = web.Application(client_max_size=max_bytes, middlewares=[_ANSWERING])
    app.router.add_post("/v1/traces", _post_traces(store, max_bytes))
    for signal in ("metrics", "logs"):
        app.router.add_post(f"/v1/{signal}", _not_here(signal))
    return app


def _post_traces(store: Store, max_bytes: int) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def post(request: web.Request) -> web.Response:
        kind = request.content_type
        if kind not in (decode.PROTOBUF, decode.JSON):
            message = f"Content-Type must be {decode.PROTOBUF} or {decode.JSON}, got {kind!r}"
            return _failure(request, 415, Error(Code.INVALID_ARGUMENT, message, reason="INVALID_EXPORT"))
        body = await request.read()
        encoding = request.headers.get("Content-Encoding", "")
        export = await asyncio.to_thread(decode.decode, body, kind, encoding, max_bytes)
        outcome = store.add(export.resource_spans)
        _report(store, outcome)
        return _message(kind, 200, decode.success(outcome))

    return post


def _not_here(signal: str) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def post(request: web.Request) -> web.Response:
        return _failure(request, 404, _traces_only(signal))

    return post


def _failure(request: web.Request, status: int, error: Error) -> web.Response:
    """An error as google.rpc.Status, in the form that the request has."""
    return _message(request.content_type, status, to_status(error))


_ANSWERING = answering(_failure, offers=": POST exports to /v1/traces", name="the sink")


def _message(content_type: str, status: int, message: Message) -> web.Response:
    if content_type == decode.PROTOBUF:
        return web.Response(status=status, body=message.SerializeToString(), content_type=decode.PROTOBUF)
    return web.Response(status=status, text=json_format.MessageToJson(message, indent=None), content_type=decode.JSON)


def _report(store: Store, outcome: Outcome) -> None:
    if outcome.refused:
        # The first time is news; an exporter that does it does it with every export.
        level = logging.WARNING if outcome.refused == store.counts.refused else logging.DEBUG
        log.log(level, "%d spans refused: %s", outcome.refused, outcome.reason)
