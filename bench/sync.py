"""How fast users are stored: `nox -s bench -- sync`.

100,000 users, each way into the same table with the same indexes, in rounds that take turns:

- COPY straight into the table, no events: the limit of this Postgres;
- the store stage of the sync service: batches as its worker makes them, with events, counts and progress;
- `executemany` of the same upsert in the same batches, with events, and one row at a time with a commit each.

Then end to end: from a provider over HTTP (pages of 200, 8 at a time, made beforehand) into Postgres.
Aims: the store stage at 0.45 of the limit, and at 10 times one row at a time.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web

from bench.figures import table
from mesh.ports import free_port
from mesh.process import start
from mesh.up import probes
from mesh.up.stores import DATABASE, Postgres
from services import database
from services.database import Database, DatabaseSettings
from services.migrations import migrate
from services.sync import provider
from services.sync.chain import Chain
from services.sync.model import Profile, Run, State
from services.sync.provider import ProviderSettings
from services.sync.pull import Pull
from services.sync.store import MIGRATIONS, SCHEMA, RunStore

USERS = 100_000
BATCH = 1600
"""Pages of 200, as many as are in flight: what the worker stores at once when the provider is not what it waits for."""
SINGLES = 2000
"""Rows of the slowest way; the rest of its time is extrapolated."""
ROUNDS = 3
PAGE = 200
AIMS = (0.45, 10.0)

_COLUMNS = ("provider", "match_key", "external_id", "user_name", "display_name", "email", "phone", "active")
_UPSERT = """
INSERT INTO sync.users AS known (provider, match_key, external_id, user_name, display_name, email, phone, active)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT (provider, match_key) DO UPDATE
SET external_id = excluded.external_id, user_name = excluded.user_name, display_name = excluded.display_name,
    email = excluded.email, phone = excluded.phone, active = excluded.active, update_time = now(), sync_time = now()
WHERE (known.external_id, known.user_name, known.display_name, known.email, known.phone, known.active)
    IS DISTINCT FROM
    (excluded.external_id, excluded.user_name, excluded.display_name, excluded.email, excluded.phone, excluded.active)
"""
_EMPTY = "TRUNCATE sync.users, sync.outbox, sync.seen, sync.runs"

Way = Callable[[Database, Sequence[Profile]], Awaitable[float]]
"""Stores users in an empty table; how many a second."""


async def main() -> None:
    """Measure and print."""
    profiles = [_profile(number) for number in range(USERS)]
    ways: dict[str, Way] = {
        "COPY into the table, no events": _copy, "store stage": _stage, "store stage, nothing changed": _unchanged,
        "executemany": _many, "row by row": _singly,
    }  # fmt: skip
    rates: dict[str, list[float]] = {name: [] for name in ways}
    async with _postgres() as connected:
        for _ in range(ROUNDS):
            for name, way in ways.items():
                await _clear(connected)
                rates[name].append(await way(connected, profiles))
        await _clear(connected)
        whole = await _end_to_end(connected)
    limit, stage, _, _, single = (statistics.median(rates[name]) for name in ways)
    rows = [(name, *_shown(found, rates)) for name, found in rates.items()]
    print(table(("100,000 users", "rows/s", "of the limit", "of row by row"), rows))
    print(f"store stage / limit: {stage / limit:.2f}, aim {AIMS[0]}; / row by row: {stage / single:.1f}, aim {AIMS[1]:g}")
    print(f"row by row: {SINGLES} rows, extrapolated; end to end from a provider: {whole:,.0f} rows/s")


def _shown(found: Sequence[float], rates: dict[str, list[float]]) -> tuple[str, ...]:
    """Ratios are round by round, at the median."""
    limits, singles = rates["COPY into the table, no events"], rates["row by row"]
    ratios = (statistics.median(mine / its for mine, its in zip(found, all_of, strict=True)) for all_of in (limits, singles))
    first, second = ratios
    return f"{statistics.median(found):,.0f}", f"{first:.2f}", f"{second:.1f}"


async def _copy(connected: Database, profiles: Sequence[Profile]) -> float:
    rows = [_row(profile) for profile in profiles]
    async with connected.connection() as connection:
        await connection.execute("ALTER TABLE sync.users DISABLE TRIGGER USER")
        began = time.perf_counter()
        await connection.copy_records_to_table("users", schema_name="sync", columns=_COLUMNS, records=rows, timeout=120)
        taken = time.perf_counter() - began
        await connection.execute("ALTER TABLE sync.users ENABLE TRIGGER USER")
    return len(rows) / taken


async def _stage(connected: Database, profiles: Sequence[Profile]) -> float:
    return len(profiles) / await _stored(connected, profiles)


async def _unchanged(connected: Database, profiles: Sequence[Profile]) -> float:
    await _stored(connected, profiles)
    return len(profiles) / await _stored(connected, profiles)


async def _stored(connected: Database, profiles: Sequence[Profile]) -> float:
    runs = RunStore(connected)
    run = await _claimed(runs)
    began = time.perf_counter()
    for place in range(0, len(profiles), BATCH):
        part = profiles[place : place + BATCH]
        run = await runs.store(run, "bench", Chain(next_index=place + len(part) + 1), part)
    taken = time.perf_counter() - began
    await runs.end(run.id, State.SUCCEEDED)
    return taken


async def _many(connected: Database, profiles: Sequence[Profile]) -> float:
    rows = [_row(profile) for profile in profiles]
    began = time.perf_counter()
    for place in range(0, len(rows), BATCH):
        async with connected.transaction() as connection:
            await connection.executemany(_UPSERT, rows[place : place + BATCH])
    return len(rows) / (time.perf_counter() - began)


async def _singly(connected: Database, profiles: Sequence[Profile]) -> float:
    rows = [_row(profile) for profile in profiles[:SINGLES]]
    async with connected.connection() as connection:
        began = time.perf_counter()
        for row in rows:
            await connection.execute(_UPSERT, *row)
        return len(rows) / (time.perf_counter() - began)


async def _end_to_end(connected: Database) -> float:
    runs = RunStore(connected)
    async with _provider() as url:
        run = await _claimed(runs)
        settings = ProviderSettings(url=url, page_size=PAGE)
        began = time.perf_counter()
        async with provider.connect(settings) as users:
            await Pull(runs, "bench", run, settings, lambda: None).all(users)
        taken = time.perf_counter() - began
    run = await runs.get(run.id) or run
    assert run.counts.created == USERS, run
    return USERS / taken


async def _claimed(runs: RunStore) -> Run:
    await runs.start(uuid.uuid4(), "scim")
    run = await runs.claim("bench", "scim")
    assert run is not None
    return run


async def _clear(connected: Database) -> None:
    async with connected.connection() as connection:
        await connection.execute(_EMPTY, timeout=60)
        await connection.execute("CHECKPOINT", timeout=60)


@asynccontextmanager
async def _postgres() -> AsyncIterator[Database]:
    """A Postgres as `mesh up` starts it, with the schema of the sync service."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/tmp", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        postgres = Postgres.at(folder / "postgres", folder, os.environ)
        await postgres.prepare()
        child = await start(postgres.command(folder / "postgres.log"))
        await probes.until(probes.postgres(postgres.socket, DATABASE))
        settings = DatabaseSettings(url=postgres.url, application_name="bench", statement_timeout_seconds=60)
        async with database.connect(settings) as connected:
            await migrate(connected, settings, SCHEMA, MIGRATIONS)
            yield connected
        await child.stop()


