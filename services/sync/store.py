"""Users and runs in Postgres."""

from __future__ import annotations

import uuid
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg

from mesh import Code, Error
from services.database import queries
from services.events import trace
from services.sync.chain import Chain
from services.sync.model import PROBLEMS, TRANSITIONS, WAITING, Counts, Profile, Run, State, User, sifted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Sequence
    from datetime import datetime
    from uuid import UUID

    from services.database import Connection, Database
    from services.sync.chain import Entry
    from services.totals import Model

SCHEMA = "sync"
MIGRATIONS = Path(__file__).parent / "migrations"
CHANNEL = "sync_runs"
"""Notices carry the id of a run that changed."""

LEASE = timedelta(seconds=15)
"""A run whose worker gave no sign of life for so long is taken over."""

DEACTIVATED = 5000
"""Most users that one statement deactivates."""

WHOLE_SECONDS = 300.0
"""Longest time for a statement about all users of a provider, of which there may be millions."""

_SQL = queries(Path(__file__).with_name("queries.sql"))
_COLUMNS = ("match_key", "external_id", "user_name", "display_name", "email", "phone", "active")
_record = attrgetter(*_COLUMNS)


class RunLost(Exception):
    """The run is no longer this worker's: cancelled, or taken over."""


class RunStore:
    """Statements about runs. All methods raise what `Database` does."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, run_id: UUID) -> Run | None:
        """One run."""
        return _run(await self._database.fetchrow(_SQL["run_by_id"], run_id))

    async def start(self, request_id: UUID, provider: str) -> tuple[Run, bool]:
        """The run of a request, and whether it is new. Raises RESOURCE_EXHAUSTED when too many of the provider wait."""
        run_id = uuid.uuid4()
        async with trace.transaction(self._database) as connection:
            row = await connection.fetchrow(_SQL["insert_run"], run_id, request_id, provider)
            if row is not None:
                if await connection.fetchval(_SQL["waiting"], provider) > WAITING:
                    raise _too_many(provider)
                await _notify(connection, run_id)
                return read_run(row), True
        row = await self._database.fetchrow(_SQL["run_by_request"], request_id)
        assert row is not None, "runs are never deleted"
        return read_run(row), False

    async def page(self, after: tuple[datetime, UUID] | None, limit: int) -> list[Run]:
        """Newest first, after the key of the last one seen."""
        moment, last = after or (None, None)
        return [read_run(row) for row in await self._database.fetch(_SQL["run_page"], moment, last, limit)]

    async def end(self, run_id: UUID, state: State, *, error: str = "", worker: str | None = None) -> Run | None:
        """The run in its final state; None when there is none, the move is not legal, or it is not this worker's."""
        async with trace.transaction(self._database) as connection:
            row = await connection.fetchrow(_SQL["end_run"], run_id, state, error, TRANSITIONS.sources(state), worker)
            if row is not None:
                await connection.execute(_SQL["forget_seen"], run_id)
                await _notify(connection, run_id)
        return _run(row)

    async def claim(self, worker: str, provider: str) -> Run | None:
        """The oldest run of a provider that nobody works on, now this worker's; None while another one is worked on.

        One that is this worker's already counts as well: its connection broke, and it goes on.
        """
        with suppress(asyncpg.UniqueViolationError):  # another worker was first, with another run
            async with trace.transaction(self._database) as connection:
                row = await connection.fetchrow(_SQL["claim_run"], worker, LEASE, provider)
                if row is not None:
                    await _notify(connection, row["id"])
            return _run(row)
        return None

    async def renew(self, run_id: UUID, worker: str) -> None:
        """Give a sign of life. Raises `RunLost`."""
        if await self._database.fetchrow(_SQL["renew_run"], run_id, worker, LEASE) is None:
            raise RunLost

    async def release(self, run_id: UUID, worker: str) -> None:
        """Let another worker go on at once, unless the run is no longer this worker's."""
        async with trace.transaction(self._database) as connection:
            if await connection.fetchrow(_SQL["release_run"], run_id, worker) is not None:
                await _notify(connection, run_id)

    async def store(
        self, run: Run, worker: str, chain: Chain, entries: Sequence[Entry], problems: Sequence[str] = ()
    ) -> Run:
        """Upsert users and count them, in one transaction; the run after it, read as far as the chain.

        Raises `RunLost`, and nothing is stored.
        """
        profiles, faults = sifted(entries)
        async with trace.transaction(self._database) as connection:
            counts = await _upsert(connection, run.provider, profiles)
            await connection.execute(_SQL["seen"], run.id, [fault.match_key for fault in faults if fault.match_key])
            counts = replace(counts, failed=len(faults))
            found = [fault.reason for fault in faults[:PROBLEMS]]
            return await _advance(connection, run.id, worker, chain, counts, [*problems, *found])

    async def vanished(self, run: Run) -> tuple[int, int]:
        """How many of the provider's active users a run has not seen, and how many there are."""
        async with self._about_all() as connection:
            row = await connection.fetchrow(_SQL["vanished"], run.id, run.provider, timeout=WHOLE_SECONDS + 1)
        assert row is not None, "an aggregate has one row"
        return row["vanished"], row["active"]

    async def deactivate(self, run: Run, worker: str) -> int:
        """Deactivate some of those users and count them; how many, 0 when none is left. Raises `RunLost`."""
        async with self._about_all() as connection:
            rows = await connection.fetch(
                _SQL["deactivate"], run.id, run.provider, DEACTIVATED, timeout=WHOLE_SECONDS + 1
            )
            if rows:
                await _advance(connection, run.id, worker, run.chain, Counts(deactivated=len(rows)), ())
        return len(rows)

    @asynccontextmanager
    async def _about_all(self) -> AsyncIterator[Connection]:
        """A transaction whose statements may take longer than others."""
        async with trace.transaction(self._database) as connection:
            await connection.execute(_SQL["take_time"], str(round(WHOLE_SECONDS * 1000)))
            yield connection


