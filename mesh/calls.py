"""What happens around every inbound call: trace, deadline, validation, error mapping, limit, drain.

A handler is wrapped once, when it is registered; `grpc.aio` interceptors do the same at several times the cost.
gRPC itself cancels a handler when its caller's deadline is over or its caller goes away, so no timer is set here.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc
from opentelemetry.trace import INVALID_SPAN, Span

from mesh import deadline, metrics, tracing, watchdog
from mesh.errors import Code, Error
from mesh.load import Load
from mesh.pace import Pace
from mesh.recovery import now
from mesh.status import DETAILS_KEY, clipped, to_status
from mesh.validation import Check, check_of

if TYPE_CHECKING:
    from types import TracebackType

    from mesh.access import Access, Open


    _RpcMethodHandler = grpc.RpcMethodHandler[Any, Any]
else:
    _RpcMethodHandler = grpc.RpcMethodHandler

log = logging.getLogger("mesh.server")

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"

Trailer: TypeAlias = tuple[tuple[str, str | bytes], ...]

_STATUS_CODES = {code.value[0]: code for code in grpc.StatusCode}
_PASSED_ON = frozenset({Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED})
"""Codes of a failed outbound call that tell the caller the truth about this call too."""


_NOBODY_WAITS = frozenset({Code.CANCELLED, Code.DEADLINE_EXCEEDED})
"""Codes of calls that were over before they were done."""

_RETRY_AFTER_SECONDS = 1.0
_PUSHBACK = ("grpc-retry-pushback-ms", str(round(_RETRY_AFTER_SECONDS * 1000)))
"""Tells gRPC clients that may try again how long to wait first (gRFC A6)."""


@dataclass
class Calls:
    """Calls in hand of one server, and what they share."""

    source: tracing.Source
    load: Load
    most_streams: int
    """Calls with a stream either way that it has in hand at most."""
    streams: set[asyncio.Task[Any]] = field(default_factory=set)
    """Tasks that answer with a stream; a draining server ends them before its grace is over."""
    draining: bool = False
    access: Access | None = None
    """Who may call; None for everybody."""

    def end_streams(self) -> None:
        """End open response streams with UNAVAILABLE, so that their callers go to another instance."""
        self.draining = True
        for task in self.streams:
            task.cancel()

    def refusal(self, method: Method, left_seconds: float | None) -> Refusal | None:
        """Why a call is not begun, None where it is."""
        if self.load.in_flight >= self.load.limit:
            return _full(self.load.limit, "calls")
        if not method.unary:
            return _full(self.most_streams, "streams") if self.load.streams >= self.most_streams else None
        return None if method.pace.takes(now(), left_seconds) else _TOO_LATE

    async def refuse(self, method: Method, context: Context, refusal: Refusal) -> None:
        """End a call that is not begun, for the same few things to see as of any other."""
        span = self.span(method, context, context.time_remaining())
        method.durations.record(Code.RESOURCE_EXHAUSTED, 0.0, span)
        tracing.end_server_span(span, Code.RESOURCE_EXHAUSTED)
        await refusal.answer(context, self.load.trailer)

    def span(self, method: Method, context: Context, left_seconds: float | None) -> Span:
        """Begin the span of a call."""
        inbound = tracing.Inbound.of(context.invocation_metadata() or ())
        span = tracing.server_span(self.source, method.name, method.attributes, inbound)
        if span.is_recording():
            tracing.set_caller(span, context.peer(), left_seconds)
        return span

    def wrap(self, path: str, handler: Handler) -> Handler:
        """The handler of one method with everything around it. Raises `InvalidConfig` for impossible field rules."""
        return _Wrapped(handler, Method.of(path, handler, check_of(path)), self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Method:
    """What is the same for all calls of one method."""

    name: str
    """Full name without a leading slash, as spans have it."""
    path: str
    attributes: dict[str, str]
    check: Check | None
    streams: bool
    """Whether it answers with a stream."""
    unary: bool
    """Whether a call is one message each way."""
    durations: metrics.Durations
    pace: Pace = field(default_factory=Pace)
    """Of unary calls."""

    @classmethod
    def of(cls, path: str, handler: Handler, check: Check | None) -> Method:
        """From the path `/package.Service/Name`."""
        name = path.lstrip("/")
        attributes = {"rpc.system.name": "grpc", "rpc.method": name}
        streams = bool(handler.response_streaming)
        unary = not (streams or handler.request_streaming)
        durations = metrics.Durations(metrics.SERVED, name)
        return cls(
            name=name, path=f"/{name}", attributes=attributes, check=check, streams=streams, unary=unary,
            durations=durations,
        )  # fmt: skip


class Call:
    """One inbound call, as the block that handles it."""

    __slots__ = ("_begun", "_calls", "_context", "_method", "_opened", "span")

    def __init__(self, calls: Calls, method: Method, context: Context) -> None:
        self._calls = calls
        self._method = method
        self._context = context
        self._opened: Open | None = None
        self.span: Span = INVALID_SPAN

    def admit(self) -> None:
        """Raise Error where the caller may not call; a stream may also be ended later."""
        if (access := self._calls.access) is None:
            return
        if self._method.unary:
            access.admit(self._method.path, self._context)
        else:
            self._opened = access.admit_stream(self._method.path, self._context, _this_task())

    async def __aenter__(self) -> None:
        calls, method = self._calls, self._method
        left: float | None = self._context.time_remaining()
        deadline.begin(left)
        self.span = calls.span(method, self._context, left)
        self._begun = now()
        calls.load.begin(self._begun, unary=method.unary)
        if method.unary:
            method.pace.begin(self._begun)
        if method.streams:
            calls.streams.add(_this_task())

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._method.streams:
            self._calls.streams.discard(_this_task())
        if self._opened and self._calls.access:
            self._calls.access.close(self._opened)
        refusal = self._refusal(error)
        code = refusal.code if refusal else self._code(error)
        load, ended = self._calls.load, now()
        load.end(ended, failed=code in tracing.SERVER_FAULTS, unary=self._method.unary)
        self._method.durations.record(code, ended - self._begun, self.span)
        if self._method.unary:
            self._method.pace.end(ended, took_seconds=ended - self._begun, in_time=code not in _NOBODY_WAITS)
        tracing.end_server_span(self.span, code)
        if refusal:
            await abort(self._context, refusal, load.trailer)
        elif error is None and load.trailer:
            self._context.set_trailing_metadata((*(self._context.trailing_metadata() or ()), *load.trailer))

    def _code(self, error: BaseException | None) -> Code:
        """Status of a call that needs no mapping: it ended by itself, aborted, or was cancelled."""
        if isinstance(error, asyncio.CancelledError):
            return Code.DEADLINE_EXCEEDED if deadline.remaining() == 0 else Code.CANCELLED
        return code_of(self._context.code())

    def _refusal(self, error: BaseException | None) -> Error | None:
        """What to abort the call with; None when it is to end as it does.

        A stream that may be no more is refused however its handler took the end: it may have caught it, and answered.
        """
        if isinstance(error, grpc.aio.AbortError):
            return None
        if self._opened and self._opened.refusal and not self._context.cancelled():
            return self._opened.refusal
        if isinstance(error, asyncio.CancelledError):
            drained = self._calls.draining and self._method.streams and not self._context.cancelled()
            return _draining() if drained else None
        if not isinstance(error, Exception):
            return None
        if isinstance(error, Error):
            return error
        if deadline.remaining() == 0:
            return Error(Code.DEADLINE_EXCEEDED, "the deadline of the call is over")
        if isinstance(error, NotImplementedError):
            return Error(Code.UNIMPLEMENTED, f"{self._method.name} is not offered here")
        return _dependency(error) or self._internal(error)

    def _internal(self, error: Exception) -> Error:
        """Says nothing about the error but an id, with which the log tells all."""
        error_id = secrets.token_hex(8)
        log.error("%s failed, error id %s", self._method.name, error_id, exc_info=error)
        tracing.record_error(self.span, error)
        return Error(Code.INTERNAL, f"internal error {error_id}", reason="INTERNAL", metadata={"error_id": error_id})


class _Wrapped(_RpcMethodHandler):
    """The handler that gRPC sees in place of a servicer's."""

    def __init__(self, handler: Handler, method: Method, calls: Calls) -> None:
        self.request_streaming = handler.request_streaming
        self.response_streaming = handler.response_streaming
        self.request_deserializer = _forgiving(handler.request_deserializer)
        self.response_serializer = handler.response_serializer
        self.unary_unary = self.unary_stream = self.stream_unary = self.stream_stream = None
        if handler.response_streaming:
            inner = handler.stream_stream if handler.request_streaming else handler.unary_stream
        else:
            inner = handler.stream_unary if handler.request_streaming else handler.unary_unary
        setattr(self, _arity(handler), _around(inner, handler, method, calls))


