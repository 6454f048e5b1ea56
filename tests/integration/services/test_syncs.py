"""The sync service on a real Postgres, with the real scim2-server and with providers that misbehave."""

from __future__ import annotations

import asyncio
import dataclasses
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from mesh import Code
from mesh.scope import Scope
from meshwright.sync.v1.sync_pb2 import Sync, SyncCounts
from meshwright.sync.v1.sync_service_pb2 import (
    BatchGetUsersRequest,
    CancelSyncRequest,
    GetSyncRequest,
    GetUserRequest,
    ListSyncsRequest,
    ListUsersRequest,
    StartSyncRequest,
    WatchSyncRequest,
)
from services.database import Database
from services.notices import Notices
from services.order.customers import SyncCustomers
from services.sync.chain import OVERLAP
from services.sync.model import Profile
from services.sync.provider import ProviderFailed
from services.sync.provider_settings import ProviderSettings
from services.sync.scim import Page
from services.sync.store import CHANNEL, LEASE, RunStore
from services.sync.worker import Worker
from tests.fixtures.services import USERS, Syncing, refusal, request_id

if TYPE_CHECKING:
    from meshwright.sync.v1.sync_service_pb2_grpc import SyncServiceAsyncStub
    from services.sync.worker import Connect

WAIT_SECONDS = 40
LARGE = """
INSERT INTO sync.users (provider, match_key, external_id, user_name, display_name, email, phone, active)
SELECT 'scim', 'e:' || n, repeat($1, 395) || n, repeat($1, 395) || n, $2, $2, $2, true
FROM generate_series(10001, 10300) AS n
"""
"""As large as users can be."""


class People:
    """A provider in this process: so many users, and something to be done before each page is answered."""

    def __init__(self, profiles: list[Profile], before: Callable[[int], object] = lambda index: None) -> None:
        self.profiles = profiles
        self.before = before
        self.asked: list[int] = []

    async def fetch(self, index: int, count: int) -> Page:
        """A page; awaits what `before` returns when that can be awaited."""
        self.asked.append(index)
        waiting = self.before(index)
        if isinstance(waiting, asyncio.Event):
            await waiting.wait()
        found = tuple(self.profiles[index - 1 : index - 1 + count])
        return Page(index=index, total=len(self.profiles), entries=found)

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[People]:
        """As the worker opens a provider."""
        yield self


def people(count: int, prefix: str = "user") -> list[Profile]:
    return [Profile(user_name=f"{prefix}{number:04d}", external_id=f"E{number}") for number in range(count)]


async def start(stub: SyncServiceAsyncStub) -> Sync:
    return await stub.StartSync(StartSyncRequest(request_id=request_id()))


async def finished(stub: SyncServiceAsyncStub, run: Sync) -> list[Sync]:
    """Every state of a run that a watcher sees."""
    async with asyncio.timeout(WAIT_SECONDS):
        return [seen.sync async for seen in stub.WatchSync(WatchSyncRequest(id=run.id))]


async def test_all_users_of_a_real_provider_are_stored_and_a_second_run_changes_nothing(
    syncing: Syncing, scim_connect: Connect
) -> None:
    stub = await syncing.service(scim_connect)
    seen = await finished(stub, await start(stub))
    assert seen[-1].state == Sync.STATE_SUCCEEDED
    assert seen[-1].counts == SyncCounts(fetched=USERS, created=USERS)
    assert len(seen) > 2, "progress shows between the start and the end"
    user = (await stub.ListUsers(ListUsersRequest(page_size=1))).users[0]
    assert (user.user_name, user.email) == ("user00001", "user00001@corp.example")

    again = (await finished(stub, await start(stub)))[-1]
    assert again.counts == SyncCounts(fetched=USERS, unchanged=USERS)
    assert await stub.GetUser(GetUserRequest(id=user.id)) == user


async def test_what_changed_is_updated_under_the_same_id(syncing: Syncing) -> None:
    provider = People(people(3))
    stub = await syncing.service(provider.connect)
    await finished(stub, await start(stub))
    before = {user.external_id: user for user in (await stub.ListUsers(ListUsersRequest())).users}

    provider.profiles = [Profile(user_name="renamed", external_id="E1", active=False), *people(1)]
    last = (await finished(stub, await start(stub)))[-1]
    assert last.counts == SyncCounts(fetched=2, updated=1, unchanged=1, deactivated=1)
    user = await stub.GetUser(GetUserRequest(id=before["E1"].id))
    assert (user.user_name, user.active) == ("renamed", False)
    assert user.create_time == before["E1"].create_time
    assert user.update_time.ToDatetime() > before["E1"].update_time.ToDatetime()


