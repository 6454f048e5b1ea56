"""Which instances stay in rotation when the registry says that many are gone. Pure.

Leaving and lost differ. An instance that is taken out on purpose says so in the output of its failing check
and is dropped at once. When more than half of a service is lost without such a word within the hold time, it
is more likely the registry than the instances, so the lost ones stay: a dead instance among live ones is
skipped by clients, while an empty set makes every call fail.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mesh.registry.model import EMPTY, Health, Instance

ANNOUNCED = ("leaving", "exited", "not serving")
"""Outputs of a failing check that announce a departure; what follows in the text does not matter."""


@dataclass(frozen=True, kw_only=True)
class Lost:
    """An instance that vanished without a word."""

    instance: Instance
    since: float


@dataclass(frozen=True)
class Rotation:
    """Instances that callers are told of, and those that were lost within the hold time."""

    instances: tuple[Instance, ...] = ()
    lost: Mapping[str, Lost] = field(default_factory=lambda: EMPTY)

    def expiry(self, hold_seconds: float) -> float | None:
        """When the first lost instance is given up, on the clock of `rotate`; None when none is."""
        return min((lost.since + hold_seconds for lost in self.lost.values()), default=None)


def rotate(
    previous: Rotation, observed: tuple[Instance, ...], *, now: float, hold_seconds: float, was_away: bool = False
) -> Rotation:
    """The rotation after the registry answered `observed` at `now` (seconds on any steady clock).

    After it `was_away`, however few are missing are held: it may have come back empty and be filling up again.
    """
    healthy = {i.id: i for i in observed if i.health is not Health.CRITICAL}
    announced = {i.id for i in observed if i.output.startswith(ANNOUNCED)}
    before = {i.id: Lost(instance=i, since=now) for i in previous.instances} | dict(previous.lost)
    lost = {
        id_: entry
        for id_, entry in before.items()
        if id_ not in healthy and id_ not in announced and now < entry.since + hold_seconds
    }
    is_most = 2 * len(lost) > len(lost) + len(healthy)
    # Those held before are held on while the others come back one by one, but not when new ones take their place.
    are_replaced = not healthy.keys() <= before.keys()
    served = {i.id for i in previous.instances}
    kept = served if was_away else frozenset() if are_replaced else served & previous.lost.keys()
    held = [entry.instance for id_, entry in lost.items() if is_most or id_ in kept]
    return Rotation(tuple(sorted([*healthy.values(), *held], key=lambda i: i.id)), lost)