def _arity(handler: Handler) -> str:
    words = ("unary", "stream")
    return f"{words[handler.request_streaming]}_{words[handler.response_streaming]}"


def _around(inner: Callable[..., Any] | None, handler: Handler, method: Method, calls: Calls) -> Callable[..., Any]:
    if inner is None:
        raise TypeError(f"{method.name} has no behaviour")
    admit = _stream_admission(method.check) if handler.request_streaming else _admission(method.check)

    async def unary(request: Any, context: Context) -> Any:
        if refusal := calls.refusal(method, context.time_remaining()):
            await calls.refuse(method, context, refusal)
        call = Call(calls, method, context)
        async with call:
            call.admit()
            return await inner(admit(request), context)

    async def stream(request: Any, context: Context) -> None:
        if refusal := calls.refusal(method, context.time_remaining()):
            await calls.refuse(method, context, refusal)
        call = Call(calls, method, context)
        async with call:
            call.admit()
            await _pump(inner(admit(request), context), context)

    for each in (unary, stream):
        watchdog.spans_in(each.__code__, _span_of)
    return stream if handler.response_streaming else unary


def _span_of(variables: dict[str, Any]) -> Span | None:
    """The span of a call, by the local variables of the function that handles it."""
    call = variables.get("call")
    return call.span if call else None