async def test_the_same_request_id_answers_the_same_run(syncing: Syncing) -> None:
    stub = await syncing.service(None)
    request = StartSyncRequest(request_id=request_id())
    runs = await asyncio.gather(*(stub.StartSync(request) for _ in range(20)))
    assert len({run.id for run in runs}) == 1
    assert len((await stub.ListSyncs(ListSyncsRequest())).syncs) == 1


async def test_an_unknown_provider_is_not_found(syncing: Syncing) -> None:
    stub = await syncing.service(None)
    error = await refusal(stub.StartSync(StartSyncRequest(request_id=request_id(), provider="other")))
    assert (error.code, error.reason) == (Code.NOT_FOUND, "PROVIDER_NOT_FOUND")


async def test_a_run_is_cancelled_at_once_and_its_worker_goes_on(syncing: Syncing) -> None:
    reached, never = asyncio.Event(), asyncio.Event()

    def hang(index: int) -> object:
        if index > 1:
            reached.set()
            return never
        return None

    provider = People(people(10), hang)
    stub = await syncing.service(provider.connect, page_size=2, concurrency=2)
    run = await start(stub)
    async with asyncio.timeout(WAIT_SECONDS):
        await reached.wait()
    cancelled = await stub.CancelSync(CancelSyncRequest(id=run.id))
    assert cancelled.state == Sync.STATE_CANCELLED
    assert await stub.CancelSync(CancelSyncRequest(id=run.id)) == cancelled

    never.set()
    assert (await finished(stub, await start(stub)))[-1].counts.fetched == 10
    assert (await stub.GetSync(GetSyncRequest(id=run.id))).counts.fetched == 2, "what was stored stays"


async def test_a_run_of_a_worker_that_died_goes_on_where_it_was(syncing: Syncing, stored: Database) -> None:
    run, _ = await RunStore(stored).start(uuid.uuid4(), "scim")
    dead = await RunStore(stored).claim("dead", "scim")
    assert dead is not None
    chain, entries = dead.chain.join(Page(index=1, total=12, entries=tuple(people(8))))
    await RunStore(stored).store(dead, "dead", chain, entries)
    await stored.fetch("UPDATE sync.runs SET lease_expires = now()")

    provider = People(people(12))
    stub = await syncing.service(provider.connect, page_size=4)
    last = (await finished(stub, await stub.GetSync(GetSyncRequest(id=str(run.id)))))[-1]
    assert (last.state, last.counts) == (Sync.STATE_SUCCEEDED, SyncCounts(fetched=12, created=12))
    assert min(provider.asked) == 9 - OVERLAP


async def test_a_worker_that_is_stopped_gives_its_run_to_another_at_once(syncing: Syncing, stored: Database) -> None:
    reached, never = asyncio.Event(), asyncio.Event()

    def hang(index: int) -> object:
        reached.set()
        return never

    notices, other = Notices(stored, CHANNEL), People(people(3))
    run, _ = await RunStore(stored).start(uuid.uuid4(), "scim")
    stopped = Worker(
        RunStore(stored), notices, ProviderSettings(page_size=2), People([], hang).connect, name="stopped",
        changed=lambda: None,
    )  # fmt: skip
    async with asyncio.timeout(LEASE.total_seconds() - 5):
        async with Scope() as scope:
            scope.start(stopped.run())
            await reached.wait()
            stub = await syncing.service(other.connect)
        seen = await finished(stub, await stub.GetSync(GetSyncRequest(id=str(run.id))))
    assert seen[-1].counts.created == 3


async def test_two_services_share_the_runs_and_both_see_their_end(syncing: Syncing) -> None:
    provider = People(people(4))
    first = await syncing.service(provider.connect, name="one")
    second = await syncing.service(provider.connect, name="two")
    runs = await asyncio.gather(*(start(first) for _ in range(6)))
    ends = await asyncio.gather(*(finished(second, run) for run in runs))
    assert [seen[-1].state for seen in ends] == [Sync.STATE_SUCCEEDED] * 6
    assert sum(seen[-1].counts.created for seen in ends) == 4


