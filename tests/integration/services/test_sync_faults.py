"""Runs of the sync service against a provider over HTTP that misbehaves, or changes while it is read."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from mesh import Code
from meshwright.sync.v1.sync_pb2 import Sync, SyncCounts, User
from meshwright.sync.v1.sync_service_pb2 import (
    CancelSyncRequest,
    GetSyncRequest,
    ListSyncsRequest,
    ListUsersRequest,
    StartSyncRequest,
    WatchSyncRequest,
)
from services.sync.model import PROBLEMS, WAITING
from tests.fixtures.scim import Directory, Fault, resource, serving
from tests.fixtures.services import Syncing, refusal, request_id

if TYPE_CHECKING:
    from meshwright.sync.v1.sync_service_pb2_grpc import SyncServiceAsyncStub
    from services.database import Database

WAIT_SECONDS = 60


@pytest.fixture
async def directory() -> AsyncIterator[Directory]:
    """Thirty users, over HTTP."""
    async with serving(Directory([resource(number) for number in range(30)])) as made:
        yield made


async def ended(stub: SyncServiceAsyncStub, provider: str = "") -> Sync:
    """A new run, when it has ended."""
    run = await stub.StartSync(StartSyncRequest(request_id=request_id(), provider=provider))
    return await watched(stub, run)


async def watched(stub: SyncServiceAsyncStub, run: Sync) -> Sync:
    async with asyncio.timeout(WAIT_SECONDS):
        return [seen.sync async for seen in stub.WatchSync(WatchSyncRequest(id=run.id))][-1]


async def users(stub: SyncServiceAsyncStub, provider: str = "") -> dict[str, User]:
    page = await stub.ListUsers(ListUsersRequest(page_size=1000, provider=provider))
    return {user.user_name: user for user in page.users}


async def inactive(stub: SyncServiceAsyncStub) -> set[str]:
    return {name for name, user in (await users(stub)).items() if not user.active}


def once(what: Callable[[], object], start: int) -> Fault:
    """Does something when the page that begins there is asked for the first time."""
    left = [what]

    async def fault(request: web.Request) -> None:
        if left and int(request.query["startIndex"]) >= start:
            left.pop()()

    return fault


async def test_users_that_vanished_are_deactivated_and_active_again_when_they_come_back(
    syncing: Syncing, directory: Directory
) -> None:
    stub = await syncing.service(directory.connect(), page_size=10)
    assert (await ended(stub)).counts == SyncCounts(fetched=30, created=30)
    gone = [directory.users.pop(20), directory.users.pop(3)]
    assert (await ended(stub)).counts == SyncCounts(fetched=28, unchanged=28, deactivated=2)
    assert await inactive(stub) == {"user0003", "user0020"}
    assert (await ended(stub)).counts == SyncCounts(fetched=28, unchanged=28)
    directory.users += gone
    assert (await ended(stub)).counts == SyncCounts(fetched=30, unchanged=28, updated=2)
    assert not await inactive(stub)


async def test_a_run_that_fails_deactivates_nobody(syncing: Syncing, directory: Directory) -> None:
    async def broken(request: web.Request) -> web.StreamResponse | None:
        return web.Response(status=403) if int(request.query["startIndex"]) > 20 else None

    stub = await syncing.service(directory.connect(), page_size=10)
    await ended(stub)
    directory.users.pop(3)
    directory.fault = broken
    last = await ended(stub)
    assert (last.state, last.counts.deactivated) == (Sync.STATE_FAILED, 0)
    assert not await inactive(stub)


@pytest.mark.parametrize("removed", [1, 12])
async def test_nobody_is_taken_for_vanished_as_others_were_removed_between_pages(
    syncing: Syncing, directory: Directory, removed: int
) -> None:
    stub = await syncing.service(directory.connect(), page_size=10, concurrency=1)
    await ended(stub)
    gone = {user["userName"] for user in directory.users[:removed]}

    def remove() -> None:
        del directory.users[:removed]

    directory.fault = once(remove, 10)
    last = await ended(stub)
    assert last.state == Sync.STATE_SUCCEEDED
    assert not await inactive(stub)
    assert any("gap" in problem for problem in last.problems) == (removed == 12)
    assert (await ended(stub)).counts.deactivated in (0, removed)
    assert await inactive(stub) in (gone, set())


async def test_users_that_came_between_pages_are_stored_and_nobody_counts_twice(
    syncing: Syncing, directory: Directory
) -> None:
    def insert() -> None:
        directory.users[5:5] = [resource(number) for number in (100, 101)]
        directory.users.append(resource(102))

    stub = await syncing.service(directory.connect(), page_size=10, concurrency=1)
    directory.fault = once(insert, 20)
    last = await ended(stub)
    assert last.state == Sync.STATE_SUCCEEDED
    assert "user0102" in await users(stub)
    assert last.counts.created == 31
    assert (await ended(stub)).counts == SyncCounts(fetched=33, created=2, unchanged=31)


async def test_malformed_users_are_recorded_with_the_reason_and_not_taken_for_vanished(
    syncing: Syncing, directory: Directory
) -> None:
    stub = await syncing.service(directory.connect(), page_size=10)
    await ended(stub)
    directory.users[7]["active"] = "yes"
    directory.users[29] = directory.users[28]
    last = await ended(stub)
    assert last.counts == SyncCounts(fetched=30, unchanged=28, failed=2, deactivated=1)
    assert list(last.problems) == [
        "user 8 (E7): active is neither true nor false", "user0028: comes more than once; the last one counts",
    ]  # fmt: skip
    assert await inactive(stub) == {"user0029"}
    assert not (await stub.ListSyncs(ListSyncsRequest())).syncs[0].problems


async def test_while_a_user_cannot_be_told_nobody_is_deactivated_and_problems_are_bounded(
    syncing: Syncing, directory: Directory
) -> None:
    stub = await syncing.service(directory.connect(), page_size=50)
    await ended(stub)
    directory.users[:25] = [{}] * 25
    last = await ended(stub)
    assert last.counts == SyncCounts(fetched=30, unchanged=5, failed=25)
    assert len(last.problems) == PROBLEMS


async def test_too_many_users_that_vanish_at_once_fail_the_run_until_it_is_allowed(
    syncing: Syncing, directory: Directory
) -> None:
    stub = await syncing.service(directory.connect(), page_size=10)
    await ended(stub)
    left, directory.users = directory.users, []
    last = await ended(stub)
    assert last.state == Sync.STATE_FAILED
    assert "30 of 30 active users are there no more" in last.error
    assert "SCIM_VANISH_LIMIT" in last.error
    assert not await inactive(stub)
    directory.users = left[:15]
    assert (await ended(stub)).counts.deactivated == 15


async def test_a_user_without_an_external_id_stays_the_same_however_the_name_is_spelled(
    stored: Database, syncing: Syncing, directory: Directory
) -> None:
    """Also where the key is from when the case mattered, and where an externalId comes with another spelling."""
    del directory.users[3]["externalId"]
    stub = await syncing.service(directory.connect())
    directory.users[3]["userName"] = "JÜrgen"
    await ended(stub)
    before = (await users(stub))["JÜrgen"]
    await stored.fetch("UPDATE sync.users SET match_key = 'u:' || user_name WHERE external_id = ''")
    assert (await ended(stub)).counts == SyncCounts(fetched=30, unchanged=30)
    directory.users[3]["userName"] = "jürgen"
    assert (await ended(stub)).counts == SyncCounts(fetched=30, unchanged=29, updated=1)
    directory.users[3] |= {"userName": "JÜRGEN", "externalId": "late"}
    assert (await ended(stub)).counts == SyncCounts(fetched=30, unchanged=29, updated=1)
    assert (await users(stub))["JÜRGEN"].id == before.id


@pytest.mark.parametrize("status", [429, 503])
async def test_a_provider_that_is_busy_at_times_is_waited_for(
    syncing: Syncing, directory: Directory, status: int
) -> None:
    asked: dict[str, int] = {}

    async def busy(request: web.Request) -> web.StreamResponse | None:
        page = request.query["startIndex"]
        asked[page] = asked.get(page, 0) + 1
        return web.Response(status=status, headers={"Retry-After": "0"}) if asked[page] == 1 else None

    directory.fault = busy
    stub = await syncing.service(directory.connect(), page_size=10)
    last = await ended(stub)
    assert (last.state, last.counts.created) == (Sync.STATE_SUCCEEDED, 30)


async def test_a_connection_that_breaks_amid_a_page_is_tried_again(syncing: Syncing, directory: Directory) -> None:
    breaks = [True, True]

    async def cut(request: web.Request) -> web.StreamResponse | None:
        if not breaks:
            return None
        breaks.pop()
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(request)
        await response.write(b'{"totalResults": 30, "Resour')
        assert request.transport is not None
        request.transport.abort()
        return response

    directory.fault = cut
    stub = await syncing.service(directory.connect())
    assert (await ended(stub)).counts.created == 30


async def test_a_provider_that_sends_a_byte_a_second_fails_the_run_in_time(
    syncing: Syncing, directory: Directory
) -> None:
    async def drip(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b" ")
            await asyncio.sleep(1)

    directory.fault = drip
    stub = await syncing.service(directory.connect(timeout_seconds=0.3, attempts=2))
    last = await ended(stub)
    assert last.state == Sync.STATE_FAILED
    assert last.error.endswith("/v2/Users took longer than 0.3 s")


async def test_a_redirect_is_not_followed_to_where_a_token_must_not_go(syncing: Syncing, directory: Directory) -> None:
    async with serving(Directory([])) as metadata:

        async def redirect(_: web.Request) -> web.StreamResponse:
            raise web.HTTPFound(f"{metadata.url}/Users?startIndex=1&count=1")

        directory.fault = redirect
        stub = await syncing.service(directory.connect(token="secret"))
        last = await ended(stub)
    assert last.state == Sync.STATE_FAILED
    assert last.error.endswith("/v2/Users answered 302 Found; redirects are not followed")
    assert not metadata.asked


@pytest.mark.parametrize("total", [1, 12, 40, 10**7])
async def test_a_wrong_total_costs_nobody_their_account(syncing: Syncing, directory: Directory, total: int) -> None:
    stub = await syncing.service(directory.connect(), page_size=10)
    await ended(stub)
    directory.total = total
    last = await ended(stub)
    assert (last.state, last.counts.unchanged, last.counts.deactivated) == (Sync.STATE_SUCCEEDED, 30, 0)
    assert not await inactive(stub)
    assert len(directory.asked) < 60


async def test_a_provider_that_always_sends_the_same_page_fails_the_run(syncing: Syncing, directory: Directory) -> None:
    async def first(_: web.Request) -> web.StreamResponse:
        return web.json_response({"totalResults": 30, "Resources": directory.users[:10]})

    stub = await syncing.service(directory.connect(), page_size=10)
    await ended(stub)
    directory.fault = first
    last = await ended(stub)
    assert last.state == Sync.STATE_FAILED
    assert not await inactive(stub)
    assert len(directory.asked) < 60


async def test_a_run_is_cancelled_at_once_while_the_provider_keeps_it_waiting(
    syncing: Syncing, directory: Directory
) -> None:
    reached, left = asyncio.Event(), asyncio.Event()

    async def hang(_: web.Request) -> None:
        reached.set()
        try:
            await asyncio.Event().wait()
        finally:
            left.set()

    directory.fault = hang
    stub = await syncing.service(directory.connect())
    run = await stub.StartSync(StartSyncRequest(request_id=request_id()))
    async with asyncio.timeout(WAIT_SECONDS):
        await reached.wait()
        assert (await stub.CancelSync(CancelSyncRequest(id=run.id))).state == Sync.STATE_CANCELLED
        directory.fault = once(lambda: None, 0)
        assert (await ended(stub)).counts.created == 30


async def test_providers_side_by_side_have_their_own_users_and_tokens(
    syncing: Syncing, directory: Directory, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    waits = asyncio.Event()

    async def wait(_: web.Request) -> None:
        await waits.wait()

    directory.fault = wait
    async with serving(Directory([resource(0, displayName="Another")])) as partners:
        others = {"partners": partners.connect(token="hunter3")}
        stub = await syncing.service(directory.connect(token="hunter2"), others=others)
        slow = await stub.StartSync(StartSyncRequest(request_id=request_id(), provider="scim"))
        second = await stub.StartSync(StartSyncRequest(request_id=request_id(), provider="scim"))
        assert (await ended(stub, "partners")).counts == SyncCounts(fetched=1, created=1)
        assert (await stub.GetSync(GetSyncRequest(id=second.id))).state == Sync.STATE_PENDING
        waits.set()
        assert (await watched(stub, slow)).counts.created == 30
        assert (await watched(stub, second)).counts.unchanged == 30
    assert [(await users(stub, name))["user0000"].display_name for name in ("scim", "partners")] == ["", "Another"]
    assert (directory.tokens, partners.tokens) == ({"Bearer hunter2"}, {"Bearer hunter3"})
    assert "hunter" not in caplog.text


async def test_no_more_runs_of_a_provider_wait_than_make_sense(syncing: Syncing) -> None:
    stub = await syncing.service(None)
    for _ in range(WAITING):
        await stub.StartSync(StartSyncRequest(request_id=request_id()))
    error = await refusal(stub.StartSync(StartSyncRequest(request_id=request_id())))
    assert (error.code, error.reason) == (Code.RESOURCE_EXHAUSTED, "TOO_MANY_SYNCS")