class UserStore:
    """Statements about users. All methods raise what `Database` does."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get_all(self, user_ids: Collection[UUID]) -> list[User]:
        """Those of many users that there are, in no order."""
        return [read_user(row) for row in await self._database.fetch(_SQL["users_by_id"], user_ids)]

    async def page(self, *, provider: str, after: tuple[str, UUID] | None, limit: int) -> list[User]:
        """By name, after the key of the last one seen; of all providers when none is given."""
        name, last = after or (None, None)
        if provider:
            rows = await self._database.fetch(_SQL["user_page_of_provider"], name, last, limit, provider)
        else:
            rows = await self._database.fetch(_SQL["user_page"], name, last, limit)
        return [read_user(row) for row in rows]

    async def totals(self) -> Model:
        """How many users there are."""
        row = await self._database.fetchrow(_SQL["totals"])
        return {"users": row["users"] if row else 0}


async def _upsert(connection: Connection, provider: str, profiles: Sequence[Profile]) -> Counts:
    """Users are locked in the order of their keys, as by every statement, so that crossed batches cannot deadlock."""
    await connection.execute(_SQL["incoming"])
    await connection.copy_records_to_table("incoming_users", columns=_COLUMNS, records=map(_record, profiles))
    if await connection.fetchval(_SQL["named"], provider):
        former = [(key, profile.match_key) for profile in profiles for key in profile.former_keys]
        await connection.execute(_SQL["adopt"], provider, *zip(*former, strict=True) if former else ((), ()))
    row = await connection.fetchrow(_SQL["upsert"], provider)
    assert row is not None, "an aggregate has one row"
    created, updated = row["created"], row["updated"]
    return Counts(created=created, updated=updated, unchanged=len(profiles) - created - updated)


async def _advance(
    connection: Connection, run_id: UUID, worker: str, chain: Chain, counts: Counts, problems: Sequence[str]
) -> Run:
    row = await connection.fetchrow(
        _SQL["advance_run"], run_id, worker, chain.next_index, chain.tail, chain.whole, LEASE, counts.fetched,
        counts.created, counts.updated, counts.unchanged, counts.failed, counts.deactivated, problems, PROBLEMS,
    )  # fmt: skip
    if row is None:
        raise RunLost
    await _notify(connection, run_id)
    return read_run(row)


def _too_many(provider: str) -> Error:
    return Error(
        Code.RESOURCE_EXHAUSTED,
        f"{WAITING} runs of provider {provider} wait already",
        reason="TOO_MANY_SYNCS",
        metadata={"provider": provider},
        retry_after_seconds=10,
    )


async def _notify(connection: Connection, run_id: UUID) -> None:
    await connection.execute(_SQL["notify"], str(run_id))


def _run(row: asyncpg.Record | None) -> Run | None:
    return None if row is None else read_run(row)


def read_run(row: asyncpg.Record) -> Run:
    """The run in a row of the table."""
    return Run(
        id=row["id"],
        request_id=row["request_id"],
        provider=row["provider"],
        state=State(row["state"]),
        counts=Counts(
            created=row["created"], updated=row["updated"], unchanged=row["unchanged"], failed=row["failed"],
            deactivated=row["deactivated"],
        ),
        error=row["error"],
        problems=tuple(row["problems"]),
        attempts=row["attempts"],
        chain=Chain(next_index=row["next_index"], tail=tuple(row["tail"]), whole=row["whole"]),
        create_time=row["create_time"],
        start_time=row["start_time"],
        end_time=row["end_time"],
        traceparent=row.get("traceparent") or "",
    )


def read_user(row: asyncpg.Record) -> User:
    """The user in a row of the table."""
    profile = Profile(
        user_name=row["user_name"], external_id=row["external_id"], display_name=row["display_name"],
        email=row["email"], phone=row["phone"], active=row["active"],
    )  # fmt: skip
    return User(
        id=row["id"],
        provider=row["provider"],
        profile=profile,
        create_time=row["create_time"],
        update_time=row["update_time"],
        sync_time=row["sync_time"],
        version=row["version"],
    )