async def test_a_run_fails_with_what_the_provider_said(syncing: Syncing) -> None:
    def refuse(index: int) -> object:
        if index > 2:
            raise ProviderFailed("https://idp.example/Users answered 403 Forbidden", passing=False)
        return None

    stub = await syncing.service(People(people(4), refuse).connect, page_size=2)
    last = (await finished(stub, await start(stub)))[-1]
    assert (last.state, last.error) == (Sync.STATE_FAILED, "https://idp.example/Users answered 403 Forbidden")
    assert last.counts.created == 2


async def test_a_wrong_token_fails_the_run(syncing: Syncing, scim_url: str) -> None:
    from functools import partial

    from services.sync import provider

    stub = await syncing.service(partial(provider.connect, ProviderSettings(url=scim_url, token="wrong")))
    last = (await finished(stub, await start(stub)))[-1]
    assert last.state == Sync.STATE_FAILED
    assert "401" in last.error
    assert "wrong" not in last.error


async def test_a_finished_run_cannot_be_cancelled(syncing: Syncing) -> None:
    stub = await syncing.service(People([]).connect)
    run = await start(stub)
    await finished(stub, run)
    error = await refusal(stub.CancelSync(CancelSyncRequest(id=run.id)))
    assert (error.code, error.reason) == (Code.FAILED_PRECONDITION, "ILLEGAL_TRANSITION")


async def test_many_users_are_found_at_once_and_strangers_left_out(syncing: Syncing) -> None:
    stub = await syncing.service(People([Profile(user_name=f"u{n}", active=n != 1) for n in range(3)]).connect)
    await finished(stub, await start(stub))
    users = (await stub.ListUsers(ListUsersRequest())).users
    ids = [user.id for user in users]
    found = await stub.BatchGetUsers(BatchGetUsersRequest(ids=[*ids, ids[0], str(uuid.uuid4())]))
    assert sorted(found.users, key=lambda user: user.user_name) == list(users)
    customers = SyncCustomers(stub)
    standings = dict(zip(map(uuid.UUID, ids), (True, False, True), strict=True))
    assert await customers.find([uuid.uuid4(), *standings]) == standings
    assert await customers.find([uuid.UUID(ids[1])]) == {uuid.UUID(ids[1]): False}
    assert not await customers.find([uuid.uuid4()])
    assert not await customers.find([])
    assert (await refusal(stub.BatchGetUsers(BatchGetUsersRequest()))).code is Code.INVALID_ARGUMENT


async def test_users_come_in_pages_by_name(syncing: Syncing) -> None:
    stub = await syncing.service(People(people(5)).connect)
    await finished(stub, await start(stub))
    names, token = [], ""
    while True:
        page = await stub.ListUsers(ListUsersRequest(page_size=2, page_token=token, provider="scim"))
        names += [user.user_name for user in page.users]
        token = page.next_page_token
        if not token:
            break
    assert names == [profile.user_name for profile in people(5)]
    assert not (await stub.ListUsers(ListUsersRequest(provider="other"))).users


async def test_large_users_make_pages_that_every_peer_takes(stored: Database, syncing: Syncing) -> None:
    text = "\U0001f600"
    await stored.fetch(LARGE, text, text * 1000)
    stub = await syncing.service(None)
    seen: list[str] = []
    token = ""
    while not seen or token:
        page = await stub.ListUsers(ListUsersRequest(page_size=1000, page_token=token))
        assert page.ByteSize() < 2.1 * 2**20
        seen, token = [*seen, *(user.id for user in page.users)], page.next_page_token
    assert len(seen) == len(set(seen)) == 300
    error = await refusal(stub.BatchGetUsers(BatchGetUsersRequest(ids=seen)))
    assert (error.code, error.reason) == (Code.RESOURCE_EXHAUSTED, "ANSWER_TOO_LARGE")
    assert len((await stub.BatchGetUsers(BatchGetUsersRequest(ids=seen[:100]))).users) == 100
    assert await SyncCustomers(stub).find([uuid.UUID(one) for one in seen]) == {uuid.UUID(one): True for one in seen}


