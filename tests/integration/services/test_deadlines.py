"""A deadline and a caller who goes away reach Postgres and Redis, over as many hops as there are."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

import mesh
from mesh import Code, Error, deadline
from mesh.scope import Scope
from services import database
from services.database import Database, DatabaseSettings
from services.settings import RedisSettings
from tests.fixtures.echo import dialled, failure, path, served, unary_unary
from tests.fixtures.services import NAP, POOL_SIZE, gone, running, whole
from tests.fixtures.shop import until
from tests.fixtures.stores import closed, copy

WAIT_SECONDS = 20.0
CANCEL_REQUEST = bytes.fromhex("04d2162e")
"""What a connection that only cancels says after its length."""


@asynccontextmanager
async def hops(stored: Database, in_transaction: bool = False) -> AsyncIterator[mesh.Channel]:
    """A service that calls a service that sleeps in Postgres."""

    async def nap(request: bytes, context: Any) -> bytes:
        if not in_transaction:
            await stored.fetch(NAP)
        else:
            async with stored.transaction() as connection:
                await connection.fetch(NAP)
        return b""

    async with served({"It": unary_unary(nap)}) as far, dialled(far) as onward:

        async def ask(request: bytes, context: Any) -> bytes:
            answer: bytes = await onward.unary_unary(path("It"))(request, timeout=60)
            return answer

        async with served({"It": unary_unary(ask)}) as near, dialled(near) as channel:
            yield channel


@pytest.mark.parametrize("in_transaction", [False, True])
async def test_a_deadline_ends_the_statement_of_the_last_hop(stored: Database, in_transaction: bool) -> None:
    async with asyncio.timeout(WAIT_SECONDS), hops(stored, in_transaction) as channel:
        error = await failure(channel.unary_unary(path("It"))(b"", timeout=0.3))
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await gone(stored)
        await whole(stored)


async def test_a_caller_who_goes_ends_the_statement_of_the_last_hop(stored: Database) -> None:
    async def is_there() -> bool:
        return await running(stored) == 1

    async with asyncio.timeout(WAIT_SECONDS), hops(stored) as channel:
        call = channel.unary_unary(path("It"))(b"", timeout=60)
        await until(is_there)
        call.cancel()
        await gone(stored)
        await whole(stored)


async def test_a_cancellation_that_overtakes_its_statement_costs_the_connection(
    stored: Database, database_settings: DatabaseSettings, stores_folder: Path, short_tmp: Path
) -> None:
    """Postgres knows nothing to cancel then, and would work on."""
    overtaken, relays = asyncio.Event(), list[Any]()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        relays.append(asyncio.current_task())
        from_server, to_server = await asyncio.open_unix_connection(stores_folder / ".s.PGSQL.5432")
        try:
            async with Scope() as scope:
                scope.start(copy(from_server, writer))
                while said := await reader.read(65536):
                    if b"pg_sleep" in said:
                        await overtaken.wait()
                    to_server.write(said)
                    if said[4:8] == CANCEL_REQUEST:
                        overtaken.set()
        finally:
            await closed(to_server, writer)

    url = f"{database_settings.url.partition('?host=')[0]}?host={short_tmp}"
    relayed = dataclasses.replace(database_settings, url=url, statement_timeout_seconds=60, pool_size=1)
    async with asyncio.timeout(WAIT_SECONDS), await asyncio.start_unix_server(relay, short_tmp / ".s.PGSQL.5432"):
        async with database.connect(relayed) as behind:
            with deadline.limit(0.05), pytest.raises(Error) as caught:
                await behind.fetch(NAP)
            assert await behind.fetchrow("SELECT 1")
        await gone(stored)
        await asyncio.gather(*relays, return_exceptions=True)
    assert caught.value.code is Code.DEADLINE_EXCEEDED


async def test_with_nothing_left_no_statement_is_sent(stored: Database) -> None:
    await stored.fetch("CREATE SEQUENCE sent")
    with deadline.limit(0), pytest.raises(Error) as caught:
        await stored.fetch("SELECT nextval('sent')")
    assert caught.value.code is Code.DEADLINE_EXCEEDED
    (row,) = await stored.fetch("SELECT nextval('sent') AS number")
    assert row["number"] == 1


async def test_waiting_for_a_connection_ends_with_the_deadline(stored: Database) -> None:
    async with AsyncExitStack() as stack:
        for _ in range(POOL_SIZE):
            await stack.enter_async_context(stored.connection())
        with deadline.limit(0.05), pytest.raises(Error) as caught:
            await stored.fetch("SELECT 1")
    assert caught.value.code is Code.DEADLINE_EXCEEDED
    await whole(stored)


async def test_redis_gets_no_more_time_than_the_call_in_hand(valkey_url: str) -> None:
    settings = RedisSettings(url=valkey_url, timeout_seconds=WAIT_SECONDS)
    async with asyncio.timeout(WAIT_SECONDS), settings.client() as redis:
        with deadline.limit(0.05), pytest.raises(TimeoutError):
            await redis.blpop(["nobody-pushes"], timeout=60)
        with deadline.limit(0), pytest.raises(TimeoutError):
            await redis.set("key", "sent")
        with deadline.limit(0), pytest.raises(TimeoutError):
            await both(redis).execute()
        assert await redis.get("key") is None
        assert await both(redis).execute() == [True, "sent"]


def both(redis: Any) -> Any:
    """Two commands that are sent together."""
    return redis.pipeline().set("key", "sent").get("key")


async def test_a_redis_that_says_nothing_costs_no_more_than_the_deadline(short_tmp: Path) -> None:
    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    settings = RedisSettings(url=f"unix://{short_tmp}/s", timeout_seconds=WAIT_SECONDS)
    async with (
        asyncio.timeout(WAIT_SECONDS),
        await asyncio.start_unix_server(listen, short_tmp / "s"),
        settings.client() as redis,
    ):
        with deadline.limit(0.05), pytest.raises(TimeoutError):
            await redis.get("key")
