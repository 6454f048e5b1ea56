"""Relays, workers and consumers are killed at random, a hundred times: no event is lost, each has its effect once."""

from __future__ import annotations

import asyncio
import multiprocessing
import random
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from redis.exceptions import RedisError

from mesh.scope import Scope
from services.events import inbox
from services.events.group import Group
from services.events.stream import STREAM
from services.order import deactivations
from services.order.model import Draft, Line, Money, State
from services.order.store import OrderStore
from services.settings import RedisSettings
from services.versioned import Copy
from tests.faults.history import CLEAN, Change, Verdict, judge
from tests.fixtures.programs import event_parts
from tests.fixtures.programs.event_parts import BOOKS, COPIES, Stores, consuming, relaying, working
from tests.fixtures.services import database_settings, stored
from tests.fixtures.stores import OwnValkey
from tests.fixtures.users import become, user

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerProcess
    from uuid import UUID

    from redis.asyncio import Redis

    from services.database import Database

__all__ = ["database_settings", "stored"]

pytestmark = pytest.mark.timeout(240)

KILLS = 100
EVERY_SECONDS = 0.3
"""On the average; a new process is at work after a third of it."""

WAIT_SECONDS = 60
PARTS = (relaying, relaying, working, working, consuming, consuming)
UNFINISHED = "SELECT id FROM orders.orders WHERE state IN ('PENDING', 'PROCESSING')"
CANCELLED = "SELECT subject, version FROM orders.outbox WHERE body ->> 'cancel_reason' = 'CUSTOMER_DEACTIVATED'"
CHANGES = "SELECT id, generate_series(1, version) AS version FROM orders.orders"


def test_a_judge_finds_what_is_lost_repeated_invented_and_stale() -> None:
    a, b, c = ("a", 1), ("a", 2), ("b", 1)
    assert judge([a, b, c], [c, b, a], {"a": 2, "b": 1}) == CLEAN
    found = judge([a, b, c], [a, a, ("z", 9)], {"a": 1})
    assert found == Verdict(
        lost=frozenset({b, c}), repeated=frozenset({a}), invented=frozenset({("z", 9)}), stale=frozenset({b})
    )


@dataclass
class Parts:
    """The processes, forked from one that has imported all they need, as that takes most of a start."""

    stores: Stores
    running: list[ForkServerProcess] = field(default_factory=list)

    def start(self, part: Callable[[Stores], None]) -> ForkServerProcess:
        process = _forking.Process(target=part, args=(self.stores,), daemon=True)
        process.start()
        return process

    def replace(self, index: int) -> None:
        """Kill one, and start another in its place."""
        self.running[index].kill()
        self.running[index].join()
        self.running[index] = self.start(PARTS[index])


_forking = multiprocessing.get_context("forkserver")
_forking.set_forkserver_preload([event_parts.__name__])


@contextmanager
def running(stores: Stores) -> Iterator[Parts]:
    """All of them, until the block ends."""
    parts = Parts(stores)
    parts.running += [parts.start(part) for part in PARTS]
    try:
        yield parts
    finally:
        for process in parts.running:
            process.kill()
            process.join()


@dataclass
class Writer:
    """Takes orders, cancels some, and records what has committed."""

    stored: Database
    redis: Redis
    chance: random.Random
    committed: list[Change] = field(default_factory=list)
    doomed: list[Change] = field(default_factory=list)
    """Of customers who are deactivated before anybody works on these."""
    ending: bool = False

    async def run(self) -> None:
        """Until it is to end; not cancelled, as what was cancelled may have committed."""
        while not self.ending:
            await asyncio.gather(self.leave(), *(self.order() for _ in range(self.chance.randint(1, 12))))
            await asyncio.sleep(0.02)

    async def leave(self) -> None:
        """A customer orders, is deactivated, and orders again when active again."""
        customer = await user(self.stored, str(uuid.uuid4()))
        for _ in range(self.chance.randint(1, 3)):
            made, _ = await OrderStore(self.stored, work_delay=timedelta(hours=1)).insert(draft(customer))
            self.doomed.append((str(made.id), 2))
        await become(self.stored, customer, active=False)
        await become(self.stored, customer, active=True)
        await OrderStore(self.stored).insert(draft(customer))

    async def order(self) -> None:
        """An order, which is read, and perhaps cancelled before a worker has it."""
        orders = OrderStore(self.stored)
        order, _ = await orders.insert(draft(uuid.uuid4()))
        self.committed.append((str(order.id), 1))
        await self.copy(order.id)
        if self.chance.random() < 0.3 and await orders.move(order.id, State.CANCELLED):
            self.committed.append((str(order.id), 2))

    async def copy(self, order_id: UUID) -> None:
        """As a reader does, who goes without when Redis is away."""
        with suppress(RedisError, OSError):
            await event_parts.copies(self.redis).look([str(order_id)])
            row = await self.stored.fetchrow("SELECT version FROM orders.orders WHERE id = $1", order_id)
            assert row is not None
            copy = Copy(str(order_id), row["version"], str(row["version"]).encode())
            await event_parts.copies(self.redis).fill([copy])


