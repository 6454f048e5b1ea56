"""Users are read from a real Valkey first, then from a real Postgres, and no answer goes back behind a newer one."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Collection
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING
from uuid import UUID

import pytest

from mesh import Code, Error, deadline
from mesh.scope import Scope
from meshwright.sync.v1 import sync_pb2
from services.events.consumer import BLOCK_SECONDS, Consumer
from services.events.group import Group
from services.events.outbox import Outbox
from services.events.relay import Relay
from services.events.stream import Stream
from services.notices import Notices
from services.settings import RedisSettings
from services.sync import reads
from services.sync.changes import SOURCE
from services.sync.model import Profile, State, User
from services.sync.reads import CacheSettings, UserReads
from services.sync.store import RunStore, UserStore
from services.versioned import Copy, Versioned
from tests.fixtures.stores import OwnValkey

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from services.database import Database

WAIT_SECONDS = 40
CREATE = """
INSERT INTO sync.users (id, provider, match_key, external_id, user_name, display_name, email, phone, active)
VALUES ($1, 'scim', 'u:zoe', '', 'zoe', 'Zoe', '', '', true)
"""


class Counting(UserStore):
    """Tells how often Postgres was asked, and may be held up when it has read."""

    def __init__(self, stored: Database) -> None:
        super().__init__(stored)
        self.asked: list[set[UUID]] = []
        self.has_read = asyncio.Event()
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def get_all(self, user_ids: Collection[UUID]) -> list[User]:
        self.asked.append(set(user_ids))
        found = await super().get_all(user_ids)
        self.has_read.set()
        await self.go_on.wait()
        return found


@pytest.fixture
async def redis(valkey_url: str) -> AsyncIterator[Redis]:
    """A client that answers bytes."""
    async with RedisSettings(url=valkey_url).client(binary=True, blocks_seconds=BLOCK_SECONDS) as client:
        yield client


@pytest.fixture
def store(stored: Database) -> Counting:
    return Counting(stored)


@pytest.fixture
def copies(redis: Redis) -> Versioned:
    return reads.copies(redis, CacheSettings(missing_seconds=WAIT_SECONDS))


async def synced(stored: Database, *profiles: Profile) -> dict[str, UUID]:
    """Store users as a run does; ids by name."""
    runs = RunStore(stored)
    run, _ = await runs.start(uuid.uuid4(), "scim")
    run = await runs.claim("worker", "scim") or run
    await runs.store(run, "worker", run.chain, profiles)
    await runs.end(run.id, State.SUCCEEDED, worker="worker")
    return {row["user_name"]: row["id"] for row in await stored.fetch("SELECT id, user_name FROM sync.users")}


async def renamed(stored: Database, name: str) -> None:
    await synced(stored, Profile(user_name="ann", external_id="1", display_name=name))


def ann() -> Profile:
    return Profile(user_name="ann", external_id="1", display_name="Ann")


def _user(user_id: UUID, name: str) -> bytes:
    return sync_pb2.User(id=str(user_id), display_name=name).SerializeToString()


async def name_of(users: UserReads, user_id: UUID) -> str:
    user = await users.get(user_id)
    return user.display_name if user else "nobody"


async def test_a_user_is_read_from_postgres_once(stored: Database, store: Counting, copies: Versioned) -> None:
    ids, users = await synced(stored, ann()), UserReads(store, copies)
    first = await users.get(ids["ann"])
    assert first == await users.get(ids["ann"]) == (await users.get_all([ids["ann"]]))[0]
    assert first is not None
    assert (first.id, first.display_name, first.active) == (str(ids["ann"]), "Ann", True)
    assert len(store.asked) == 1


async def test_of_many_users_only_the_unknown_ones_are_read_from_postgres(
    stored: Database, store: Counting, copies: Versioned
) -> None:
    ids, users = await synced(stored, ann(), Profile(user_name="bob")), UserReads(store, copies)
    await users.get(ids["ann"])
    nobody = uuid.uuid4()
    found = await users.get_all([*ids.values(), nobody])
    assert sorted(user.user_name for user in found) == ["ann", "bob"]
    assert store.asked == [{ids["ann"]}, {ids["bob"], nobody}]


async def test_fifty_callers_of_a_hot_key_cost_one_read(stored: Database, store: Counting, copies: Versioned) -> None:
    ids, users = await synced(stored, ann()), UserReads(store, copies)
    assert set(await asyncio.gather(*(name_of(users, ids["ann"]) for _ in range(50)))) == {"Ann"}
    assert len(store.asked) == 1


async def test_when_the_caller_that_reads_goes_away_another_one_reads(
    stored: Database, store: Counting, copies: Versioned
) -> None:
    ids, users = await synced(stored, ann()), UserReads(store, copies)
    store.go_on.clear()
    first = asyncio.create_task(name_of(users, ids["ann"]))
    await store.has_read.wait()
    others = [asyncio.create_task(name_of(users, ids["ann"])) for _ in range(5)]
    await asyncio.sleep(0)
    first.cancel()
    store.go_on.set()
    assert set(await asyncio.gather(*others)) == {"Ann"}
    with pytest.raises(asyncio.CancelledError):
        await first
    assert len(store.asked) == 2


async def test_who_waits_for_another_reader_does_so_for_no_longer_than_its_own_deadline(
    stored: Database, store: Counting, copies: Versioned
) -> None:
    ids, users = await synced(stored, ann()), UserReads(store, copies)
    store.go_on.clear()
    async with Scope() as scope:
        scope.start(users.get(ids["ann"]))
        await store.has_read.wait()
        with deadline.limit(0.05), pytest.raises(Error) as caught:
            await users.get(ids["ann"])
        assert caught.value.code is Code.DEADLINE_EXCEEDED


async def test_an_unknown_id_is_remembered_until_its_user_is_created(
    stored: Database, store: Counting, copies: Versioned, redis: Redis
) -> None:
    users, user_id = UserReads(store, copies), uuid.uuid4()
    assert [await users.get(user_id), await users.get(user_id)] == [None, None]
    assert len(store.asked) == 1
    (key,) = await redis.keys("meshwright:user:*")
    assert 0 < await redis.pttl(key) <= WAIT_SECONDS * 1000
    await copies.change([Copy(str(user_id), 1, _user(user_id, "new"))])
    assert await name_of(users, user_id) == "new"
    assert len(store.asked) == 1


async def test_what_was_read_before_an_event_came_is_not_kept(
    stored: Database, store: Counting, copies: Versioned
) -> None:
    ids, users = await synced(stored, ann()), UserReads(store, copies)
    store.go_on.clear()
    async with Scope() as scope:
        slow = scope.start(name_of(users, ids["ann"]))
        await store.has_read.wait()
        await renamed(stored, "Anna")
        await copies.change([Copy(str(ids["ann"]), 2, _user(ids["ann"], "Anna"))])
        store.go_on.set()
        assert await slow == "Ann"
    assert await name_of(users, ids["ann"]) == "Anna"
    assert len(store.asked) == 2


async def test_an_older_version_never_takes_the_place_of_a_newer_one(copies: Versioned) -> None:
    await copies.look(["u"])
    await copies.fill([Copy("u", 5, b"five")])
    await copies.change([Copy("u", 4, b"four"), Copy("u", 7, b"seven"), Copy("u", 6, b"six")])
    await copies.fill([Copy("u", 5, b"five")])
    assert await copies.look(["u"]) == {"u": b"seven"}


async def test_an_event_of_long_ago_makes_no_copy(copies: Versioned) -> None:
    """So that events that are sent anew to an emptied Redis bring nothing back that has changed since."""
    await copies.change([Copy("u", 1, b"one")])
    assert await copies.look(["u"]) == {}
    await copies.change([Copy("u", 1, b"one")])
    assert await copies.look(["u"]) == {}
    await copies.fill([Copy("u", 3, b"three")])
    assert await copies.look(["u"]) == {"u": b"three"}


async def test_what_was_read_for_a_copy_that_was_cleared_is_not_kept(copies: Versioned) -> None:
    await copies.look(["u"])
    await copies.clear()
    await copies.fill([Copy("u", 1, b"one")])
    assert await copies.look(["u"]) == {}


def following(scope: Scope, stored: Database, redis: Redis) -> None:
    """Relay and consumer as a process runs them."""
    notices = Notices(stored, SOURCE.channel)
    scope.start(notices.run())
    scope.start(Relay(Outbox(stored, SOURCE), Stream(redis), notices, poll_seconds=0.2).run())
    copies = reads.copies(redis, CacheSettings())
    scope.start(Consumer(Group(redis, reads.GROUP, "one"), reads.effect(copies)).run())


async def becomes(users: UserReads, user_id: UUID, name: str) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while await name_of(users, user_id) != name:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_change_shows_by_its_event(
    stored: Database, store: Counting, copies: Versioned, redis: Redis
) -> None:
    ids, users = await synced(stored, ann()), UserReads(store, copies)
    async with Scope() as scope:
        following(scope, stored, redis)
        assert await name_of(users, ids["ann"]) == "Ann"
        asked = len(store.asked)
        await renamed(stored, "Anna")
        await becomes(users, ids["ann"], "Anna")
        assert await users.get(ids["ann"]) == (await UserReads(store, copies).get_all([ids["ann"]]))[0]
        assert len(store.asked) == asked


async def test_a_user_that_was_unknown_shows_by_the_event_of_its_creation(
    stored: Database, store: Counting, copies: Versioned, redis: Redis
) -> None:
    users, user_id = UserReads(store, copies), uuid.uuid4()
    async with Scope() as scope:
        following(scope, stored, redis)
        assert await users.get(user_id) is None
        asked = len(store.asked)
        await stored.fetch(CREATE, user_id)
        await becomes(users, user_id, "Zoe")
    assert len(store.asked) == asked


async def test_users_are_answered_while_redis_is_away_and_kept_up_to_date_when_it_is_back_empty(
    stored: Database, store: Counting, own_valkey: OwnValkey
) -> None:
    ids = await synced(stored, ann())
    async with AsyncExitStack() as stack:
        settings = RedisSettings(url=own_valkey.url)
        redis = await stack.enter_async_context(settings.client(binary=True, blocks_seconds=BLOCK_SECONDS))
        scope = await stack.enter_async_context(Scope())
        following(scope, stored, redis)
        users = UserReads(store, reads.copies(redis, CacheSettings()))
        assert await name_of(users, ids["ann"]) == "Ann"
        await own_valkey.kill()
        await renamed(stored, "Anna")
        assert await name_of(users, ids["ann"]) == "Anna"
        own_valkey.forget()
        await own_valkey.start()
        await becomes_kept(users, store, ids["ann"])
        await renamed(stored, "Annie")
        await becomes(users, ids["ann"], "Annie")


async def becomes_kept(users: UserReads, store: Counting, user_id: UUID) -> None:
    """Until Redis answers."""
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            asked = len(store.asked)
            assert await name_of(users, user_id) == "Anna"
            if len(store.asked) == asked:
                return
            await asyncio.sleep(0.05)


async def test_a_redis_that_is_slow_costs_a_call_little_and_the_next_ones_nothing(
    stored: Database, store: Counting
) -> None:
    """One that takes connections and says nothing."""
    ids, silent = await synced(stored, ann()), asyncio.Event()
    asked: list[object] = []

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(writer)
        await silent.wait()
        writer.close()

    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with RedisSettings(url=f"redis://127.0.0.1:{port}").client(binary=True) as redis:
        users = UserReads(store, reads.copies(redis, CacheSettings()), pause_seconds=WAIT_SECONDS)
        with deadline.limit(WAIT_SECONDS):
            assert [await name_of(users, ids["ann"]) for _ in range(5)] == ["Ann"] * 5
    silent.set()
    server.close()
    assert len(asked) == 1
