"""What came of working on orders: done, failed, or to be tried again. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mesh.recovery import Backoff
from services.order.model import Outcome, State

if TYPE_CHECKING:
    from collections.abc import Mapping
    from uuid import UUID

    from services.order.model import Order


MISSING, DEACTIVATED, LOST = "customer_missing", "customer_deactivated", "workers_lost"
"""Kinds of errors that are no other service's: of the first two an order's customer is the reason, else its workers."""


@dataclass(frozen=True, kw_only=True)
class Attempts:
    """How often work on an order is tried, and when again."""

    limit: int = 10
    backoff: Backoff = field(default_factory=lambda: Backoff(first_seconds=1.0, limit_seconds=60.0))

    def after(self, order: Order, why: str, error_type: str, chance: float) -> Outcome:
        """What comes of an attempt that came to nothing; `chance` lies in [0, 1)."""
        if order.attempts >= self.limit:
            return failed(order, f"given up after {order.attempts} attempts: {why}", error_type)
        wait = self.backoff.delay(order.attempts, chance)
        return Outcome(order=order, state=State.PENDING, error_type=error_type, wait_seconds=wait)

    def spent(self, order: Order) -> bool:
        """Whether every attempt that an order has was begun before, so that each one's worker was lost."""
        return order.attempts > self.limit


def judged(order: Order, active: Mapping[UUID, bool]) -> Outcome:
    """What comes of an order, given who is an active customer and who is not."""
    standing = active.get(order.customer_id)
    if standing is None:
        return failed(order, f"customer {order.customer_id} does not exist any more", MISSING)
    if not standing:
        return failed(order, f"customer {order.customer_id} is deactivated", DEACTIVATED)
    return completed(order)


def completed(order: Order) -> Outcome:
    """It is done."""
    return Outcome(order=order, state=State.COMPLETED)


def failed(order: Order, why: str, error_type: str) -> Outcome:
    """It cannot be done, for a reason that people can read."""
    return Outcome(order=order, state=State.FAILED, failure=why, error_type=error_type)


def given_back(order: Order) -> Outcome:
    """Nobody works on it any more, and nothing was tried: another worker may begin at once."""
    return Outcome(order=order, state=State.PENDING, counts=False)
