"""`mesh.channel("order")`: a gRPC channel to a service on the mesh, in one `async with`.

gRPC itself resolves, balances and retries, by xDS from the local sidecar. What it cannot do from Python is added
around each call: an exact deadline (its own fire 1 to 2 s early, grpc/grpc#34547), the trace, and a span. The
calls are gRPC's own objects, so everything that `grpc.aio` documents about them holds.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Self

import grpc
from grpc.experimental import insecure_channel_credentials

from mesh import config, deadline, local_sidecar, metrics, telemetry, tracing
from mesh.calls import code_of
from mesh.errors import Code
from mesh.policies import Policies
from mesh.recovery import now

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import TracebackType

    from opentelemetry.trace import Span

_SPENT = "the deadline of the call being handled is over, so this call was not sent"


class Channel(grpc.aio.Channel):
    """The interface of `grpc.aio.Channel`, for generated stubs. Use as an async context manager."""

    def __init__(
        self, service: str, inner: grpc.aio.Channel, policies: Policies, settings: config.Settings, target: str = ""
    ) -> None:
        """Without a `target` it opens only when the policy is known, so that it holds for the first call too."""
        self.service = service
        self._place = tracing.place(service, target)
        self._inner = inner
        self._policies = policies
        self._settings = settings
        self._waits = not target
        self._group = asyncio.TaskGroup()
        self._follower: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        telemetry.begin(self._settings.telemetry)
        await self._group.__aenter__()
        self._follower = self._group.create_task(self._policies.follow(), name=f"policy of {self.service}")
        try:
            if self._waits:
                await self._policies.wait()
        except asyncio.CancelledError:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close. The group learns nothing of an error, because it would wrap it."""
        try:
            await self.close()
            await self._group.__aexit__(None, None, None)
        finally:
            await telemetry.end()

    async def close(self, grace: float | None = None) -> None:
        """Close the connections; calls in hand may take so many seconds."""
        if self._follower:
            self._follower.cancel()
        await self._inner.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """As in `grpc.aio.Channel`."""
        return self._inner.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """As in `grpc.aio.Channel`."""
        await self._inner.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """As in `grpc.aio.Channel`."""
        await self._inner.channel_ready()

    def unary_unary(self, method: str, *codec: Any, **options: Any) -> Any:
        """As in `grpc.aio.Channel`."""
        return _sender(self._inner.unary_unary(method, *codec, **options), self._call(method, streams=False))

    def unary_stream(self, method: str, *codec: Any, **options: Any) -> Any:
        """As in `grpc.aio.Channel`."""
        return _sender(self._inner.unary_stream(method, *codec, **options), self._call(method, streams=True))

    def stream_unary(self, method: str, *codec: Any, **options: Any) -> Any:
        """As in `grpc.aio.Channel`."""
        return _stream_sender(self._inner.stream_unary(method, *codec, **options), self._call(method, streams=True))

    def stream_stream(self, method: str, *codec: Any, **options: Any) -> Any:
        """As in `grpc.aio.Channel`."""
        return _stream_sender(self._inner.stream_stream(method, *codec, **options), self._call(method, streams=True))

    def _call(self, path: str, *, streams: bool) -> _Calls:
        return _Calls(self.service, self._place, path, streams, self._policies)


class _Calls:
    """What is added around each call of one method."""

    def __init__(
        self, service: str, place: Mapping[str, str | int], path: str, streams: bool, policies: Policies
    ) -> None:
        self._path = path
        self._streams = streams
        self._policies = policies
        self._name = path.lstrip("/")
        self._source = tracing.Source()
        self._attributes = {"rpc.system.name": "grpc", "rpc.method": self._name, **place}
        self._durations = metrics.Durations(metrics.SENT, self._name, service)

    def begin(
        self, start: Callable[..., Any], request: Any, timeout: float | None, metadata: Any, rest: dict[str, Any]
    ) -> Any:
        """Send a call bounded by its own time-out or the policy's, and by the budget of the call being handled."""
        if timeout is None:
            timeout = self._policies.timeout(self._path, streams=self._streams)
        timeout = deadline.bound(timeout)
        span, begun = tracing.client_span(self._source, self._name, self._attributes), now()
        if timeout is not None and timeout <= 0:
            self._end(span, begun, Code.DEADLINE_EXCEEDED)
            raise grpc.aio.AioRpcError(
                grpc.StatusCode.DEADLINE_EXCEEDED, grpc.aio.Metadata(), grpc.aio.Metadata(), _SPENT
            )
        try:
            call = start(request, timeout=timeout, metadata=_with_context(metadata, span), **rest)
        except BaseException:
            self._end(span, begun, Code.UNKNOWN)
            raise
        if timeout is not None and span.is_recording():
            span.set_attribute("meshwright.deadline_seconds", timeout)
        call.add_done_callback(lambda done: self._end(span, begun, _final_code(done)))
        return call

    def _end(self, span: Span, begun: float, code: Code) -> None:
        self._durations.record(code, now() - begun, span)
        if span.is_recording():
            tracing.end_client_span(span, code)