@asynccontextmanager
async def _provider() -> AsyncIterator[str]:
    """A process with a provider; its base URL."""
    port = free_port()
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "bench.sync", str(port))
    await probes.until(probes.tcp(port))
    yield f"http://127.0.0.1:{port}"
    process.kill()
    await process.wait()


def serve(port: int) -> None:
    """A provider that has each user's text ready."""
    users = [json.dumps(_resource(number)) for number in range(USERS)]

    async def answer(request: web.Request) -> web.Response:
        start, count = int(request.query["startIndex"]) - 1, min(int(request.query["count"]), PAGE)
        found = ",".join(users[start : start + count])
        text = f'{{"totalResults": {USERS}, "startIndex": {start + 1}, "Resources": [{found}]}}'
        return web.Response(text=text, content_type="application/scim+json")

    app = web.Application()
    app.router.add_get("/Users", answer)
    web.run_app(app, host="127.0.0.1", port=port, print=None, access_log=None)


def _profile(number: int) -> Profile:
    handle = f"user{number:06d}"
    return Profile(
        user_name=handle, external_id=f"E{number:06d}", display_name=f"User Number {number}",
        email=f"{handle}@corp.example", phone=f"+1-555-{number:07d}", active=number % 25 != 0,
    )  # fmt: skip


def _resource(number: int) -> dict[str, object]:
    found = _profile(number)
    return {
        "schemas": ["urn:ietf:params:scim:schemas:core:2.0:User"], "id": uuid.uuid5(uuid.NAMESPACE_OID, found.user_name).hex,
        "externalId": found.external_id, "userName": found.user_name, "displayName": found.display_name,
        "active": found.active, "emails": [{"value": found.email, "type": "work", "primary": True}],
        "phoneNumbers": [{"value": found.phone, "type": "work"}],
    }  # fmt: skip


def _row(profile: Profile) -> tuple[object, ...]:
    return "scim", *(getattr(profile, column) for column in _COLUMNS[1:])


if __name__ == "__main__":
    if len(sys.argv) > 1:
        serve(int(sys.argv[1]))
    else:
        asyncio.run(main())
