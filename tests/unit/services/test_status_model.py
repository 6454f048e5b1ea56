"""How well a whole does whose parts are known."""

from __future__ import annotations

import pytest

from mesh.registry import Health, Instance
from services.status.model import Component, Service, of_parts, of_replicas
from services.status.probes import Answer, ask
from services.status.servicer import together

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

    assert (await ask(broken, 1)).error == "two lines"


def test_nothing_known_is_no_error_of_the_whole() -> None:
    found = together(Answer(error="a"), Answer(error="b"), Answer(error="c"), Answer(error="d"))
    assert list(found.problems) == ["registry: a", "postgres: b", "redis: c", "last sync: d"]
    assert not found.HasField("last_sync")
