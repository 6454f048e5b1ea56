"""How well a whole does whose parts are known. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Self

from mesh.registry import Health, Instance
from services import paging
from services.totals import OLDEST

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


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
class Totals:
    """Counts from the read models; None where unknown."""

    users: Mapping[str, int] | None = None
    orders: Mapping[str, int] | None = None
    oldest_order: datetime | None = None
    """Since when the oldest order waits that nobody works on; None when none does."""

    @classmethod
    def of(cls, *, users: Mapping[str, int] | None = None, orders: Mapping[str, int] | None = None) -> Self:
        """From the read models as they are in Redis."""
        states = dict(orders or {})
        oldest = states.pop(OLDEST, None)
        return cls(
            users=users,
            orders=None if orders is None else states,
            oldest_order=None if oldest is None else paging.moment(oldest),
        )


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