def draft(customer: UUID) -> Draft:
    price = Money(currency="EUR", units=1, nanos=0)
    return Draft(request_id=uuid.uuid4(), customer_id=customer, lines=(Line(sku="A", quantity=1, price=price),))


async def booked(stored: Database) -> list[Change]:
    rows = await stored.fetch("SELECT subject, version FROM books.entries")
    return [(str(row["subject"]), row["version"]) for row in rows]


async def cancelled(stored: Database) -> list[Change]:
    """Orders that events of users have cancelled, by the events that tell of it."""
    return [(str(row["subject"]), row["version"]) for row in await stored.fetch(CANCELLED)]


async def changes(stored: Database) -> list[Change]:
    """All that have committed, whoever made them."""
    return [(str(row["id"]), row["version"]) for row in await stored.fetch(CHANGES)]


async def settled(stored: Database, redis: Redis) -> list[Change]:
    """All changes, once every order is done and nothing is in anybody's hands, or it has been too long."""
    until = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < until:
        await asyncio.sleep(0.1)
        if not await stored.fetch(UNFINISHED) and await consumed(stored, redis):
            break
    return await changes(stored)


async def consumed(stored: Database, redis: Redis) -> bool:
    """Whether there are as many effects as changes, and nothing waits or is in anybody's hands."""
    if len(await booked(stored)) < len(await changes(stored)):
        return False
    with suppress(RedisError, OSError):
        return all(group["pending"] == group["lag"] == 0 for group in await redis.xinfo_groups(STREAM))
    return False


async def prepare(stored: Database) -> None:
    """The schema of the consumer."""
    await stored.fetch("CREATE SCHEMA books")
    await stored.fetch("CREATE TABLE books.entries (subject uuid, version bigint)")
    await stored.fetch(inbox.TABLE.format(schema=BOOKS))


async def check(stored: Database, redis: Redis, writer: Writer, seed: int) -> None:
    """Judge what came of all changes, once that is settled. An order without a copy would be read from Postgres."""
    made = await settled(stored, redis)
    bodies = await event_parts.copies(redis).look(sorted({subject for subject, _ in made}))
    print(f"{seed=} committed={len(made)} cancelled={len(writer.doomed)} copies={len(bodies)}")
    verdict = judge(made, await booked(stored), {one: int(body) for one, body in bodies.items()})
    assert verdict == CLEAN, f"{seed=}"
    assert judge(writer.doomed, await cancelled(stored), {}) == CLEAN, f"{seed=}"
    assert set(writer.committed) <= set(made)
    assert bodies
    assert await stored.fetch(UNFINISHED) == []
    assert [await Group(redis, name).letters() for name in (BOOKS, COPIES, deactivations.GROUP)] == [[], [], []]


async def test_relays_workers_and_consumers_are_killed_a_hundred_times(
    stored: Database, database_url: str, valkey_url: str
) -> None:
    await prepare(stored)
    chance = random.Random(seed := random.randrange(1 << 32))
    async with RedisSettings(url=valkey_url).client(binary=True) as redis:
        writer = Writer(stored, redis, chance)
        with running(Stores(database_url=database_url, redis_url=valkey_url)) as parts:
            async with Scope() as scope:
                work = scope.start(writer.run())
                for _ in range(KILLS):
                    await asyncio.sleep(chance.uniform(0, 2 * EVERY_SECONDS))
                    parts.replace(chance.randrange(len(PARTS)))
                assert await booked(stored), "the processes lived long enough to do something"
                writer.ending = True
                await work
            await check(stored, redis, writer, seed)


async def test_redis_is_killed_ten_times_and_every_other_time_it_comes_back_empty(
    stored: Database, database_url: str, own_valkey: OwnValkey
) -> None:
    await prepare(stored)
    chance = random.Random(seed := random.randrange(1 << 32))
    async with RedisSettings(url=own_valkey.url).client(binary=True) as redis:
        writer = Writer(stored, redis, chance)
        with running(Stores(database_url=database_url, redis_url=own_valkey.url)):
            async with Scope() as scope:
                work = scope.start(writer.run())
                for number in range(10):
                    await asyncio.sleep(chance.uniform(0.5, 2))
                    await own_valkey.kill()
                    if number % 2 == 0:
                        own_valkey.forget()
                    await own_valkey.start()
                writer.ending = True
                await work
            await check(stored, redis, writer, seed)
