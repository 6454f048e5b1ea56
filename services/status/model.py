"""How well a whole does whose parts are known. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Self

from mesh.registry import Health, Instance
from services import paging
from services.totals import EVENTS, OLDEST, WAITING, Model

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import TypeAlias

    from services.events.group import Standing

    Models: TypeAlias = Mapping[str, Model | None]

EVENTS_LATE = timedelta(minutes=1)
ORDERS_LATE = timedelta(minutes=10)
"""Longer than all attempts of work on an order that nothing is wrong with but a service that it needs."""


@dataclass(frozen=True, kw_only=True)
class Service:
    """A name on the mesh with its instances, sorted by id."""

    name: str
    instances: tuple[Instance, ...]

    @property
    def health(self) -> Health:
        """CRITICAL when none serves, WARNING when some do not or something is off."""
        return of_replicas([instance.health for instance in self.instances])


@dataclass(frozen=True, kw_only=True)
class Component:
    """Something that the services stand on, asked just now."""

    name: str
    latency_seconds: float | None = None
    error: str = ""

    @property
    def health(self) -> Health:
        """CRITICAL when it did not answer."""
        return Health.CRITICAL if self.error else Health.PASSING


@dataclass(frozen=True, kw_only=True)
class Queue:
    """Work that waits."""

    name: str
    waiting: int
    oldest: datetime | None
    """Since when the oldest waits; None when nothing does."""
    late: timedelta
    """Nothing should wait for longer."""

    def health(self, at: datetime) -> Health:
        """WARNING when the oldest waits for too long."""
        return Health.WARNING if _is_late(self.oldest, at, self.late) else Health.PASSING


@dataclass(frozen=True, kw_only=True)
class Totals:
    """Counts from the read models; None where unknown."""

    users: Model | None = None
    orders: Model | None = None

    @classmethod
    def of(cls, models: Models) -> Self:
        """From the read models as they are in Redis."""
        orders = models.get("orders")
        states = None if orders is None else {state: number for state, number in orders.items() if state != OLDEST}
        return cls(users=models.get("users"), orders=states)


def queues(models: Models) -> list[Queue]:
    """What waits, from the read models, by name; without what they do not know."""
    found = [_queue(name, model, WAITING, EVENTS_LATE) for name, model in models.items() if name.endswith(EVENTS)]
    found.append(_queue("orders", models.get("orders"), "PENDING", ORDERS_LATE))
    return sorted((queue for queue in found if queue is not None), key=lambda queue: queue.name)


def _queue(name: str, model: Model | None, count: str, late: timedelta) -> Queue | None:
    if model is None:
        return None
    oldest = paging.moment(model[OLDEST]) if OLDEST in model else None
    return Queue(name=name, waiting=model.get(count, 0), oldest=oldest, late=late)


def of_consumer(found: Standing, at: datetime) -> Health:
    """Health of a group of consumers: WARNING when events wait for too long, or were given up."""
    return Health.WARNING if found.dead or _is_late(found.oldest, at, EVENTS_LATE) else Health.PASSING


def _is_late(since: datetime | None, at: datetime, limit: timedelta) -> bool:
    return since is not None and at - since > limit


def of_replicas(healths: Sequence[Health]) -> Health:
    """Health of something that any one of its parts can stand in for."""
    if all(health is Health.CRITICAL for health in healths):
        return Health.CRITICAL
    return Health.PASSING if all(health is Health.PASSING for health in healths) else Health.WARNING


def of_parts(healths: Iterable[Health], *, all_known: bool) -> Health:
    """Health of something that needs every one of its parts; WARNING at least when not all is known."""
    found = set(healths)
    if Health.CRITICAL in found:
        return Health.CRITICAL
    return Health.PASSING if all_known and found <= {Health.PASSING} else Health.WARNING


def started(instance: Instance) -> datetime | None:
    """When the program of an instance was started, as `mesh run` registered it; None when nobody said so."""
    try:
        found = datetime.fromisoformat(instance.meta.get("start-time", ""))
    except ValueError:
        return None
    return found if found.tzinfo else None


def line(error: Exception) -> str:
    """What an error says, on one line."""
    details = getattr(error, "details", None)
    text = details() if callable(details) else str(error)
    return " ".join(str(text or type(error).__name__).split())[:300]
