"""How fast users are stored: `nox -s bench -- sync`.

100,000 users, each way from the same objects into the same table with the same indexes, in rounds that take turns:

- COPY straight into the table, no events: the limit of this Postgres;
- the store stage of the sync service: batches as its worker makes them, with events, counts and progress;
- `executemany` of the same upsert in the same batches, with events, and one row at a time with a commit each.

Then end to end: from a provider over HTTP (pages of 200, 8 at a time, made beforehand) into Postgres.
Aims: the store stage at 0.45 of the limit, and at 10 times one row at a time.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench import directory
from bench.figures import milliseconds, table
from bench.parts import cpu_seconds
from mesh.process import start
from mesh.up import probes
from mesh.up.stores import DATABASE, Postgres
from services import database
from services.database import Database, DatabaseSettings
from services.migrations import migrate
from services.sync import provider
from services.sync.chain import Chain
from services.sync.model import Profile, Run, State
from services.sync.provider_settings import ProviderSettings
from services.sync.pull import BATCH, Pull
from services.sync.store import MIGRATIONS, SCHEMA, RunStore

USERS = 100_000
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

class Meter:
    """Time and CPU, of Postgres too, while it is entered."""

    def __init__(self, connected: Database) -> None:
        self._connected = connected
        self.seconds = self.cpu = 0.0

    async def __aenter__(self) -> None:
        self.cpu, self.seconds = -await self._used(), -time.perf_counter()

    async def __aexit__(self, *_: object) -> None:
        self.seconds += time.perf_counter()
        self.cpu += await self._used()

    async def _used(self) -> float:
        rows = await self._connected.fetch("SELECT pid FROM pg_stat_activity WHERE application_name = 'bench'")
        return time.process_time() + sum(cpu_seconds(row["pid"]) for row in rows)


Way = Callable[[Database, Sequence[Profile], Meter], Awaitable[int]]
"""Stores users in an empty table, measured; how many."""


@dataclass
class Found:
    """What the rounds of one way said: rows a second, and seconds of CPU for a thousand."""

    rates: list[float] = field(default_factory=list)
    costs: list[float] = field(default_factory=list)

    def over(self, other: Found) -> float:
        """How many times the other's rate, round by round, at the median."""
        return statistics.median(mine / its for mine, its in zip(self.rates, other.rates, strict=True))


async def main() -> None:
    """Measure and print."""
    profiles = [directory.profile(number) for number in range(USERS)]
    ways: dict[str, Way] = {
        "COPY into the table, no events": _copy, "store stage": _stage, "store stage, nothing changed": _unchanged,
        "executemany": _many, "row by row": _singly,
    }  # fmt: skip
    found = {name: Found() for name in ways}
    async with _postgres() as connected:
        for _ in range(ROUNDS):
            for name, way in ways.items():
                await _measure(connected, way, profiles, found[name])
        await _clear(connected)
        whole = await _end_to_end(connected)
    limit, stage, *_, single = found.values()
    heads = ("100,000 users", "rows/s", "of the limit", "of row by row", "CPU for 1,000")
    print(table(heads, [_row(name, one, limit, single) for name, one in found.items()]))
    print(f"store stage / limit: {stage.over(limit):.2f}, aim {AIMS[0]}")
    print(f"store stage / row by row: {stage.over(single):.1f}, aim {AIMS[1]:g}")
    print(f"row by row is of {SINGLES} rows, extrapolated; end to end from a provider: {whole:,.0f} rows/s")


async def _measure(connected: Database, way: Way, profiles: Sequence[Profile], found: Found) -> None:
    await _clear(connected)
    meter = Meter(connected)
    count = await way(connected, profiles, meter)
    found.rates.append(count / meter.seconds)
    found.costs.append(meter.cpu / count * 1000)


def _row(name: str, one: Found, limit: Found, single: Found) -> tuple[str, ...]:
    cost = milliseconds(statistics.median(one.costs))
    return name, f"{statistics.median(one.rates):,.0f}", f"{one.over(limit):.2f}", f"{one.over(single):.1f}", cost


async def _copy(connected: Database, profiles: Sequence[Profile], meter: Meter) -> int:
    async with connected.connection() as connection:
        await connection.execute("ALTER TABLE sync.users DISABLE TRIGGER USER")
        async with meter:
            rows = map(_values, profiles)
            await connection.copy_records_to_table("users", schema_name="sync", columns=_COLUMNS, records=rows)
        await connection.execute("ALTER TABLE sync.users ENABLE TRIGGER USER")
    return len(profiles)


async def _stage(connected: Database, profiles: Sequence[Profile], meter: Meter) -> int:
    runs = RunStore(connected)
    run = await _claimed(runs)
    async with meter:
        for place in range(0, len(profiles), BATCH):
            part = profiles[place : place + BATCH]
            run = await runs.store(run, "bench", Chain(next_index=place + len(part) + 1), part)
    await runs.end(run.id, State.SUCCEEDED)
    return len(profiles)


async def _unchanged(connected: Database, profiles: Sequence[Profile], meter: Meter) -> int:
    await _stage(connected, profiles, Meter(connected))
    return await _stage(connected, profiles, meter)


async def _many(connected: Database, profiles: Sequence[Profile], meter: Meter) -> int:
    async with meter:
        for place in range(0, len(profiles), BATCH):
            async with connected.transaction() as connection:
                await connection.executemany(_UPSERT, map(_values, profiles[place : place + BATCH]))
    return len(profiles)


async def _singly(connected: Database, profiles: Sequence[Profile], meter: Meter) -> int:
    async with meter, connected.connection() as connection:
        for profile in profiles[:SINGLES]:
            await connection.execute(_UPSERT, *_values(profile))
    return SINGLES


async def _end_to_end(connected: Database) -> float:
    runs = RunStore(connected)
    async with directory.process(USERS) as url:
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
        try:
            await probes.until(probes.postgres(postgres.socket, DATABASE))
            settings = DatabaseSettings(url=postgres.url, application_name="bench", statement_timeout_seconds=120)
            async with database.connect(settings) as connected:
                await migrate(connected, settings, SCHEMA, MIGRATIONS)
                yield connected
        finally:
            await child.stop()


def _values(profile: Profile) -> tuple[object, ...]:
    return "scim", *(getattr(profile, column) for column in _COLUMNS[1:])


if __name__ == "__main__":
    asyncio.run(main())
