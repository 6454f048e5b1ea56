"""StatusService: what a caller asks for, found out and answered."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from mesh import deadline
from mesh.recovery import now
from meshwright.status.v1 import status_pb2, status_service_pb2
from meshwright.status.v1.status_service_pb2_grpc import StatusServiceServicer
from services import paging
from services.events import trace
from services.events.model import Seen, Wanted
from services.status import task_wire, wire
from services.status.survey import survey, together

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mesh.scope import Scope
    from services.events.hub import Hub
    from services.status.probes import Parts
    from services.status.store import TaskStore

PROBE_SECONDS = 2.0
"""Longest time that a part gets to answer."""

QUIET_SECONDS = 15.0
"""A watcher of events is told after so long without any that the stream still stands."""

SHARE = 0.8
"""Share of the caller's deadline that parts may take, so that what they did not answer can still be said."""


class StatusServicer(StatusServiceServicer):
    """The methods of the contract, whose comments say what each does."""

    def __init__(
        self, parts: Parts, events: Hub, tasks: TaskStore, scope: Scope, *, quiet_seconds: float = QUIET_SECONDS
    ) -> None:
        self._parts = parts
        self._events = events
        self._tasks = tasks
        self._scope = scope
        self._quiet_seconds = quiet_seconds

    async def GetSystemStatus(
        self, request: status_service_pb2.GetSystemStatusRequest, context: Any
    ) -> status_pb2.SystemStatus:
        return together(await survey(self._parts, self._scope, _budget()))

    async def ListTaskResults(
        self, request: status_service_pb2.ListTaskResultsRequest, context: Any
    ) -> status_service_pb2.ListTaskResultsResponse:
        wanted = task_wire.wanted(request)
        filters = {name: str(value) for name, value in vars(wanted).items() if value is not None}
        limit = paging.size(request.page_size)
        after = paging.decode(request.page_token, filters, paging.parse_timed)
        results = await self._tasks.page(wanted, after=after, limit=limit + 1)
        shown, token = paging.cut(results, limit, lambda last: paging.timed(last.start_time, last.id), filters)
        return status_service_pb2.ListTaskResultsResponse(
            task_results=[task_wire.message(result) for result in shown], next_page_token=token
        )

    async def ListServices(
        self, request: status_service_pb2.ListServicesRequest, context: Any
    ) -> status_service_pb2.ListServicesResponse:
        listing = await self._parts.directory.read()
        return status_service_pb2.ListServicesResponse(
            services=[wire.service(service, listing.time) for service in listing.services]
        )

    async def WatchEvents(
        self, request: status_service_pb2.WatchEventsRequest, context: Any
    ) -> AsyncIterator[status_service_pb2.WatchEventsResponse]:
        wanted = Wanted.of(request.types, request.subject)
        text = request.last_event_id or _header(context)
        following = self._events.follow(Seen.parse(text) if text else None, self._quiet_seconds)
        told = now()
        async with aclosing(following) as batches:
            async for events, seen in batches:
                for event, at in wanted.among(events, seen):
                    trace.follow(event.traceparent)
                    yield status_service_pb2.WatchEventsResponse(event=event, last_event_id=str(at))
                    told = now()
                if not events or now() - told >= self._quiet_seconds:
                    yield status_service_pb2.WatchEventsResponse(last_event_id=str(seen.after(events)))
                    told = now()


def _header(context: Any) -> str:
    values = (value for key, value in context.invocation_metadata() or () if key == "last-event-id")
    return next(map(str, values), "")


def _budget() -> float:
    left = deadline.remaining()
    return PROBE_SECONDS if left is None else min(PROBE_SECONDS, left * SHARE)
