"""Watchers of events and of orders miss nothing, see nothing twice, and go on through an outage of Redis."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from opentelemetry.trace import SpanKind

from mesh import Code, Error
from mesh.scope import Scope
from meshwright.events.v1.event_pb2 import Event
from meshwright.order.v1.order_pb2 import Order
from meshwright.order.v1.order_service_pb2 import CancelOrderRequest, WatchOrderRequest, WatchOrderResponse
from meshwright.status.v1.status_service_pb2 import WatchEventsRequest, WatchEventsResponse
from meshwright.status.v1.status_service_pb2_grpc import StatusServiceStub, add_StatusServiceServicer_to_server
from services import totals
from services.events.hub import Hub
from services.events.model import Seen
from services.events.stream import NUMBERS, STREAM, Stream
from services.settings import RedisSettings
from services.status.servicer import StatusServicer
from tests.fixtures.orders import Anyone, create
from tests.fixtures.services import orders, refusal, serving
from tests.fixtures.spans import Spans
from tests.fixtures.stores import OwnValkey

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from meshwright.order.v1.order_service_pb2_grpc import OrderServiceAsyncStub
    from meshwright.status.v1.status_service_pb2_grpc import StatusServiceAsyncStub
    from services.database import Database

WAIT_SECONDS = 60
QUIET_SECONDS = 0.2


def client(url: str) -> Redis:
    return RedisSettings(url=url).client(binary=True, blocks_seconds=5)


@pytest.fixture
async def redis(valkey_url: str) -> AsyncIterator[Redis]:
    """A client that answers bytes."""
    async with client(valkey_url) as connected:
        yield connected


@pytest.fixture
async def hub(redis: Redis) -> AsyncIterator[Hub]:
    """A hub with a small ring, running."""
    async with Scope() as scope:
        made = Hub(Stream(redis), capacity=8)
        scope.start(made.run())
        yield made


def events(first: int, last: int, service: str = "order") -> list[Event]:
    return [
        Event(id=f"{service}-{n}", service=service, number=n, type=f"{service}.created", subject=str(n % 2))
        for n in range(first, last + 1)
    ]


async def publish(redis: Redis, *made: Event) -> None:
    for event in made:
        await Stream(redis).publish([event])


async def take(hub: Hub, count: int, seen: str = "", *, began: asyncio.Event | None = None) -> list[str]:
    """Ids of so many events; `began` is set when the watcher stands."""
    found: list[str] = []
    async with asyncio.timeout(WAIT_SECONDS), aclosing(hub.follow(Seen.parse(seen) if seen else None, 60)) as batches:
        async for batch, _ in batches:
            if began:
                began.set()
            found += [event.id for event in batch]
            if len(found) >= count:
                break
    return found


def ids(*made: Event) -> list[str]:
    return [event.id for event in made]


async def test_a_watcher_gets_what_happens_from_now_on(hub: Hub, redis: Redis) -> None:
    await publish(redis, *events(1, 3))
    began = asyncio.Event()
    watching = asyncio.create_task(take(hub, 3, began=began))
    await began.wait()
    await publish(redis, *events(4, 6))
    assert await watching == ids(*events(4, 6))


async def test_a_watcher_goes_on_after_what_it_has_seen(hub: Hub, redis: Redis) -> None:
    await publish(redis, *events(1, 2), *events(1, 1, "sync"), *events(3, 4), *events(2, 2, "sync"))
    assert await take(hub, 3, "order-2,sync-1") == ["order-3", "order-4", "sync-2"]
    assert await take(hub, 2, "order-3,sync-1") == ["order-4", "sync-2"]
    assert await take(hub, 4, "order-2") == ["sync-1", "order-3", "order-4", "sync-2"]
    assert await take(hub, 6, "0") == ["order-1", "order-2", "sync-1", "order-3", "order-4", "sync-2"]


async def test_a_service_that_was_silent_until_then_is_not_missed(hub: Hub, redis: Redis) -> None:
    await publish(redis, *events(1, 2, "sync"), *events(1, 1), *events(3, 3, "sync"))
    assert await take(hub, 2, "sync-2") == ["order-1", "sync-3"]
    assert await take(hub, 1, "order-1") == ["sync-3"]
    await publish(redis, *events(2, 2))
    assert await take(hub, 1, "sync-3") == ["order-2"]


async def test_a_silent_service_is_not_missed_in_a_stream_that_is_filled_again(hub: Hub, redis: Redis) -> None:
    """Its events may then come before what was seen of others."""
    await publish(redis, *events(1, 2, "sync"))
    await Stream(redis).announce("order")
    async with asyncio.timeout(WAIT_SECONDS), aclosing(hub.follow(None, 60)) as watching:
        _, seen = await anext(watching)
    assert str(seen) == "order-0,sync-2"
    await Stream(redis).clear()
    await publish(redis, *events(1, 2), *events(1, 3, "sync"))
    assert await take(hub, 3, str(seen)) == ["order-1", "order-2", "sync-3"]


async def test_what_was_published_twice_comes_once(hub: Hub, redis: Redis) -> None:
    await publish(redis, *events(1, 3), *events(2, 3), *events(4, 4))
    assert await take(hub, 4, "0") == ids(*events(1, 4))
    assert await take(hub, 2, "order-2") == ids(*events(3, 4))


async def test_an_id_that_is_no_longer_kept_is_refused(hub: Hub, redis: Redis) -> None:
    await publish(redis, *events(1, 5))
    await redis.xtrim(STREAM, maxlen=2, approximate=False)
    assert await take(hub, 2, "order-3") == ids(*events(4, 5))
    with pytest.raises(Error) as caught:
        await take(hub, 1, "order-2")
    assert (caught.value.code, caught.value.reason) == (Code.OUT_OF_RANGE, "EVENTS_EXPIRED")


async def test_an_id_that_redis_does_not_know_yet_is_to_be_sent_again_later(hub: Hub, redis: Redis) -> None:
    with pytest.raises(Error) as caught:
        await take(hub, 1, "order-2")
    assert (caught.value.code, caught.value.retry_after_seconds) == (Code.UNAVAILABLE, 1)


@pytest.mark.parametrize("seen", ["order-2", "order-1,nothing-1"])
async def test_an_id_that_never_was_is_refused_once_the_stream_has_had_its_time(
    hub: Hub, redis: Redis, seen: str
) -> None:
    (made,) = events(1, 1)
    await redis.xadd(STREAM, {"event": made.SerializeToString()}, id="1-1")  # half a century ago
    await redis.hset(NUMBERS, "order", 1)
    with pytest.raises(Error) as caught:
        await take(hub, 1, seen)
    assert (caught.value.code, caught.value.reason) == (Code.OUT_OF_RANGE, "EVENTS_EXPIRED")


async def counted(redis: Redis, service: str, last: int, *, time: int = 1 << 52) -> None:
    """Have a service say what its newest event is."""
    await redis.set(totals.key(f"{service}{totals.EVENTS}"), json.dumps({"waiting": 1, "last": last, "time": time}))


async def test_an_id_that_its_service_never_gave_is_refused_at_once(hub: Hub, redis: Redis) -> None:
    await counted(redis, "order", 2)
    await publish(redis, *events(1, 1))
    with pytest.raises(Error) as caught:
        await take(hub, 1, "order-3")
    assert caught.value.reason == "EVENTS_EXPIRED"
    with pytest.raises(Error) as caught:
        await take(hub, 1, "order-2")
    assert caught.value.reason == "EVENTS_BEHIND"


async def test_what_a_service_said_before_redis_began_does_not_count(hub: Hub, redis: Redis) -> None:
    """A Redis that comes back may lack its last second."""
    await counted(redis, "order", 2, time=1)
    await publish(redis, *events(1, 1))
    with pytest.raises(Error) as caught:
        await take(hub, 1, "order-3")
    assert caught.value.reason == "EVENTS_BEHIND"


async def test_a_watcher_that_falls_behind_the_ring_catches_up(hub: Hub, redis: Redis) -> None:
    made = events(1, 100)
    found: list[str] = []
    async with asyncio.timeout(WAIT_SECONDS), aclosing(hub.follow(None, 60)) as slow:
        await anext(slow)
        began = asyncio.Event()
        quick = asyncio.create_task(take(hub, 100, began=began))
        await began.wait()
        await publish(redis, *made)
        assert await quick == ids(*made)
        async for batch, _ in slow:
            found += [event.id for event in batch]
            if len(found) == len(made):
                break
    assert found == ids(*made)


async def test_a_watcher_for_whom_events_are_gone_is_told(hub: Hub, redis: Redis) -> None:
    async with asyncio.timeout(WAIT_SECONDS), aclosing(hub.follow(None, 60)) as slow:
        await publish(redis, *events(1, 1))
        await anext(slow)
        await redis.xtrim(STREAM, maxlen=0, approximate=False)
        await publish(redis, *events(5, 5))
        with pytest.raises(Error) as caught:
            async for _ in slow:
                pass
    assert caught.value.reason == "EVENTS_EXPIRED"


async def test_many_watchers_are_one_reader_of_redis(hub: Hub, redis: Redis) -> None:
    began = [asyncio.Event() for _ in range(50)]
    async with asyncio.TaskGroup() as group:
        watching = [group.create_task(take(hub, 2, began=one)) for one in began]
        await asyncio.gather(*(one.wait() for one in began))
        blocked = [one for one in await redis.client_list() if one["cmd"] == "xread"]
        assert len(blocked) <= 1
        await publish(redis, *events(1, 2))
    assert all(one.result() == ["order-1", "order-2"] for one in watching)


async def test_watchers_go_on_when_redis_is_back_empty_and_filled_again(own_valkey: OwnValkey) -> None:
    async with asyncio.timeout(WAIT_SECONDS), client(own_valkey.url) as redis, Scope() as scope:
        hub = Hub(Stream(redis))
        scope.start(hub.run())
        await publish(redis, *events(1, 2), *events(1, 1, "sync"))
        began = asyncio.Event()
        watching = scope.start(take(hub, 4, "0", began=began))
        await began.wait()
        await own_valkey.kill()
        own_valkey.forget()
        await own_valkey.start()
        await publish(redis, *events(1, 1, "sync"), *events(1, 3))
        assert sorted(await watching) == ["order-1", "order-2", "order-3", "sync-1"]


async def test_a_watcher_that_waits_too_long_for_redis_is_told_to_come_back(own_valkey: OwnValkey) -> None:
    async with asyncio.timeout(WAIT_SECONDS), client(own_valkey.url) as redis, Scope() as scope:
        hub = Hub(Stream(redis), patience_seconds=0)
        scope.start(hub.run())
        began = asyncio.Event()
        watching = asyncio.create_task(take(hub, 1, began=began))
        await began.wait()
        await own_valkey.kill()
        with pytest.raises(Error) as caught:
            await watching
        assert (caught.value.code, caught.value.reason) == (Code.UNAVAILABLE, "EVENTS_UNAVAILABLE")
        assert caught.value.retry_after_seconds
        with pytest.raises(Error):
            await take(hub, 1)


@pytest.fixture
async def status(hub: Hub) -> AsyncIterator[StatusServiceAsyncStub]:
    """The status service, as far as events go."""
    nothing: Any = None
    servicer = StatusServicer(nothing, hub, nothing, nothing, quiet_seconds=QUIET_SECONDS)
    async with serving(partial(add_StatusServiceServicer_to_server, servicer)) as channel:
        yield StatusServiceStub(channel)


async def test_the_stream_begins_with_where_it_stands_and_says_so_when_all_is_quiet(
    status: StatusServiceAsyncStub, redis: Redis
) -> None:
    await publish(redis, *events(1, 2))
    call = status.WatchEvents(WatchEventsRequest(), timeout=WAIT_SECONDS)
    for _ in range(3):
        said = await call.read()
        assert isinstance(said, WatchEventsResponse)
        assert (said.HasField("event"), said.last_event_id) == (False, "order-2")
    call.cancel()


async def test_a_watcher_that_nothing_is_for_is_told_where_the_stream_stands(
    status: StatusServiceAsyncStub, redis: Redis
) -> None:
    """So that what it goes on from does not grow old while others have all the events."""
    await publish(redis, *events(1, 2))
    call = status.WatchEvents(WatchEventsRequest(types=["sync"]), timeout=WAIT_SECONDS)
    await publish(redis, *events(3, 8))
    async for said in call:
        assert not said.HasField("event")
        if said.last_event_id == "order-8":
            break
    call.cancel()


async def test_events_come_filtered_and_with_the_id_to_go_on_from(status: StatusServiceAsyncStub, redis: Redis) -> None:
    await publish(redis, *events(1, 3), *events(1, 2, "sync"), *events(4, 5))
    assert await watched(status, 2, types=["sync"]) == [("sync-1", "order-3,sync-1"), ("sync-2", "order-3,sync-2")]
    assert await watched(status, 2, types=["order.created"], subject="0") == [
        ("order-2", "order-2"), ("order-4", "order-4,sync-2"),
    ]  # fmt: skip


async def test_the_header_of_server_sent_events_is_taken_too(status: StatusServiceAsyncStub, redis: Redis) -> None:
    await publish(redis, *events(1, 3))
    call = status.WatchEvents(WatchEventsRequest(), metadata=(("last-event-id", "order-2"),), timeout=WAIT_SECONDS)
    first, second = [await call.read(), await call.read()]
    assert isinstance(first, WatchEventsResponse)
    assert isinstance(second, WatchEventsResponse)
    assert (first.last_event_id, second.event.id) == ("order-2", "order-3")
    call.cancel()


async def test_a_wrong_id_is_refused(status: StatusServiceAsyncStub) -> None:
    error = await refusal(status.WatchEvents(WatchEventsRequest(last_event_id="nonsense")).read())
    assert (error.code, error.violations[0][0]) == (Code.INVALID_ARGUMENT, "last_event_id")


async def test_a_type_that_no_event_can_have_is_refused(status: StatusServiceAsyncStub) -> None:
    error = await refusal(status.WatchEvents(WatchEventsRequest(types=["order", "order.made"])).read())
    assert (error.code, error.violations[0][0]) == (Code.INVALID_ARGUMENT, "types[1]")


async def watched(
    status: StatusServiceAsyncStub, count: int, *, types: Sequence[str] = (), subject: str = ""
) -> list[tuple[str, str]]:
    """(id, last_event_id) of so many events from the oldest one on."""
    request = WatchEventsRequest(last_event_id="0", types=types, subject=subject)
    call, found = status.WatchEvents(request, timeout=WAIT_SECONDS), list[tuple[str, str]]()
    async for said in call:
        if said.HasField("event"):
            found.append((said.event.id, said.last_event_id))
        if len(found) == count:
            break
    call.cancel()
    return found


@pytest.fixture
async def ordering(stored: Database) -> AsyncIterator[OrderServiceAsyncStub]:
    """The order service, with a Redis that is away."""
    async with orders(stored, Anyone()) as stub:
        yield stub


async def test_an_order_is_watched_from_now_to_its_end_with_redis_away(ordering: OrderServiceAsyncStub) -> None:
    made = await ordering.CreateOrder(create())
    call = ordering.WatchOrder(WatchOrderRequest(id=made.id), timeout=WAIT_SECONDS)
    assert await call.read() == WatchOrderResponse(order=made)
    cancelled = await ordering.CancelOrder(CancelOrderRequest(id=made.id))
    assert await call.read() == WatchOrderResponse(order=cancelled)
    assert await call.read() is grpc.aio.EOF


async def test_the_span_of_a_watch_links_to_those_of_the_changes(ordering: OrderServiceAsyncStub, spans: Spans) -> None:
    made = await ordering.CreateOrder(create())
    call = ordering.WatchOrder(WatchOrderRequest(id=made.id), timeout=WAIT_SECONDS)
    await call.read()
    await ordering.CancelOrder(CancelOrderRequest(id=made.id))
    while await call.read() is not grpc.aio.EOF:
        pass
    _, cancelling, watching = [await spans.next(SpanKind.SERVER, number) for number in (1, 2, 3)]
    assert watching.name.endswith("WatchOrder")
    assert [link.context.span_id for link in watching.links] == [cancelling.context.span_id]


async def test_an_order_that_has_ended_is_told_once(ordering: OrderServiceAsyncStub) -> None:
    made = await ordering.CreateOrder(create())
    cancelled = await ordering.CancelOrder(CancelOrderRequest(id=made.id))
    call = ordering.WatchOrder(WatchOrderRequest(id=made.id), timeout=WAIT_SECONDS)
    assert [said.order async for said in call] == [cancelled]


async def state_of(call: Any) -> str:
    """The state that comes next."""
    said = await call.read()
    return Order.State.Name(said.order.state).removeprefix("STATE_")


async def test_every_state_of_an_order_is_seen_in_order(ordering: OrderServiceAsyncStub, stored: Database) -> None:
    made = await ordering.CreateOrder(create())
    calls = [ordering.WatchOrder(WatchOrderRequest(id=made.id), timeout=WAIT_SECONDS) for _ in range(5)]
    for call in calls:
        await call.read()
    states = ("PROCESSING", "PENDING", "PROCESSING", "COMPLETED")
    for state in states:
        await stored.fetch("UPDATE orders.orders SET state = $1", state)
    for call in calls:
        assert [await state_of(call) for _ in states] == list(states)
        assert await call.read() is grpc.aio.EOF


async def test_changes_while_a_watch_begins_are_not_missed(ordering: OrderServiceAsyncStub) -> None:
    for _ in range(10):
        made = await ordering.CreateOrder(create())
        call = ordering.WatchOrder(WatchOrderRequest(id=made.id), timeout=WAIT_SECONDS)
        cancelled = asyncio.create_task(_cancel(ordering, made.id))
        seen = [said.order.state async for said in call]
        assert seen in ([Order.STATE_PENDING, Order.STATE_CANCELLED], [Order.STATE_CANCELLED])
        await cancelled


async def _cancel(ordering: OrderServiceAsyncStub, order_id: str) -> None:
    await ordering.CancelOrder(CancelOrderRequest(id=order_id))


async def test_an_unknown_order_cannot_be_watched(ordering: OrderServiceAsyncStub) -> None:
    error = await refusal(ordering.WatchOrder(WatchOrderRequest(id=str(uuid.uuid4()))).read())
    assert (error.code, error.reason) == (Code.NOT_FOUND, "ORDER_NOT_FOUND")
