"""Which instances stay in rotation when the registry says that many are gone."""

from __future__ import annotations

from dataclasses import replace

from mesh.registry.model import Health, Instance
from mesh.stability import Rotation, rotate

HOLD = 30.0


def instances(*numbers: int) -> tuple[Instance, ...]:
    return tuple(Instance(service="order", id=f"order-{n}", address="127.0.0.1", port=5000 + n) for n in numbers)


def ids(rotation: Rotation) -> list[str]:
    return [instance.id for instance in rotation.instances]


def step(before: Rotation, observed: tuple[Instance, ...], now: float = 0.0) -> Rotation:
    return rotate(before, observed, now=now, hold_seconds=HOLD)


def sick(instance: Instance, output: str) -> Instance:
    return replace(instance, health=Health.CRITICAL, output=output)


FOUR = step(Rotation(), instances(1, 2, 3, 4))


def test_healthy_instances_are_in_rotation_sorted_by_id() -> None:
    assert ids(step(Rotation(), tuple(reversed(instances(1, 2))))) == ["order-1", "order-2"]


def test_a_warning_stays_in_rotation() -> None:
    (one,) = instances(1)
    assert ids(step(Rotation(), (replace(one, health=Health.WARNING),))) == ["order-1"]


def test_a_new_critical_instance_is_not_in_rotation() -> None:
    assert ids(step(Rotation(), (sick(instances(1)[0], ""),))) == []


def test_one_of_four_lost_is_dropped_at_once() -> None:
    assert ids(step(FOUR, instances(1, 2, 3))) == ["order-1", "order-2", "order-3"]


def test_all_lost_at_once_are_held_and_then_given_up() -> None:
    held = step(FOUR, ())
    assert ids(held) == ids(FOUR)
    assert held.expiry(HOLD) == HOLD
    assert ids(step(held, (), now=HOLD)) == []


def test_lost_one_after_the_other_they_come_back_once_they_are_more_than_half() -> None:
    two_left = step(step(FOUR, instances(1, 2, 3), 1.0), instances(1, 2), 2.0)
    assert ids(two_left) == ["order-1", "order-2"]
    assert ids(step(two_left, instances(1), 3.0)) == ids(FOUR)


def test_all_that_announce_their_departure_are_dropped_at_once() -> None:
    for output in ("leaving", "exited", "not serving: does not answer within 1 s"):
        gone = tuple(sick(instance, output) for instance in instances(1, 2, 3, 4))
        assert ids(step(FOUR, gone)) == []


def test_a_deregistration_after_the_announcement_holds_nothing() -> None:
    announced = step(FOUR, tuple(sick(instance, "leaving") for instance in instances(1, 2, 3, 4)))
    assert ids(step(announced, ())) == []


def test_an_expired_ttl_is_a_loss() -> None:
    assert ids(step(FOUR, tuple(sick(i, "TTL expired") for i in instances(1, 2, 3, 4)))) == ids(FOUR)


def test_lost_instances_that_return_are_lost_no_more() -> None:
    back = step(step(FOUR, ()), instances(1, 2, 3, 4), 1.0)
    assert ids(back) == ids(FOUR)
    assert back.expiry(HOLD) is None


def test_new_instances_replace_held_ones_once_they_are_half() -> None:
    held = step(FOUR, ())
    assert ids(step(held, instances(5, 6, 7, 8), 1.0)) == ["order-5", "order-6", "order-7", "order-8"]


def test_held_ones_are_held_on_while_the_others_come_back_one_by_one() -> None:
    held = step(FOUR, ())
    for count in (1, 2, 3):
        held = step(held, instances(*range(1, count + 1)), float(count))
        assert ids(held) == ids(FOUR)
    assert ids(step(held, instances(1, 2, 3), HOLD)) == ["order-1", "order-2", "order-3"]


def test_after_an_outage_even_a_few_that_are_missing_are_held() -> None:
    held = rotate(FOUR, instances(1, 2, 3), now=0.0, hold_seconds=HOLD, was_away=True)
    assert ids(held) == ids(FOUR)
    assert ids(step(held, instances(1, 2, 3), 1.0)) == ids(FOUR)
    assert ids(step(held, instances(1, 2, 3), HOLD)) == ["order-1", "order-2", "order-3"]
