"""What services tell Prometheus of their work is what happened: on a real Postgres and a real Valkey."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from prometheus_client import REGISTRY, generate_latest

from mesh import Code, Error
from mesh.findings.programs import programs
from mesh.recovery import Backoff, time_of_day
from mesh.scope import Scope
from meshwright.sync.v1.sync_pb2 import Sync
from services.events.gauges import GROUPS
from services.events.group import Group
from services.events.stream import STREAM
from services.metrics import Queue
from services.order.work import Attempts
from services.paging import micros
from services.settings import RedisSettings
from services.status.schedule import Cron
from services.status.scheduler import Scheduler
from services.status.store import TaskStore
from services.status.tasks import Task, TaskSettings
from services.sync.provider import ProviderFailed
from services.totals import OLDEST, WAITING
from tests.fixtures.orders import until
from tests.fixtures.prometheus import own, value
from tests.fixtures.services import Syncing
from tests.fixtures.shop import until as soon
from tests.integration.services.test_order_work import Broken, Recorded, take, working
from tests.integration.services.test_syncs import People, finished, people, start
from tests.integration.services.test_tasks import SETTINGS, running, task

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from services.database import Database
    from services.status.tasks import Work


@pytest.fixture
async def redis(valkey_url: str) -> AsyncIterator[Redis]:
    async with RedisSettings(url=valkey_url).client(binary=True) as client:
        yield client


def grown(name: str, **labels: str) -> Callable[[], float]:
    """By how much a counter grows from now on."""
    before = value(own(), name, **labels)
    return lambda: value(own(), name, **labels) - before


async def test_each_attempt_at_an_order_counts_with_what_came_of_it(stored: Database) -> None:
    completed, retried, failed = (grown("order_processing_total", status=s) for s in ("completed", "retried", "failed"))
    wrong = grown("order_processing_errors_total", error_type="UNAVAILABLE")
    measured = grown("order_processing_duration_seconds_count")
    await take(stored, 3)
    async with working(stored, Recorded()):
        await until(stored, lambda states: states == {"COMPLETED": 3})
    await take(stored, 1)
    async with working(stored, Broken(), attempts=Attempts(limit=2, backoff=Backoff(first_seconds=0.0))):
        await until(stored, lambda states: states["FAILED"] == 1)
        await soon(lambda: _is(measured, 5))
    assert (completed(), retried(), failed(), wrong()) == (3, 1, 1, 2)


async def test_each_run_of_the_sync_counts_with_its_end(syncing: Syncing) -> None:
    succeeded, failed = (grown("user_sync_total", status=status) for status in ("succeeded", "failed"))
    wrong = grown("user_sync_errors_total", error_type="ProviderFailed")

    def refuse(index: int) -> object:
        if broken:
            raise ProviderFailed("no", passing=False)
        return None

    broken = False
    stub = await syncing.service(People(people(2), refuse).connect)
    assert (await finished(stub, await start(stub)))[-1].state == Sync.STATE_SUCCEEDED
    broken = True
    assert (await finished(stub, await start(stub)))[-1].state == Sync.STATE_FAILED
    await soon(lambda: _is(failed, 1))
    assert (succeeded(), wrong()) == (1, 1)


async def test_each_run_of_a_task_counts_by_its_name(stored: Database) -> None:
    name = f"task-{uuid.uuid4()}"
    failed = grown("task_results_total", task_name=name, status="failed")
    wrong = grown("task_results_errors_total", task_name=name, error_type="UNAVAILABLE")

    async def refused(run_id: uuid.UUID) -> str:
        raise Error(Code.UNAVAILABLE, "no")

    async with running(Scheduler(TaskStore(stored, "x"), [task(refused, name=name)], TaskSettings())):
        await soon(lambda: _is(failed, 1))
    assert wrong() >= 1
    assert value(own(), "task_results_duration_seconds_count", task_name=name) >= 1


async def test_a_task_counts_from_0_before_its_first_run(stored: Database) -> None:
    name = f"task-{uuid.uuid4()}"

    async def works() -> dict[str, Work]:
        return {f"{name}:one": never}

    async def never(run_id: uuid.UUID) -> str:
        raise AssertionError("it is not time")

    def shown(metric: str, of: str) -> list[float]:
        return [one.value for one in own()[metric].samples if one.labels["task_name"] == of]

    leap_day = Cron.parse("0 0 29 2 *")
    async with running(Scheduler(TaskStore(stored, "x"), [Task(name=name, times=leap_day, works=works)], SETTINGS)):
        await soon(lambda: _is(lambda: len(shown("task_results", f"{name}:one")), 3))
    assert shown("task_results", name) == [0, 0, 0]
    assert shown("task_results", f"{name}:one") == [0, 0, 0]
    assert shown("task_results_errors", name) == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("order_processing", {"customer_missing", "customer_deactivated", "workers_lost", "UNAVAILABLE"}),
        ("user_sync", {"ProviderFailed", "GivenUp"}),
    ],
)
def test_errors_of_a_known_kind_count_from_0(name: str, kinds: set[str]) -> None:
    samples = own()[f"{name}_errors"].samples
    assert kinds <= {sample.labels["error_type"] for sample in samples}


def test_a_queue_shows_its_length_and_age_and_nothing_while_these_are_not_known() -> None:
    queue = Queue(f"queue_{uuid.uuid4().hex}", "Tests that wait")
    try:
        assert [family.samples for family in queue.collect()] == [[], []]
        queue.told({WAITING: 3, OLDEST: micros(time_of_day() - timedelta(seconds=90))})
        (waiting,), (age,) = (family.samples for family in queue.collect())
        assert waiting.value == 3
        assert 90 <= age.value < 600
        queue.told({})
        assert [family.samples[0].value for family in queue.collect()] == [0, 0]
        queue.told(None)
        assert [family.samples for family in queue.collect()] == [[], []]
    finally:
        REGISTRY.unregister(queue)


async def test_groups_of_consumers_show_what_waits_and_what_was_given_up(redis: Redis) -> None:
    group = Group(redis, "readers", "one")
    await group.begin()
    for body in (b"1", b"2", b"3"):
        await redis.xadd(STREAM, {b"event": body})
    first, _ = await group.take(2, 10)
    await group.bury(first, "no")

    async def shown() -> bool:
        found = own()
        names = ("waiting", "pending", "dead_letters")
        return [value(found, f"event_group_{name}", group="readers") for name in names] == [1, 1, 1]

    async with Scope() as scope:
        scope.start(GROUPS.follow(redis, "unix:///run/valkey.sock?db=0"))
        await soon(shown)
        (asked,) = (one for one in programs([generate_latest().decode()]) if "readers" in one.text)
    assert asked.remedy.startswith("REDIS_URL='unix:///run/valkey.sock?db=0' python -m services dead readers  #")


async def test_a_pool_shows_who_holds_connections_and_who_waits(stored: Database) -> None:
    def used() -> float:
        return value(own(), "connection_pool_connections", pool="postgres", state="used")

    before = used()
    async with Scope() as scope:
        async with stored.connection(), stored.connection():
            assert used() == before + 2
            slow = [scope.start(stored.fetch("SELECT pg_sleep(0.2)")) for _ in range(20)]
            await soon(lambda: _is(lambda: float(value(own(), "connection_pool_waiting", pool="postgres") > 0), 1))
        await asyncio.gather(*slow)
    assert used() == before


async def _is(measure: Callable[[], float], wanted: float) -> bool:
    return measure() >= wanted
