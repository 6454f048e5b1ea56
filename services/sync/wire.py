"""Users and runs as the contract has them. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshwright.sync.v1 import sync_pb2
from services.timestamps import timestamp

if TYPE_CHECKING:
    from services.sync.model import Counts, Run, User


def user(found: User) -> sync_pb2.User:
    """A user."""
    profile = found.profile
    return sync_pb2.User(
        id=str(found.id),
        provider=found.provider,
        external_id=profile.external_id,
        user_name=profile.user_name,
        display_name=profile.display_name,
        email=profile.email,
        phone=profile.phone,
        active=profile.active,
        create_time=timestamp(found.create_time),
        update_time=timestamp(found.update_time),
        sync_time=timestamp(found.sync_time),
    )


def sync(run: Run, *, problems: bool = True) -> sync_pb2.Sync:
    """A run, with its problems or without."""
    return sync_pb2.Sync(
        id=str(run.id),
        request_id=str(run.request_id),
        provider=run.provider,
        state=sync_pb2.Sync.State.Value(f"STATE_{run.state}"),
        counts=_counts(run.counts),
        error=run.error,
        create_time=timestamp(run.create_time),
        start_time=timestamp(run.start_time),
        end_time=timestamp(run.end_time),
        problems=run.problems if problems else (),
    )


def _counts(counts: Counts) -> sync_pb2.SyncCounts:
    return sync_pb2.SyncCounts(
        fetched=counts.fetched,
        created=counts.created,
        updated=counts.updated,
        unchanged=counts.unchanged,
        failed=counts.failed,
        deactivated=counts.deactivated,
    )
