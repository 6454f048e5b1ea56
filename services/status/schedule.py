"""When a task is due, by a cron expression, and which of the times that passed still counts. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol, Self

from cronsim import CronSim, CronSimError

_SECOND = timedelta(seconds=1)


class Times(Protocol):
    """Moments at which something is due."""

    def next(self, after: datetime) -> datetime:
        """The first time after a moment."""

    def newest(self, until: datetime) -> datetime | None:
        """The last time up to a moment, that moment included; None when there was none in 50 years."""


@dataclass(frozen=True)
class Cron:
    """A cron expression; its times are UTC."""

    expression: str
    """Five fields as Debian's cron has them, or six with the seconds first."""

    @classmethod
    def parse(cls, expression: str) -> Self:
        """Raises ValueError for what is no expression, and for one that never comes true."""
        found = cls(" ".join(expression.split()))
        try:
            found.next(datetime(2000, 1, 1, tzinfo=UTC))
        except CronSimError as error:
            raise ValueError(f"is no cron expression such as '7 * * * *': {str(error).lower()}") from None
        except StopIteration:
            raise ValueError("is a cron expression that never comes true") from None
        return found

    def next(self, after: datetime) -> datetime:
        """As `Times` has it."""
        return next(CronSim(self.expression, after))

    def newest(self, until: datetime) -> datetime | None:
        """As `Times` has it."""
        return next(CronSim(self.expression, until.replace(microsecond=0) + _SECOND, reverse=True), None)


def due(times: Times, *, since: datetime, now: datetime, patience: timedelta) -> datetime | None:
    """The time for which a task is to run now, whose times up to `since` are dealt with.

    Of several times that were missed only the newest counts, and not even that when it is older than `patience`.
    """
    found = times.newest(now)
    return found if found is not None and found > since and now - found <= patience else None
