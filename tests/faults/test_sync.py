"""An instance of the sync service is killed amid a run: another one goes on from the last committed page."""

from __future__ import annotations

import asyncio
import os
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from mesh.ports import free_port
from mesh.recovery import now
from services.sync.chain import OVERLAP
from services.sync.model import TRANSITIONS, Counts, Run, State
from services.sync.store import RunStore
from tests.fixtures.scim import Directory, resource, serving
from tests.fixtures.services import database_settings, stored
from tests.fixtures.shop import until

if TYPE_CHECKING:
    from services.database import Database, DatabaseSettings

__all__ = ["database_settings", "stored"]

USERS = 1000
PAGE = 20
OUT_OF_ORDER_SECONDS = 10.0
WAIT_SECONDS = 60
EVENTS = "SELECT count(*), count(DISTINCT subject) AS users FROM sync.outbox WHERE type = 'user.created'"

pytestmark = pytest.mark.timeout(2 * WAIT_SECONDS)


async def test_a_provider_that_is_out_of_order_for_ten_seconds_and_says_no_time_fails_no_page() -> None:
    since: list[float] = []

    async def away(_: web.Request) -> web.Response | None:
        since.append(now())
        return web.Response(status=503) if now() - since[0] < OUT_OF_ORDER_SECONDS else None

    async with serving(Directory([resource(1)], away)) as directory, directory.connect()() as users:
        assert (await users.fetch(1, 1)).size == 1


@asynccontextmanager
async def instance(settings: DatabaseSettings, url: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process of the sync service, killed at the end at the latest."""
    environ = os.environ | {
        "DATABASE_URL": settings.url, "REDIS_URL": "unix:///nowhere", "PORT": str(free_port()), "SCIM_URL": url,
        "SCIM_PAGE_SIZE": str(PAGE), "SCIM_CONCURRENCY": "2",
    }  # fmt: skip
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "services.sync", env=environ)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def reach(runs: RunStore, run: Run, index: int) -> Run:
    """The run when it is read that far, or has ended."""

    async def is_there() -> bool:
        found = await runs.get(run.id)
        return found is not None and (found.chain.next_index > index or TRANSITIONS.is_final(found.state))

    await until(is_there, seconds=WAIT_SECONDS)
    found = await runs.get(run.id)
    assert found is not None
    return found


async def test_a_killed_instance_leaves_its_run_to_another_which_goes_on_from_the_last_committed_page(
    stored: Database, database_settings: DatabaseSettings
) -> None:
    async def slowly(_: web.Request) -> None:
        await asyncio.sleep(0.05)

    runs = RunStore(stored)
    run, _ = await runs.start(uuid.uuid4(), "scim")
    async with serving(Directory([resource(number) for number in range(USERS)], slowly)) as directory:
        async with instance(database_settings, directory.url):
            await reach(runs, run, USERS // 3)
        left = await reach(runs, run, 0)
        assert left.state is State.RUNNING
        directory.asked.clear()
        async with instance(database_settings, directory.url):
            ended = await reach(runs, run, 2 * USERS)
    assert (ended.state, ended.counts) == (State.SUCCEEDED, Counts(created=USERS))
    assert ended.chain.whole
    assert min(directory.asked) >= left.chain.next_index - OVERLAP
    rows = await stored.fetch(EVENTS)
    assert tuple(rows[0]) == (USERS, USERS)
    assert not await stored.fetch("SELECT FROM sync.seen")
