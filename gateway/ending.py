"""Ends streams through the edge once an intention denies them: Envoy asks, as `gateway.streams` has it.

Only when Envoy keeps to the intention, so that a stream that was ended cannot begin again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine
from contextlib import suppress
from typing import Any, Final, NamedTuple

import grpc
from envoy.service.ext_proc.v3.external_processor_pb2 import (
    HeadersResponse,
    ProcessingRequest,
    ProcessingResponse,
    TrailersResponse,
)

from gateway.refusals import ENDED
from gateway.security import EDGE
from gateway.streams import CLUSTER, SERVICE
from mesh.errors import Code
from mesh.intentions import Intentions
from mesh.latest import Latest
from mesh.xds.server import AdsServicer
from mesh.xds.snapshot import ROUTE

PATIENCE_SECONDS: Final = 5.0
"""How long Envoy may take to keep to new intentions. Streams end all the same when it has refused what says so."""

_log = logging.getLogger(__name__)


class Stream(NamedTuple):
    """One that is open."""

    service: str
    path: str
    headers: dict[str, str]

    @classmethod
    def of(cls, first: ProcessingRequest) -> Stream:
        """As Envoy tells of it."""
        headers: dict[str, str] = {}
        for one in first.request_headers.headers.headers:  # one that is repeated is all of them, as Envoy's RBAC has it
            text = one.raw_value.decode(errors="replace")
            headers[one.key] = f"{headers[one.key]},{text}" if one.key in headers else text
        told = first.attributes["envoy.filters.http.ext_proc"].fields[CLUSTER].string_value
        return cls(told.partition(":")[0], headers.get(":path", "").partition("?")[0], headers)


def add_ending(server: grpc.aio.Server, intentions: Latest[Intentions | None]) -> None:
    """Have a server end streams that may be no more."""

    async def process(requests: AsyncIterator[ProcessingRequest], context: Any) -> AsyncIterator[ProcessingResponse]:
        if not (first := await anext(requests, None)):
            return
        stream = Stream.of(first)
        yield ProcessingResponse(request_headers=HeadersResponse())
        reason = await _while_open(requests, _denied(stream, intentions))
        if reason:
            _log.info("a stream of %s to %s%s is ended: %s", EDGE, stream.service, stream.path, reason)
        yield _ending() if reason else ProcessingResponse(response_trailers=TrailersResponse())

    handler = grpc.stream_stream_rpc_method_handler(
        process, ProcessingRequest.FromString, ProcessingResponse.SerializeToString
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"Process": handler}),))


async def follow(
    intended: Latest[Intentions | None],
    ads: AdsServicer,
    kept: Latest[Intentions | None],
    *,
    patience_seconds: float = PATIENCE_SECONDS,
) -> None:
    """Pass intentions on as soon as Envoy keeps to them, until cancelled: it is sent what follows from `intended`."""
    async for current in intended.changes():
        with suppress(TimeoutError):
            async with asyncio.timeout(patience_seconds):
                await ads.taken(ROUTE)
        kept.set(current)


async def _while_open(requests: AsyncIterator[ProcessingRequest], denied: Coroutine[Any, Any, str]) -> str:
    """Why a stream may be no more; empty when it ends before that."""
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(denied)
        over = group.create_task(_over(requests))
        await asyncio.wait((waiting, over), return_when=asyncio.FIRST_COMPLETED)
        reason = waiting.result() if waiting.done() else ""
        waiting.cancel()
        over.cancel()
    return reason


async def _over(requests: AsyncIterator[ProcessingRequest]) -> None:
    async for _ in requests:  # what it ends with
        return


async def _denied(stream: Stream, intentions: Latest[Intentions | None]) -> str:
    """Why, as soon as it is."""
    async for current in intentions.changes():
        if current and not (decision := current.decide(EDGE, *stream)).allowed:
            return decision.reason
    return ""


def _ending() -> ProcessingResponse:
    made = ProcessingResponse()
    made.immediate_response.status.code = Code.PERMISSION_DENIED.http_status
    made.immediate_response.grpc_status.status = int(Code.PERMISSION_DENIED)
    made.immediate_response.details = ENDED
    return made
