"""Consumers of events on a real Valkey and a real Postgres: each event is done once, or its dead letter says why."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from opentelemetry import trace as otel

from mesh import Code, Error
from mesh.latest import Latest
from mesh.scope import Scope
from meshwright.events.v1.event_pb2 import Event
from services.events import inbox
from services.events.consumer import BATCH, BLOCK_SECONDS, DROPPED, Consumer, ConsumerSettings, Effect
from services.events.group import Group, standings
from services.events.stream import STREAM, Stream
from services.settings import RedisSettings
from tests.fixtures.spans import Spans
from tests.fixtures.stores import OwnValkey

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from services.database import Database

WAIT_SECONDS = 40
SUBJECT = uuid.uuid4()
QUICK = ConsumerSettings(claim_seconds=0.2, grace_seconds=0.0)


@pytest.fixture
async def redis(valkey_url: str) -> AsyncIterator[Redis]:
    """A client that answers bytes."""
    async with RedisSettings(url=valkey_url).client(binary=True, blocks_seconds=BLOCK_SECONDS) as client:
        yield client


def event(number: int, kind: str = "user", traceparent: str = "", service: str = "sync") -> Event:
    return Event(
        id=f"{service}-{number}", service=service, number=number, type=f"{kind}.updated", subject=str(SUBJECT),
        version=1, traceparent=traceparent,
    )  # fmt: skip


async def publish(redis: Redis, *numbers: int) -> None:
    await Stream(redis).publish([event(number) for number in numbers])


@dataclass
class Doing:
    """An effect that tells what it was given, after `before` let it."""

    before: Callable[[Event], object] = lambda event: None
    tried: list[int] = field(default_factory=list)
    done: Latest[list[int]] = field(default_factory=lambda: Latest([]))
    rebuilt: Latest[int] = field(default_factory=lambda: Latest(0))

    async def apply(self, events: Sequence[Event]) -> None:
        self.tried += [event.number for event in events]
        for one in events:
            if isinstance(waiting := self.before(one), asyncio.Event):
                await waiting.wait()
        self.done.set([*self.done.value, *(event.number for event in events)])

    async def rebuild(self) -> None:
        self.rebuilt.set(self.rebuilt.value + 1)

    def consumer(
        self, redis: Redis, name: str = "one", group: str = "test", settings: ConsumerSettings = QUICK
    ) -> Consumer:
        effect = Effect(kinds=frozenset({"user"}), apply=self.apply, rebuild=self.rebuild)
        return Consumer(Group(redis, group, name), effect, settings)

    async def until(self, *numbers: int) -> None:
        """Until these are done."""
        async with asyncio.timeout(WAIT_SECONDS):
            async for done in self.done.changes():
                if set(numbers) <= set(done):
                    return


async def pending(redis: Redis, count: int) -> None:
    """Until so many events are delivered and not done."""
    async with asyncio.timeout(WAIT_SECONDS):
        while (await redis.xpending(STREAM, "test"))["pending"] != count:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def buried(redis: Redis, count: int) -> list[str]:
    """The reasons of dead letters, once there are so many."""
    async with asyncio.timeout(WAIT_SECONDS):
        while len(letters := await Group(redis, "test").letters()) < count:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    return [letter.reason for letter in letters]


async def test_each_event_is_done_by_one_consumer_of_a_group_and_by_every_group(redis: Redis) -> None:
    one, two, other = Doing(), Doing(), Doing()
    async with Scope() as scope:
        for doing, name, group in ((one, "one", "test"), (two, "two", "test"), (other, "one", "other")):
            scope.start(doing.consumer(redis, name, group, ConsumerSettings()).run())
        for start in range(1, 2 * BATCH, 10):
            await publish(redis, *range(start, start + 10))
        await other.until(2 * BATCH)
        async with asyncio.timeout(WAIT_SECONDS):
            while len(one.done.value) + len(two.done.value) < 2 * BATCH:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await pending(redis, 0)
    assert sorted(one.done.value + two.done.value) == other.done.value == list(range(1, 2 * BATCH + 1))


async def test_events_of_other_kinds_are_passed_over(redis: Redis) -> None:
    await Stream(redis).publish([event(1, "order"), event(2), event(3, "sync")])
    doing = Doing()
    async with Scope() as scope:
        scope.start(doing.consumer(redis).run())
        await doing.until(2)
        await pending(redis, 0)
    assert doing.tried == [2]


async def test_what_a_dead_consumer_had_in_hand_is_done_by_another(redis: Redis) -> None:
    never = asyncio.Event()
    dead, living = Doing(before=lambda event: never), Doing()
    await Group(redis, "test").begin()
    await publish(redis, 1, 2, 3)
    async with Scope() as scope:
        scope.start(dead.consumer(redis, "dead").run())
        await pending(redis, 3)
    async with Scope() as scope:
        scope.start(living.consumer(redis, "living").run())
        await living.until(1, 2, 3)
        await pending(redis, 0)
    assert dead.done.value == []
    assert sorted(living.done.value) == [1, 2, 3]


async def test_a_consumer_that_is_to_stop_is_done_with_what_it_has_in_hand(redis: Redis) -> None:
    begun, let = asyncio.Event(), asyncio.Event()

    def before(event: Event) -> asyncio.Event:
        begun.set()
        return let

    doing = Doing(before=before)
    await publish(redis, 1, 2)
    work = asyncio.create_task(doing.consumer(redis, settings=ConsumerSettings()).run())
    async with asyncio.timeout(WAIT_SECONDS):
        await begun.wait()
        work.cancel()
        await asyncio.sleep(0)
        let.set()
        with pytest.raises(asyncio.CancelledError):
            await work
    assert doing.done.value == [1, 2]
    assert (await redis.xpending(STREAM, "test"))["pending"] == 0


async def test_an_event_that_cannot_be_done_holds_no_other_back_and_becomes_a_dead_letter_after_five_deliveries(
    redis: Redis,
) -> None:
    def broken(event: Event) -> None:
        if event.number == 2:
            raise ValueError("two is too many")

    doing = Doing(before=broken)
    await publish(redis, 1, 2, 3)
    async with Scope() as scope:
        scope.start(doing.consumer(redis).run())
        await doing.until(1, 3)
        assert await buried(redis, 1) == ["ValueError: two is too many"]
        (standing,) = await standings(redis)
        (letter,) = standing.letters
        assert (letter.stream, letter.count, letter.reason) == (STREAM, 5, "ValueError: two is too many")
        await publish(redis, 4)
        await doing.until(4)
        await pending(redis, 0)
    assert doing.done.value == [1, 3, 4]
    assert doing.tried == [1, 2, 3, 1, 2, 3, 2, 2, 2, 2, 4]


async def test_an_entry_that_is_no_event_becomes_a_dead_letter(redis: Redis) -> None:
    await redis.xadd(STREAM, {b"event": b"\xff\xff"})
    doing = Doing()
    async with Scope() as scope:
        scope.start(doing.consumer(redis).run())
        (reason,) = await buried(redis, 1)
        await publish(redis, 1)
        await doing.until(1)
    assert "DecodeError" in reason


async def test_an_event_that_its_consumers_die_of_becomes_a_dead_letter(redis: Redis) -> None:
    never = asyncio.Event()
    dying = Doing(before=lambda event: never if event.number == 2 else None)
    await publish(redis, 1, 2, 3)
    for life in range(5):
        async with Scope() as scope, asyncio.timeout(WAIT_SECONDS):
            scope.start(dying.consumer(redis, f"life {life}").run())
            while dying.tried.count(2) <= life:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    async with Scope() as scope:
        scope.start(dying.consumer(redis, "last").run())
        assert await buried(redis, 1) == ["every consumer that had it ended before it was done"]
        await dying.until(1, 3)
        await pending(redis, 0)
    assert dying.tried.count(2) == 5


async def test_what_merely_cannot_be_done_now_is_done_later_however_often_that_was_so(redis: Redis) -> None:
    refusals = [Error(Code.UNAVAILABLE, "the database cannot be reached"), OSError("no route")] * 2

    def away(event: Event) -> None:
        if refusals:
            raise refusals.pop()

    doing = Doing(before=away)
    await publish(redis, 1, 2)
    async with Scope() as scope:
        scope.start(doing.consumer(redis).run())
        await doing.until(1, 2)
    assert doing.done.value == [1, 2]
    assert await Group(redis, "test").letters() == []


async def test_dead_letters_are_done_again_when_they_are_replayed_and_by_their_group_alone(redis: Redis) -> None:
    broken = [True]

    def check(event: Event) -> None:
        if broken[0]:
            raise ValueError("not yet")

    doing, other, group = Doing(before=check), Doing(), Group(redis, "test")
    async with Scope() as scope:
        scope.start(doing.consumer(redis).run())
        scope.start(other.consumer(redis, group="other").run())
        await publish(redis, 1, 2)
        await buried(redis, 2)
        broken[0] = False
        await group.replay(await group.letters())
        await doing.until(1, 2)
        await publish(redis, 3)
        await other.until(3)
    assert (await group.letters(), other.done.value) == ([], [1, 2, 3])
    assert await Stream(redis).published("sync") == 3


async def test_dead_letters_that_are_dropped_as_there_are_too_many_are_told(
    redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(event: Event) -> None:
        raise ValueError("no")

    group, doing = Group(redis, "test", "one", letters=100), Doing(before=broken)
    effect = Effect(kinds=frozenset({"user"}), apply=doing.apply, rebuild=doing.rebuild)
    await publish(redis, *range(1, 251))
    async with asyncio.timeout(WAIT_SECONDS), Scope() as scope:
        scope.start(Consumer(group, effect, ConsumerSettings(deliveries=1)).run())
        while sum("gives an event up" in record.message for record in caplog.records) < 250:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await pending(redis, 0)
    assert "too many dead letters" in caplog.text
    dropped = DROPPED.labels("test")._value.get()
    assert dropped + len(await group.letters()) == 250
    assert dropped > 0


async def test_a_consumer_goes_on_with_a_redis_that_is_back_empty(own_valkey: OwnValkey) -> None:
    client = RedisSettings(url=own_valkey.url).client(binary=True, blocks_seconds=BLOCK_SECONDS)
    doing = Doing()
    async with client as redis, Scope() as scope:
        scope.start(doing.consumer(redis).run())
        await publish(redis, 1)
        await doing.until(1)
        await own_valkey.kill()
        own_valkey.forget()
        await own_valkey.start()
        await publish(redis, 1, 2)
        await doing.until(2)
    assert doing.rebuilt.value == 0


async def test_who_comes_too_late_for_events_that_the_stream_dropped_builds_anew(redis: Redis) -> None:
    doing, stream = Doing(), Stream(redis, length=100)
    await publish(redis, 1)
    async with Scope() as scope:
        scope.start(doing.consumer(redis).run())
        await doing.until(1)
    for number in range(2, 400):
        await stream.publish([event(number)])
    assert doing.rebuilt.value == 0
    async with Scope() as scope:
        scope.start(doing.consumer(redis, "late").run())
        await doing.until(399)
        await pending(redis, 0)
    assert doing.rebuilt.value == 1
    assert len(doing.done.value) < 399


async def test_a_consumer_without_a_sign_of_life_is_struck_off_unless_it_has_something_in_hand(
    redis: Redis,
) -> None:
    await publish(redis, 1)
    busy, idle = Group(redis, "test", "busy"), Group(redis, "test", "idle")
    await busy.begin()
    assert [delivery.count for delivery in await busy.take(10, 10)] == [1]
    assert await idle.take(10, 50) == []
    await asyncio.sleep(0.05)
    await Group(redis, "test", "new", forgotten_seconds=0.01).begin()
    assert [consumer["name"] for consumer in await redis.xinfo_consumers(STREAM, "test")] == [b"busy"]


async def test_the_span_of_a_consumer_links_to_the_traces_of_the_changes(redis: Redis, spans: Spans) -> None:
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    await Stream(redis).publish([event(1, traceparent=traceparent), event(2)])
    async with Scope() as scope, asyncio.timeout(WAIT_SECONDS):
        scope.start(Doing().consumer(redis).run())
        span = await spans.next(otel.SpanKind.CONSUMER)
    assert span.name == f"process {STREAM}"
    assert span.attributes is not None
    assert span.attributes["messaging.consumer.group.name"] == "test"
    assert [f"{link.context.trace_id:032x}" for link in span.links] == [traceparent.split("-")[1]]


async def test_an_effect_in_postgres_is_there_once_however_often_its_event_comes(stored: Database) -> None:
    await stored.fetch("CREATE SCHEMA books")
    await stored.fetch("CREATE TABLE books.entries (number bigint)")
    await stored.fetch(inbox.TABLE.format(schema="books"))

    async def book(*numbers: int, fail: bool = False) -> None:
        async with stored.transaction() as connection:
            for one in await inbox.unseen(connection, "books", "test", [event(number) for number in numbers]):
                await connection.execute("INSERT INTO books.entries VALUES ($1)", one.number)
            if fail:
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await book(1, 2, fail=True)
    await asyncio.gather(book(1, 2), book(2, 3), book(3, 1), book(2, 2))
    rows = await stored.fetch("SELECT number FROM books.entries ORDER BY number")
    assert [row["number"] for row in rows] == [1, 2, 3]


async def test_what_was_seen_is_forgotten_when_no_stream_can_have_it_any_more(stored: Database) -> None:
    await stored.fetch("CREATE SCHEMA books")
    await stored.fetch(inbox.TABLE.format(schema="books"))
    first, second, other = event(1), event(2), event(10, service="order")

    async def unseen(*events: Event) -> list[Event]:
        async with stored.transaction() as connection:
            return await inbox.unseen(connection, "books", "test", events, kept=5)

    assert await unseen(first, second, first, other) == [first, second, other]
    assert await unseen(event(6), other) == [event(6)]
    assert await unseen() == []
    assert len(await stored.fetch("SELECT FROM books.inbox")) == 4
    assert await unseen(event(7)) == [event(7)]
    assert await unseen(first, second) == [first]