async def test_runs_come_in_pages_newest_first(syncing: Syncing) -> None:
    stub = await syncing.service(None)
    made = [(await start(stub)).id for _ in range(3)]
    page = await stub.ListSyncs(ListSyncsRequest(page_size=2))
    rest = await stub.ListSyncs(ListSyncsRequest(page_size=2, page_token=page.next_page_token))
    assert [run.id for run in (*page.syncs, *rest.syncs)] == made[::-1]
    assert not rest.next_page_token


async def test_unknown_and_bad_ids_are_refused(syncing: Syncing) -> None:
    stub = await syncing.service(None)
    missing = str(uuid.uuid4())
    assert (await refusal(stub.GetUser(GetUserRequest(id=missing)))).reason == "USER_NOT_FOUND"
    assert (await refusal(stub.GetSync(GetSyncRequest(id=missing)))).reason == "SYNC_NOT_FOUND"
    assert (await refusal(stub.CancelSync(CancelSyncRequest(id=missing)))).reason == "SYNC_NOT_FOUND"
    for bad in ("", "x", "a\0b"):
        assert (await refusal(stub.GetUser(GetUserRequest(id=bad)))).code is Code.INVALID_ARGUMENT
    assert (await refusal(stub.ListUsers(ListUsersRequest(provider="a\0")))).code is Code.INVALID_ARGUMENT
    assert (await refusal(stub.ListUsers(ListUsersRequest(page_token="zzz")))).code is Code.INVALID_ARGUMENT


async def test_watching_an_unknown_run_is_not_found(syncing: Syncing) -> None:
    stub = await syncing.service(None)

    async def first() -> object:
        return await anext(aiter(stub.WatchSync(WatchSyncRequest(id=str(uuid.uuid4())))))

    error = await refusal(first())
    assert error.reason == "SYNC_NOT_FOUND"


@pytest.mark.parametrize("size", [1, 2, 3, 7])
async def test_a_provider_that_answers_fewer_than_asked_is_read_to_the_end(syncing: Syncing, size: int) -> None:
    class Stingy(People):
        async def fetch(self, index: int, count: int) -> Page:
            return await super().fetch(index, min(count, size if index < 5 else 1))

    stub = await syncing.service(Stingy(people(9)).connect, page_size=4, concurrency=2)
    last = (await finished(stub, await start(stub)))[-1]
    assert last.counts == SyncCounts(fetched=9, created=9)


@pytest.mark.parametrize("concurrency", [1, 8])
async def test_a_provider_that_claims_more_users_than_it_has_is_left_at_its_first_empty_page(
    syncing: Syncing, concurrency: int
) -> None:
    class Boasting(People):
        async def fetch(self, index: int, count: int) -> Page:
            return dataclasses.replace(await super().fetch(index, count), total=10**8)

    provider = Boasting(people(9))
    stub = await syncing.service(provider.connect, page_size=2, concurrency=concurrency)
    last = (await finished(stub, await start(stub)))[-1]
    assert (last.state, last.counts) == (Sync.STATE_SUCCEEDED, SyncCounts(fetched=9, created=9))
    assert len(provider.asked) < 20


async def test_a_provider_that_never_ends_fails_the_run(syncing: Syncing) -> None:
    class Endless(People):
        async def fetch(self, index: int, count: int) -> Page:
            found = tuple(people(index + count)[index:])
            return Page(index=index, total=7, entries=found)

    stub = await syncing.service(Endless([]).connect, page_size=4)
    last = (await finished(stub, await start(stub)))[-1]
    assert last.state == Sync.STATE_FAILED
    assert "though it said that it has 7" in last.error


async def test_a_user_that_is_twice_on_a_page_counts_once_as_it_was_last(
    syncing: Syncing, caplog: pytest.LogCaptureFixture
) -> None:
    provider = People([*people(2), dataclasses.replace(people(1)[0], user_name="newest")])
    stub = await syncing.service(provider.connect)
    last = (await finished(stub, await start(stub)))[-1]
    assert last.counts == SyncCounts(fetched=3, created=2, failed=1)
    assert list(last.problems) == ["user0000: comes more than once; the last one counts"]
    assert {user.user_name for user in (await stub.ListUsers(ListUsersRequest())).users} == {"newest", "user0001"}
    assert "user0000: comes more than once" in caplog.text
