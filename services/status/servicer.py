"""StatusService: everything asked side by side, and put together whatever did not answer."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from google.protobuf.timestamp_pb2 import Timestamp

from mesh import deadline
from meshwright.status.v1 import status_pb2, status_service_pb2
from meshwright.status.v1.status_service_pb2_grpc import StatusServiceServicer
from services.events import trace
from services.events.model import Seen, Wanted
from services.status import wire
from services.status.model import Totals, of_parts
from services.status.probes import Answer, ask

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from meshwright.sync.v1 import sync_pb2
    from services.events.hub import Hub
    from services.status.model import Service
    from services.status.probes import Parts

    Models = Mapping[str, Mapping[str, int] | None]

PROBE_SECONDS = 2.0
"""Longest time that a part gets to answer."""

QUIET_SECONDS = 15.0
"""A watcher of events is told after so long without any that the stream still stands."""

SHARE = 0.8
"""Share of the caller's deadline that parts may take, so that what they did not answer can still be said."""


class StatusServicer(StatusServiceServicer):
    """The methods of the contract, whose comments say what each does."""

    def __init__(self, parts: Parts, events: Hub, *, quiet_seconds: float = QUIET_SECONDS) -> None:
        self._parts = parts
        self._events = events
        self._quiet_seconds = quiet_seconds

    async def GetSystemStatus(
        self, request: status_service_pb2.GetSystemStatusRequest, context: Any
    ) -> status_pb2.SystemStatus:
        parts, seconds = self._parts, _budget()
        async with asyncio.TaskGroup() as group:
            services = group.create_task(ask(parts.services, seconds))
            postgres = group.create_task(ask(parts.postgres, seconds))
            redis = group.create_task(ask(parts.redis, seconds))
            sync = group.create_task(ask(parts.last_sync, seconds))
        return together(services.result(), postgres.result(), redis.result(), sync.result())

    async def ListServices(
        self, request: status_service_pb2.ListServicesRequest, context: Any
    ) -> status_service_pb2.ListServicesResponse:
        return status_service_pb2.ListServicesResponse(
            services=[wire.service(service) for service in await self._parts.services()]
        )

    async def WatchEvents(
        self, request: status_service_pb2.WatchEventsRequest, context: Any
    ) -> AsyncIterator[status_service_pb2.WatchEventsResponse]:
        wanted = Wanted.of(request.types, request.subject)
        text = request.last_event_id or _header(context)
        following = self._events.follow(Seen.parse(text) if text else None, self._quiet_seconds)
        async with aclosing(following) as batches:
            async for events, seen in batches:
                if not events:
                    yield status_service_pb2.WatchEventsResponse(last_event_id=str(seen))
                for event, at in wanted.among(events, seen):
                    trace.follow(event.traceparent)
                    yield status_service_pb2.WatchEventsResponse(event=event, last_event_id=str(at))


def together(
    services: Answer[tuple[Service, ...]],
    postgres: Answer[None],
    redis: Answer[Models],
    sync: Answer[sync_pb2.Sync | None],
) -> status_pb2.SystemStatus:
    """The status of the whole from what its parts answered."""
    components = [services.component("registry"), postgres.component("postgres"), redis.component("redis")]
    problems = [f"{part.name}: {part.error}" for part in components if part.error]
    if sync.error:
        problems.append(f"last sync: {sync.error}")
    healths = [*(service.health for service in services.value or ()), *(part.health for part in components)]
    time = Timestamp()
    time.GetCurrentTime()
    return status_pb2.SystemStatus(
        health=wire.health(of_parts(healths, all_known=not problems)),
        time=time,
        services=[wire.service(service) for service in services.value or ()],
        components=[wire.component(part) for part in components],
        totals=wire.totals(Totals(**(redis.value or {}))),
        last_sync=sync.value,
        problems=problems,
    )


def _header(context: Any) -> str:
    values = (value for key, value in context.invocation_metadata() or () if key == "last-event-id")
    return next(map(str, values), "")


def _budget() -> float:
    left = deadline.remaining()
    return PROBE_SECONDS if left is None else min(PROBE_SECONDS, left * SHARE)