class _Undecodable:
    """Stands for a message whose bytes are not what the method takes: gRPC itself would answer UNKNOWN."""


def _forgiving(deserialize: Callable[[bytes], Any] | None) -> Callable[[bytes], Any] | None:
    if deserialize is None:
        return None

    def decode(data: bytes) -> Any:
        try:
            return deserialize(data)
        except Exception:  # a deserializer may raise anything for bytes that a caller chose
            return _Undecodable

    return decode


def _admission(check: Check | None) -> Callable[[Any], Any]:
    def admit(request: Any) -> Any:
        if request is _Undecodable:
            raise Error(
                Code.INVALID_ARGUMENT, "the request is no valid message of this method", reason="MALFORMED_REQUEST"
            )
        if check:
            check(request)
        return request

    return admit


def _stream_admission(check: Check | None) -> Callable[[Any], Any]:
    admit_one = _admission(check)

    async def admit(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for request in requests:
            yield admit_one(request)

    return admit


async def _pump(answers: Any, context: Context) -> None:
    """Run a streaming behaviour of either style: a generator of answers, or a coroutine that writes them."""
    if inspect.isawaitable(answers):
        await answers
        return
    try:
        async for message in answers:
            await context.write(message)
    finally:
        if hasattr(answers, "aclose"):
            await answers.aclose()


def code_of(code: Any) -> Code:
    """A code as gRPC has it: a `StatusCode`, a number, or None for OK."""
    if code is None:
        return Code.OK
    return Code(code.value[0] if isinstance(code, grpc.StatusCode) else int(code))


def _this_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task


async def abort(context: Context, error: Error, more: Trailer = ()) -> None:
    """End the call with an error, its details and more, keeping what the servicer put into the trailer."""
    details = (DETAILS_KEY, to_status(error).SerializeToString())
    trailer = (*(context.trailing_metadata() or ()), details, *more)
    await context.abort(_STATUS_CODES[int(error.code)], clipped(error.message), trailer)


@dataclass(frozen=True, slots=True)
class Refusal:
    """The answer to a call that is not begun, made once: a server that has too much to do has no time for more."""

    message: str
    details: bytes

    @classmethod
    def of(cls, message: str) -> Refusal:
        """RESOURCE_EXHAUSTED, and when to come back."""
        error = Error(
            Code.RESOURCE_EXHAUSTED, message, reason="OVERLOADED", retry_after_seconds=_RETRY_AFTER_SECONDS
        )
        return cls(message, to_status(error).SerializeToString())

    async def answer(self, context: Context, more: Trailer) -> None:
        """End the call."""
        trailer: Trailer = ((DETAILS_KEY, self.details), _PUSHBACK, *more)
        await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, self.message, trailer)


@cache
def _full(limit: int, of_what: str) -> Refusal:
    return Refusal.of(f"this instance has {limit} {of_what} in hand; try again")


_TOO_LATE = Refusal.of("calls before this one would keep it until it is too late; try again")


def _draining() -> Error:
    return Error(Code.UNAVAILABLE, "this instance is stopping; call again", reason="DRAINING")


def _dependency(error: Exception) -> Error | None:
    """A failed outbound call that the servicer did not handle, where its code holds for this call too."""
    if isinstance(error, grpc.aio.AioRpcError) and code_of(error.code()) in _PASSED_ON:
        log.warning("an outbound call failed and was not handled: %s %s", error.code().name, error.details())
        message = "a service that this call needs cannot serve it"
        return Error(code_of(error.code()), message, reason="DEPENDENCY_FAILED")
    return None
