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
    from collections.abc import Awaitable, Callable
    from datetime import timedelta
    from uuid import UUID

    from meshwright.sync.v1.sync_service_pb2_grpc import SyncServiceAsyncStub
    from services.status.store import TaskStore
    from services.status.tasks import TaskSettings

    Work = Callable[[UUID], Awaitable[str]]

BATCH = 1000
"""Most rows that one statement deletes."""

_FINAL = (sync_pb2.Sync.STATE_SUCCEEDED, sync_pb2.Sync.STATE_FAILED, sync_pb2.Sync.STATE_CANCELLED)
_AGAIN = Backoff(first_seconds=0.2, limit_seconds=10.0)


def tasks(settings: TaskSettings, sync: SyncServiceAsyncStub, store: TaskStore) -> list[Task]:
    """The tasks that have times."""
    works: dict[str, Work] = {"sync": partial(pull, sync), "clean-up": partial(clean_up, store, settings.retention)}
    crons = {"sync": settings.sync, "clean-up": settings.clean_up}
    return [Task(name=name, times=cron, work=works[name]) for name, cron in crons.items() if cron is not None]


async def pull(stub: SyncServiceAsyncStub, run_id: UUID) -> str:
    """Have SyncService pull all users, and follow that to its end; the id of the run is that of the request."""
    sync = await stub.StartSync(StartSyncRequest(request_id=str(run_id)), wait_for_ready=True)
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
        f"{counts.unchanged} unchanged, {counts.failed} failed"
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
