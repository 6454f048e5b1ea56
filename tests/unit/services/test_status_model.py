"""How well a whole does whose parts are known."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from mesh.registry import Health, Instance
from mesh.scope import Scope
from services.events.group import Standing
from services.status.model import Component, Service, Totals, of_consumer, of_parts, of_replicas, queues, started
from services.status.probes import Answer, ask
from services.status.survey import Survey, together
from services.totals import OLDEST, WAITING

PASSING, WARNING, CRITICAL = Health.PASSING, Health.WARNING, Health.CRITICAL


@pytest.mark.parametrize(
    ("healths", "expected"),
    [
        ([], CRITICAL),
        ([PASSING], PASSING),
        ([PASSING, WARNING], WARNING),
        ([PASSING, CRITICAL], WARNING),
        ([CRITICAL, CRITICAL], CRITICAL),
        ([WARNING, CRITICAL], WARNING),
    ],
)
def test_one_replica_can_stand_in_for_another(healths: list[Health], expected: Health) -> None:
    assert of_replicas(healths) is expected


@pytest.mark.parametrize(
    ("healths", "all_known", "expected"),
    [
        ([PASSING, PASSING], True, PASSING),
        ([PASSING], False, WARNING),
        ([PASSING, WARNING], True, WARNING),
        ([PASSING, CRITICAL], True, CRITICAL),
        ([CRITICAL], False, CRITICAL),
    ],
)
def test_every_part_is_needed(healths: list[Health], all_known: bool, expected: Health) -> None:
    assert of_parts(healths, all_known=all_known) is expected


def test_a_service_is_as_well_as_its_instances() -> None:
    instances = tuple(
        Instance(service="x", id=health.value, address="a", port=1, health=health) for health in (PASSING, CRITICAL)
    )
    assert Service(name="x", instances=instances).health is WARNING
    assert Service(name="x", instances=()).health is CRITICAL


def test_a_component_with_an_error_does_not_serve() -> None:
    assert Component(name="redis").health is PASSING
    assert Component(name="redis", error="gone").health is CRITICAL


async def test_any_error_of_a_part_is_an_answer() -> None:
    async def broken() -> None:
        raise RuntimeError("two\nlines")

    async with Scope() as scope:
        assert (await ask(scope, broken, 1)).error == "two lines"


async def test_a_part_that_takes_its_time_to_be_cancelled_is_not_waited_for() -> None:
    cleaned = asyncio.Event()

    async def stubborn() -> None:
        try:
            await asyncio.Future()
        finally:
            await cleaned.wait()

    async with Scope() as scope:
        assert "no answer" in (await ask(scope, stubborn, 0.01)).error
        cleaned.set()


def test_nothing_known_is_no_error_of_the_whole() -> None:
    found = together(Survey(
        services=Answer(error="a"), postgres=Answer(error="b"), models=Answer(error="c"),
        counts={"users": Answer(error="d")}, consumers=Answer(error="e"), last_sync=Answer(error="f"),
        failed_tasks=Answer(error="g"), last_listing=None,
    ))  # fmt: skip
    assert list(found.problems) == [
        "registry: a", "postgres: b", "redis: c", "users: d", "consumers: e", "last sync: f", "tasks: g",
    ]  # fmt: skip
    assert not found.HasField("services_time")
    assert not found.HasField("last_sync")
    assert not found.HasField("failed_tasks")
    assert not found.queues


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-01-02T03:04:05+00:00", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("2026-01-02T03:04:05", None),
        ("yesterday", None),
        ("", None),
    ],
)
def test_a_start_time_is_known_where_it_was_registered(text: str, expected: datetime | None) -> None:
    assert started(Instance(service="x", id="x", address="a", port=1, meta={"start-time": text})) == expected


def test_the_oldest_order_is_no_state_of_orders() -> None:
    assert Totals.of({"orders": {"PENDING": 1, OLDEST: 1_000_000}}).orders == {"PENDING": 1}
    assert Totals.of({}).orders is None


def test_queues_say_what_waits_and_whether_for_too_long() -> None:
    orders, events = queues({
        "orders": {"PENDING": 2, "FAILED": 9, OLDEST: 0}, "order-events": {WAITING: 3, OLDEST: 0},
        "sync-events": None, "users": {"users": 5},
    })[::-1]  # fmt: skip
    assert [(one.name, one.waiting) for one in (orders, events)] == [("orders", 2), ("order-events", 3)]
    for minutes, expected in ((1, (PASSING, PASSING)), (2, (PASSING, WARNING)), (11, (WARNING, WARNING))):
        at = datetime(1970, 1, 1, 0, minutes, tzinfo=UTC)
        assert (orders.health(at), events.health(at)) == expected


@pytest.mark.parametrize(
    ("dead", "seconds", "expected"), [(0, None, PASSING), (0, 60, PASSING), (0, 61, WARNING), (1, None, WARNING)]
)
def test_consumers_are_well_when_nothing_waits_long_and_nothing_was_given_up(
    dead: int, seconds: int | None, expected: Health
) -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    oldest = None if seconds is None else at - timedelta(seconds=seconds)
    assert of_consumer(Standing("users", 1, 1, dead, oldest), at) is expected