def _sender(inner: Callable[..., Any], calls: _Calls) -> Callable[..., Any]:
    def send(request: Any, *, timeout: float | None = None, metadata: Any = None, **rest: Any) -> Any:
        return calls.begin(inner, request, timeout, metadata, rest)

    return send


def _stream_sender(inner: Callable[..., Any], calls: _Calls) -> Callable[..., Any]:
    """The same for requests that stream, whose parameters have other names and places in `grpc.aio`."""

    def send(
        request_iterator: Any = None, timeout: float | None = None, metadata: Any = None,
        credentials: Any = None, wait_for_ready: bool | None = None, compression: Any = None,
    ) -> Any:  # fmt: skip
        rest = {"credentials": credentials, "wait_for_ready": wait_for_ready, "compression": compression}
        return calls.begin(inner, request_iterator, timeout, metadata, rest)

    return send


def channel(service: str, settings: config.Settings | None = None, *, target: str = "") -> Channel:
    """A channel to a service; without settings, from the environment of this process.

    `target` names another address than `xds:///<service>` in gRPC's syntax, such as `dns:///host:port`; then no
    sidecar is needed, and its policy is followed only where the settings name one.

    Deadlines: `timeout=` of the call, else the live policy, else 5 s (none for streams), and always within what is
    left of the call being handled; a call for which nothing is left is not sent, and raises DEADLINE_EXCEEDED at once.
    Opening one waits for the policy, up to a second, unless a `target` is given: then early calls may get the defaults.
    Raises `InvalidConfig` when there is no sidecar to ask.

        async with mesh.channel("order") as channel:
            order = await OrderServiceStub(channel).GetOrder(GetOrderRequest(id=...))
    """
    settings = config.from_process() if settings is None else settings
    on_mesh = bool(not target or settings.bootstrap_file or settings.bootstrap)
    sidecar = local_sidecar.address_of(settings) if on_mesh else ""
    inner = _dial(service, settings, target)
    return Channel(service, inner, Policies(service, sidecar), settings, target)


def _dial(service: str, settings: config.Settings, target: str) -> grpc.aio.Channel:
    """Over xDS with TLS where the sidecar says so; an address is dialled in plaintext."""
    chosen = options(settings, xds=not target)
    if target:
        return grpc.aio.insecure_channel(target, chosen)
    fallback = insecure_channel_credentials()  # type: ignore[no-untyped-call]
    return grpc.aio.secure_channel(f"xds:///{service}", grpc.xds_channel_credentials(fallback), chosen)


def options(settings: config.Settings, *, xds: bool) -> tuple[tuple[str, Any], ...]:
    """Arguments of the gRPC channel. https://github.com/grpc/grpc/blob/master/include/grpc/impl/channel_arg_names.h"""
    chosen: tuple[tuple[str, Any], ...] = (
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.max_send_message_length", settings.max_message_bytes),
        ("grpc.keepalive_time_ms", int(settings.keepalive_seconds * 1000)),
        ("grpc.keepalive_timeout_ms", int(settings.keepalive_timeout_seconds * 1000)),
        ("grpc.http2.ping_timeout_ms", int(settings.keepalive_timeout_seconds * 1000)),
        ("grpc.http2.max_pings_without_data", 0),
    )
    if xds and settings.bootstrap and not settings.bootstrap_file:
        return (*chosen, (local_sidecar.BOOTSTRAP_OPTION, settings.bootstrap))
    return chosen


class _Pairs(grpc.aio.Metadata):
    """Metadata that is only sent: gRPC would first build a dictionary of lists, at a twentieth of the whole call."""

    def __init__(self, pairs: tuple[tuple[str, str | bytes], ...]) -> None:
        self._pairs = pairs

    def __len__(self) -> int:
        return len(self._pairs)

    def __iter__(self) -> Iterator[tuple[str, str | bytes]]:
        return iter(self._pairs)


def _with_context(metadata: Any, span: Span) -> Any:
    """The caller's metadata and the trace context, unless the caller gave one."""
    added = tracing.trace_context(span)
    if not added:
        return metadata
    if not metadata:
        return _Pairs(added)
    given = tuple(metadata)
    return _Pairs(given if any(key == "traceparent" for key, _ in given) else (*given, *added))


def _final_code(call: Any) -> Code:
    """Status of a call that is done: then its coroutine `code` does not wait, so one step runs it to its end."""
    coroutine = call.code()
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return code_of(stop.value)
    coroutine.close()
    return Code.UNKNOWN
