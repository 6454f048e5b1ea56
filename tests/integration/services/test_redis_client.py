"""Many callers of one Redis: all are answered, each with its own answer, also when others give up."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from redis import exceptions

from mesh import deadline
from mesh.scope import Scope
from services import totals
from services.events.group import Group, standings
from services.settings import CONNECTIONS, RedisSettings

WAIT_SECONDS = 20.0
CALLERS = 50


def client(url: str) -> Any:
    return RedisSettings(url=url, timeout_seconds=WAIT_SECONDS).client(binary=True)


async def echo(redis: Any, number: int) -> bool:
    """Whether a command, and two that are sent together, answer what they were asked for."""
    asked = str(number).encode()
    alone = await redis.execute_command("ECHO", asked)
    together = await redis.pipeline(transaction=False).echo(asked).echo(asked).execute()
    return (alone, *together) == (asked,) * 3


async def test_more_callers_than_connections_wait_for_one(valkey_url: str) -> None:
    async with asyncio.timeout(WAIT_SECONDS), client(valkey_url) as redis:
        assert all(await asyncio.gather(*(echo(redis, number) for number in range(CALLERS))))
        (idle, _), (used, _) = redis.connection_pool.get_connection_count()
        assert (idle <= CONNECTIONS, used) == (True, 0)


async def test_the_status_of_many_at_once_finds_redis_well(valkey_url: str) -> None:
    async with asyncio.timeout(WAIT_SECONDS), client(valkey_url) as redis:
        await Group(redis, "users", "one").begin()
        found = await asyncio.gather(
            *(totals.read(redis, "users") for _ in range(CALLERS)), *(standings(redis) for _ in range(CALLERS))
        )
        assert found[:CALLERS] == [None] * CALLERS
        assert {one.name for group in found[CALLERS:] for one in group} == {"users"}  # type: ignore[union-attr]


async def test_callers_who_give_up_cost_others_nothing(valkey_url: str) -> None:
    chance = random.Random(7)
    async with asyncio.timeout(WAIT_SECONDS), client(valkey_url) as redis:
        for _ in range(10):
            asked = [asyncio.ensure_future(echo(redis, number)) for number in range(CALLERS)]
            given_up = chance.sample(asked, CALLERS // 2)
            for one in given_up:
                await asyncio.sleep(0)
                one.cancel()
            found = await asyncio.gather(*asked, return_exceptions=True)
            assert all(answer is True for one, answer in zip(asked, found, strict=True) if one not in given_up)
        assert all(await asyncio.gather(*(echo(redis, number) for number in range(CALLERS))))


async def test_who_finds_no_connection_free_in_time_is_told(valkey_url: str) -> None:
    settings = RedisSettings(url=valkey_url, timeout_seconds=1)
    async with asyncio.timeout(WAIT_SECONDS), settings.client(blocks_seconds=WAIT_SECONDS) as shared, Scope() as scope:
        redis: Any = shared
        held = [scope.start(redis.blpop(["nobody-pushes"], timeout=0)) for _ in range(CONNECTIONS)]
        await asyncio.sleep(0)
        with deadline.limit(0.05), pytest.raises(TimeoutError):
            await redis.get("key")
        with pytest.raises(exceptions.TimeoutError):
            await redis.get("key")
        for one in held:
            one.cancel()
        await asyncio.wait(held)
        assert await redis.get("key") is None
