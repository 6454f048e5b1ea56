"""The aggregated discovery service: snapshots in, one gRPC stream for each client out."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, Protocol

import grpc
from envoy.service.discovery.v3.ads_pb2_grpc import AggregatedDiscoveryServiceServicer
from envoy.service.discovery.v3.discovery_pb2 import (
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
    DiscoveryRequest,
    DiscoveryResponse,
)

from mesh.latest import Latest
from mesh.metrics import PROPAGATION, XDS_ACKS, XDS_NACKS, XDS_PUSHES, XDS_STREAMS
from mesh.recovery import now
from mesh.scope import Scope
from mesh.xds.dialect import Dialect
from mesh.xds.snapshot import ORDER, Snapshot, short
from mesh.xds.stream import Stream
from mesh.xds.subscription import Answer

_log = logging.getLogger(__name__)


class Source(Protocol):
    """Where snapshots come from."""

    def want(self, who: object, names: Iterable[str]) -> None:
        """A client now asks for these listeners, in place of what it asked for before; none when it is gone."""

    def snapshot(self, dialect: Dialect, zone: str = "") -> Snapshot:
        """The newest consistent snapshot for clients of a kind in a zone; the same object until something changes."""

    def changes(self) -> AsyncIterator[object]:
        """Yields now and whenever `snapshot` may answer something new; the newest wins."""


class AdsServicer(AggregatedDiscoveryServiceServicer):  # type: ignore[misc] # xds-protos ships no types
    """`envoy.service.discovery.v3.AggregatedDiscoveryService`, state of the world.

    A client that reads slowly is sent the newest snapshot when it is ready for one: nothing queues up.
    """

    def __init__(self, source: Source, propagated: Callable[[float], None] = PROPAGATION.observe) -> None:
        """`propagated` is told how long each client was behind each change that concerned it: from the moment at which
        the registry told of it until the client has taken all that follows."""
        self._source, self._propagated = source, propagated
        self.streams: set[Stream] = set()
        self._progress = Latest(None)
        for counted in (XDS_PUSHES, XDS_ACKS, XDS_NACKS):
            for type_url in ORDER:
                counted.labels(short(type_url))  # rates need the 0 before the 1

    async def taken(self, type_url: str) -> None:
        """Until every client has agreed to the newest of a type, and there is one."""
        async for _ in self._progress.changes():
            if self.streams and all(self._has_taken(stream, type_url) for stream in self.streams):
                return

    def _has_taken(self, stream: Stream, type_url: str) -> bool:
        available = self._source.snapshot(stream.dialect, stream.zone).of_type(type_url)
        subscription = stream.subscriptions.get(type_url)
        return subscription is not None and subscription.taken == available

    async def StreamAggregatedResources(
        self,
        request_iterator: AsyncIterator[DiscoveryRequest],
        context: grpc.aio.ServicerContext[DiscoveryRequest, DiscoveryResponse],
    ) -> None:
        """Serve one client until it goes away."""
        stream, due = Stream(), asyncio.Event()
        self.streams.add(stream)
        XDS_STREAMS.inc()
        try:
            async with Scope() as scope:
                scope.start(self._notice_changes(due))
                reading = scope.start(self._read(stream, request_iterator, due))
                await self._write(stream, context, due, reading)
        finally:
            self.streams.discard(stream)
            XDS_STREAMS.dec()
            self._source.want(stream, ())

    async def DeltaAggregatedResources(
        self,
        request_iterator: AsyncIterator[DeltaDiscoveryRequest],
        context: grpc.aio.ServicerContext[DeltaDiscoveryRequest, DeltaDiscoveryResponse],
    ) -> None:
        """Refused: no gRPC client speaks the incremental variant, and Envoy speaks both."""
        await context.abort(
            grpc.StatusCode.UNIMPLEMENTED,
            "incremental xDS is not offered: set api_type GRPC (state of the world) instead of DELTA_GRPC",
        )

    async def _notice_changes(self, due: asyncio.Event) -> None:
        async for _ in self._source.changes():
            due.set()

    async def _read(
        self, stream: Stream, requests: AsyncIterator[DiscoveryRequest], due: asyncio.Event
    ) -> None:
        async for request in requests:
            subscription, answer = stream.receive(request)
            if answer is Answer.ACK:
                XDS_ACKS.labels(short(request.type_url)).inc()
            elif answer is Answer.NACK:
                XDS_NACKS.labels(short(request.type_url)).inc()
                _log.warning(
                    "%s (%s) refused %s: %s",
                    stream.node.id, stream.user_agent, subscription.type_url, subscription.last_nack,
                )
            self._source.want(stream, stream.wanted())
            due.set()

    async def _write(
        self,
        stream: Stream,
        context: grpc.aio.ServicerContext[Any, DiscoveryResponse],
        due: asyncio.Event,
        reading: asyncio.Task[None],
    ) -> None:
        """Send what is due until the client has closed its side."""
        reading.add_done_callback(lambda _: due.set())
        while not reading.done():
            await due.wait()
            due.clear()
            snapshot, sent = self._source.snapshot(stream.dialect, stream.zone), False
            for response in stream.responses(snapshot):
                await context.write(response)
                XDS_PUSHES.labels(short(response.type_url)).inc()
                sent = True
            seconds = stream.propagation.look(snapshot.changed_at, sent=sent, settled=stream.settled, at=now())
            if seconds is not None:
                self._propagated(seconds)
            self._progress.put(None)
