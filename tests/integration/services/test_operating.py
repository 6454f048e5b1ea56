"""`python -m services` in a process of its own, as an operator runs it."""

from __future__ import annotations

import asyncio
import os
import sys
import uuid
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest

from mesh.scope import Scope
from services import totals
from services.events.group import Delivery, Group
from services.events.outbox import Outbox
from services.events.relay import Relay
from services.events.stream import START, STREAM, Stream
from services.notices import Notices
from services.settings import RedisSettings
from services.sync import reads
from services.sync.changes import SOURCE
from services.sync.reads import CacheSettings
from tests.integration.services.test_consumers import event

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from services.database import Database

USERS = """
INSERT INTO sync.users (provider, match_key, external_id, user_name, display_name, email, phone, active)
SELECT 'p', 'u:' || n, '', n, '', '', '', true FROM generate_series(1, 600) AS n
"""


@pytest.fixture
async def redis(valkey_url: str) -> AsyncIterator[Redis]:
    """A client that answers bytes."""
    async with RedisSettings(url=valkey_url).client(binary=True, blocks_seconds=1) as client:
        yield client


async def run(*arguments: str, **environ: str) -> tuple[int, str, str]:
    """Exit code, output and messages."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services", *arguments, env=os.environ | environ,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, messages = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode(), messages.decode()


async def test_dead_letters_are_listed_and_replayed(redis: Redis, valkey_url: str) -> None:
    group = Group(redis, "users", "one")
    await group.begin()
    await Stream(redis).publish([event(1)])
    await group.done(await group.take(10, 10))
    for raw, reason in ((event(7).SerializeToString(), "ValueError: no"), (b"\xff", "DecodeError: what")):
        await group.bury(Delivery(STREAM, b"0-1", raw, 5), reason)
    told = await run("consumers", REDIS_URL=valkey_url)
    assert told == (0, "consumer\twaiting\tin hand\tdead\nusers\t0\t0\t2\n", "")
    code, listed, _ = await run("dead", "users", REDIS_URL=valkey_url)
    other = (await group.letters())[1].place.decode()
    assert (code, listed) == (0, f"sync-7\tValueError: no\n{other}\tDecodeError: what\n")
    code, _, messages = await run("drop", "users", "sync-7", "sync-8", REDIS_URL=valkey_url)
    assert (code, messages) == (1, "NOT_FOUND: no dead letters of users: sync-8; `dead users` lists all\n")
    assert await run("drop", "users", other, REDIS_URL=valkey_url) == (0, "", "forgotten: 1\n")
    assert await run("replay", "users", REDIS_URL=valkey_url) == (0, "", "given to users once more: 1\n")
    (delivery,) = await group.take(10, 10)
    assert (delivery.count, delivery.raw) == (1, event(7).SerializeToString())
    assert await group.letters() == []


@pytest.mark.parametrize("words", [("dead", "user"), ("replay", "user"), ("drop", "user", "sync-7")])
async def test_a_consumer_that_is_none_is_refused_with_the_nearest(
    redis: Redis, valkey_url: str, words: tuple[str, ...]
) -> None:
    for name in ("users", "orders"):
        await Group(redis, name).begin()
    told = "NOT_FOUND: no consumer is called 'user'; there are: orders, users: did you mean users?\n"
    assert await run(*words, REDIS_URL=valkey_url) == (1, "", told)


async def test_totals_are_forgotten_until_they_are_counted_anew(redis: Redis, valkey_url: str) -> None:
    await redis.set(totals.key("users"), '{"active": 1000000}')
    assert await run("rebuild", "totals", REDIS_URL=valkey_url) == (0, "", "1 totals are counted anew\n")
    assert await totals.read(redis, "users") is None


async def test_the_copies_of_users_are_made_anew(
    redis: Redis, valkey_url: str, stored: Database, database_url: str
) -> None:
    copies, gone = reads.copies(redis, CacheSettings()), str(uuid.uuid4())
    await stored.fetch(USERS)
    await redis.hset(f"meshwright:user:{gone}", mapping={"version": 3, "body": b"from another database"})
    code, _, messages = await run("rebuild", "users", REDIS_URL=valkey_url, DATABASE_URL=database_url)
    assert (code, messages) == (0, "600 users are copied\n")
    ids = [str(row["id"]) for row in await stored.fetch("SELECT id FROM sync.users")]
    assert len(await copies.look([*ids, gone])) == 600


async def test_the_stream_is_filled_again(redis: Redis, valkey_url: str, stored: Database) -> None:
    await stored.fetch(USERS)
    stream, notices = Stream(redis), Notices(stored, SOURCE.channel)
    async with Scope() as scope, asyncio.timeout(40):
        scope.start(Relay(Outbox(stored, SOURCE), stream, notices, poll_seconds=0.1).run())
        while await stream.published("sync") < 600:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        code, _, messages = await run("rebuild", "stream", REDIS_URL=valkey_url)
        assert (code, messages) == (0, "the services send their events again\n")
        while await stream.published("sync") < 600:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    found = await stream.after(START, 1000)
    assert [entry.event.number for entry in found] == list(range(1, 601))


async def test_what_cannot_work_is_said() -> None:
    code, _, messages = await run("dead", "users", REDIS_URL="")
    assert (code, messages) == (2, "REDIS_URL is missing\n")
    code, _, messages = await run("dead", "users", REDIS_URL="unix:///nowhere")
    assert (code, "nowhere" in messages, "Traceback" in messages) == (1, True, False)
