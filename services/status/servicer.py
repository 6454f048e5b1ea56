"""StatusService: everything asked side by side, and put together whatever did not answer."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID

from mesh import deadline
from mesh.recovery import now, time_of_day
from meshwright.status.v1 import status_pb2, status_service_pb2
from meshwright.status.v1.status_service_pb2_grpc import StatusServiceServicer
from services import paging
from services.events import trace
from services.events.model import Seen, Wanted
from services.status import task_wire, wire
from services.status.model import Totals, of_parts
from services.status.probes import Answer, ask
from services.timestamps import timestamp

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from datetime import datetime

    from mesh.scope import Scope
    from meshwright.sync.v1 import sync_pb2
    from services.events.hub import Hub
    from services.status.model import Service
    from services.status.probes import Parts
    from services.status.store import TaskStore

    Models = Mapping[str, Mapping[str, int] | None]

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
        parts, inquire = self._parts, partial(ask, self._scope, seconds=_budget())
        async with asyncio.TaskGroup() as group:
            services = group.create_task(inquire(parts.services))
            postgres = group.create_task(inquire(parts.postgres))
            redis = group.create_task(inquire(parts.redis))
            sync = group.create_task(inquire(parts.last_sync))
            failed = group.create_task(inquire(parts.failed_tasks))
        return together(services.result(), postgres.result(), redis.result(), sync.result(), failed.result())

    async def ListTaskResults(
        self, request: status_service_pb2.ListTaskResultsRequest, context: Any
    ) -> status_service_pb2.ListTaskResultsResponse:
        wanted = task_wire.wanted(request)
        filters = {name: str(value) for name, value in vars(wanted).items() if value is not None}
        limit = paging.size(request.page_size)
        results = await self._tasks.page(
            wanted, after=paging.decode(request.page_token, filters, _key), limit=limit + 1
        )
        last = results[limit - 1] if len(results) > limit else None
        return status_service_pb2.ListTaskResultsResponse(
            task_results=[task_wire.message(result) for result in results[:limit]],
            next_page_token=paging.encode((paging.micros(last.start_time), str(last.id)), filters) if last else "",
        )

    async def ListServices(
        self, request: status_service_pb2.ListServicesRequest, context: Any
    ) -> status_service_pb2.ListServicesResponse:
        return status_service_pb2.ListServicesResponse(
            services=[wire.service(service, time_of_day()) for service in await self._parts.services()]
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


def together(
    services: Answer[tuple[Service, ...]],
    postgres: Answer[None],
    redis: Answer[Models],
    sync: Answer[sync_pb2.Sync | None],
    failed: Answer[int],
) -> status_pb2.SystemStatus:
    """The status of the whole from what its parts answered."""
    components = [services.component("registry"), postgres.component("postgres"), redis.component("redis")]
    problems = [f"{part.name}: {part.error}" for part in components if part.error]
    problems += [f"{name}: {part.error}" for name, part in (("last sync", sync), ("tasks", failed)) if part.error]
    healths = [*(service.health for service in services.value or ()), *(part.health for part in components)]
    totals, at = Totals.of(**(redis.value or {})), time_of_day()
    return status_pb2.SystemStatus(
        health=wire.health(of_parts(healths, all_known=not problems)),
        time=timestamp(at),
        services=[wire.service(service, at) for service in services.value or ()],
        components=[wire.component(part) for part in components],
        totals=wire.totals(totals),
        last_sync=sync.value,
        problems=problems,
        failed_tasks=failed.value,
        queues=wire.queues(totals, at),
    )


def _header(context: Any) -> str:
    values = (value for key, value in context.invocation_metadata() or () if key == "last-event-id")
    return next(map(str, values), "")


def _budget() -> float:
    left = deadline.remaining()
    return PROBE_SECONDS if left is None else min(PROBE_SECONDS, left * SHARE)


def _key(parts: Sequence[Any]) -> tuple[datetime, UUID]:
    moment, result_id = parts
    return paging.moment(moment), UUID(paging.text(result_id))
