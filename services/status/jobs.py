"""The tasks that there are, and what each does."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import grpc

from mesh.recovery import Backoff, Failures
from meshwright.order.v1.order_service_pb2 import SweepOrdersRequest
from meshwright.sync.v1 import sync_pb2
from meshwright.sync.v1.sync_service_pb2 import ListProvidersRequest, StartSyncRequest, WatchSyncRequest
from services.status.tasks import Task, TaskFailed

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import timedelta
    from uuid import UUID

    from meshwright.order.v1.order_service_pb2_grpc import OrderServiceAsyncStub
    from meshwright.sync.v1.sync_service_pb2_grpc import SyncServiceAsyncStub
    from services.status.probes import Stubs
    from services.status.store import TaskStore
    from services.status.tasks import TaskSettings, Work

BATCH = 1000
"""Most rows that one statement deletes."""

_FINAL = (sync_pb2.Sync.STATE_SUCCEEDED, sync_pb2.Sync.STATE_FAILED, sync_pb2.Sync.STATE_CANCELLED)
_AGAIN = Backoff(first_seconds=0.2, limit_seconds=10.0)


def tasks(settings: TaskSettings, services: Stubs, store: TaskStore) -> list[Task]:
    """The tasks that have times."""
    found = []
    if settings.sync is not None:
        found.append(Task(name="sync", times=settings.sync, works=partial(pulls, services.sync)))
    if settings.sweep is not None:
        found.append(Task.of("sweep", settings.sweep, partial(sweep, services.order)))
    if settings.clean_up is not None:
        found.append(Task.of("clean-up", settings.clean_up, partial(clean_up, store, settings.retention)))
    return found


async def pulls(stub: SyncServiceAsyncStub) -> Mapping[str, Work]:
    """Work for each provider that SyncService has."""
    found = await stub.ListProviders(ListProvidersRequest(), wait_for_ready=True)
    return {f"sync:{provider.name}": partial(pull, stub, provider.name) for provider in found.providers}


async def pull(stub: SyncServiceAsyncStub, provider: str, run_id: UUID) -> str:
    """Have SyncService pull all users of a provider, and follow that to its end; the request has the id of the run."""
    request = StartSyncRequest(request_id=str(run_id), provider=provider)
    sync = await stub.StartSync(request, wait_for_ready=True)
    failures = Failures()
    while sync.state not in _FINAL:
        try:
            async for change in stub.WatchSync(WatchSyncRequest(id=sync.id)):
                sync = change.sync
                failures.reset()
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
        if sync.state not in _FINAL:
            await failures.wait(_AGAIN)
    return outcome(sync)


def outcome(sync: sync_pb2.Sync) -> str:
    """What a run that has ended did. Raises `TaskFailed` unless it succeeded."""
    counts = sync.counts
    summary = (
        f"{sync.provider}: {counts.fetched} users, of which {counts.created} created, {counts.updated} updated, "
        f"{counts.unchanged} unchanged, {counts.failed} failed; {counts.deactivated} deactivated"
    )
    if sync.state == sync_pb2.Sync.STATE_SUCCEEDED:
        return summary
    state = sync_pb2.Sync.State.Name(sync.state).removeprefix("STATE_")
    raise TaskFailed(f"sync {sync.id} is {state} after {summary}{f': {sync.error}' if sync.error else ''}")


async def sweep(stub: OrderServiceAsyncStub, run_id: UUID) -> str:
    """Have OrderService make orders pending again whose workers are gone."""
    found = await stub.SweepOrders(SweepOrdersRequest(), wait_for_ready=True)
    return f"{found.orders} orders are pending again, as their workers are gone"


async def clean_up(store: TaskStore, retention: timedelta, run_id: UUID) -> str:
    """Delete task results that are older than the retention, a batch at a time."""
    deleted = 0
    while (batch := await store.clean_up(retention, BATCH)) > 0:
        deleted += batch
    return f"{deleted} task results deleted"
