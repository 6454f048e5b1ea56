"""The tasks that there are, and what each does."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import grpc

from mesh.recovery import Backoff, Failures
from meshwright.sync.v1 import sync_pb2
from meshwright.sync.v1.sync_service_pb2 import StartSyncRequest, WatchSyncRequest
from services.status.tasks import Task, TaskFailed

if TYPE_CHECKING:
    from datetime import timedelta
    from uuid import UUID

    from meshwright.sync.v1.sync_service_pb2_grpc import SyncServiceAsyncStub
    from services.status.store import TaskStore
    from services.status.tasks import TaskSettings

BATCH = 1000
"""Most rows that one statement deletes."""

_FINAL = (sync_pb2.Sync.STATE_SUCCEEDED, sync_pb2.Sync.STATE_FAILED, sync_pb2.Sync.STATE_CANCELLED)
_AGAIN = Backoff(first_seconds=0.2, limit_seconds=10.0)


def tasks(settings: TaskSettings, sync: SyncServiceAsyncStub, store: TaskStore) -> list[Task]:
    """The tasks that have times."""
    found = [
        Task(name=f"sync {name}".rstrip(), times=cron, work=partial(pull, sync, name))
        for name, cron in settings.syncs.items()
    ]
    if settings.clean_up is not None:
        found.append(Task(name="clean-up", times=settings.clean_up, work=partial(clean_up, store, settings.retention)))
    return found


async def pull(stub: SyncServiceAsyncStub, provider: str, run_id: UUID) -> str:
    """Have SyncService pull a provider's users, and follow that to its end; the run's id is its request's."""
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


async def clean_up(store: TaskStore, retention: timedelta, run_id: UUID) -> str:
    """Delete task results that are older than the retention, a batch at a time."""
    deleted = 0
    while (batch := await store.clean_up(retention, BATCH)) > 0:
        deleted += batch
    return f"{deleted} task results deleted"
