"""What an order is: exact money, legal states, and when two requests are the same. Pure."""

from __future__ import annotations

import enum
import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Self

from mesh import Refused
from services import transitions
from services.order import currencies
from services.transitions import Transitions

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID


NANO = 10**9
MAX_UNITS = 2**63 - 1


class State(enum.StrEnum):
    """How far an order has come; the meaning of each is in order.proto."""

    PENDING = "PENDING"
    PROCESSING = "PROCESSING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


TRANSITIONS = Transitions("order", {
    State.PENDING: frozenset({State.PROCESSING, State.CANCELLED}),
    State.PROCESSING: frozenset({State.PENDING, State.COMPLETED, State.FAILED}),
    State.COMPLETED: frozenset(),
    State.FAILED: frozenset(),
    State.CANCELLED: frozenset(),
})  # fmt: skip
"""Every legal move. PROCESSING goes back to PENDING when whoever works on it gives it back."""


@dataclass(frozen=True, kw_only=True)
class Money:
    """An exact amount, as google.type.Money has it: whole units and billionths, of the same sign."""

    currency: str
    units: int
    nanos: int

    @property
    def amount(self) -> int:
        """The whole in billionths."""
        return self.units * NANO + self.nanos

    @classmethod
    def of(cls, currency: str, amount: int) -> Self:
        """An amount that is not negative, given in billionths."""
        return cls(currency=currency, units=amount // NANO, nanos=amount % NANO)

    def faults(self) -> list[tuple[str, str]]:
        """(field, what is wrong) of a price."""
        found = []
        if why := currencies.fault(self.currency):
            found.append(("currency_code", why))
        if self.units < 0 or self.nanos < 0:
            found.append(("units" if self.units < 0 else "nanos", "must not be negative"))
        if abs(self.nanos) >= NANO:
            found.append(("nanos", "must be at most 999999999"))
        return found


@dataclass(frozen=True, kw_only=True)
class Line:
    """So many of one article."""

    sku: str
    quantity: int
    price: Money


@dataclass(frozen=True, kw_only=True)
class Draft:
    """An order to be taken; `checked` before anything is done with it."""

    request_id: UUID
    customer_id: UUID
    lines: tuple[Line, ...]

    def faults(self) -> list[tuple[str, str]]:
        """(field, what is wrong) of its prices."""
        found = [
            (f"lines[{index}].unit_price.{field}", why)
            for index, line in enumerate(self.lines)
            for field, why in line.price.faults()
        ]
        return found or _mixed(self.lines) or _excessive(self.lines)

    def checked(self) -> Self:
        """The same. Raises `Refused` with every fault."""
        if faults := self.faults():
            raise Refused.of(faults)
        return self

    @property
    def total(self) -> Money:
        """Sum of the lines, exact."""
        return Money.of(self.lines[0].price.currency, _sum(self.lines))

    @cached_property
    def fingerprint(self) -> bytes:
        """Equal for equal requests: 32 bytes."""
        content = [str(self.customer_id), [[line.sku, line.quantity, *_parts(line.price)] for line in self.lines]]
        return hashlib.sha256(json.dumps(content).encode()).digest()


@dataclass(frozen=True, kw_only=True)
class Order:
    """An order as it is stored."""

    id: UUID
    request_id: UUID
    fingerprint: bytes
    customer_id: UUID
    lines: tuple[Line, ...]
    total: Money
    state: State
    version: int
    """Grows with each change of the state."""
    failure: str
    create_time: datetime
    update_time: datetime
    attempts: int = 0
    """How often work on it began."""
    traceparent: str = ""
    """W3C trace context of the call that made it; empty without a trace."""
    cancel_reason: str = ""
    """Why it was cancelled, for programs; empty when CancelOrder did it."""

    def repeats(self, draft: Draft) -> Self:
        """The same, when the draft is the request that made it; ALREADY_EXISTS otherwise."""
        if self.fingerprint == draft.fingerprint:
            return self
        raise transitions.reused(draft.request_id, "made another order", order_id=self.id)


def _parts(money: Money) -> tuple[str, int, int]:
    return money.currency, money.units, money.nanos


def _sum(lines: Sequence[Line]) -> int:
    return sum(line.quantity * line.price.amount for line in lines)


def _mixed(lines: Sequence[Line]) -> list[tuple[str, str]]:
    currency = lines[0].price.currency
    return [
        (f"lines[{index}].unit_price.currency_code", f"must be {currency}, as in the first line")
        for index, line in enumerate(lines)
        if line.price.currency != currency
    ]


def _excessive(lines: Sequence[Line]) -> list[tuple[str, str]]:
    return [("lines", f"the total must be at most {MAX_UNITS} units")] if _sum(lines) // NANO > MAX_UNITS else []


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of working on an order: COMPLETED, FAILED, or PENDING to try it again."""

    order: Order
    """As it was claimed."""
    state: State
    failure: str = ""
    """Why it failed, for people."""
    error_type: str = ""
    """The kind of what went wrong, of which there are few; empty when nothing did."""
    wait_seconds: float = 0.0
    """Before it is tried again."""
    counts: bool = True
    """Whether it was an attempt; not when the work was only given back."""


SETTLED_FROM = TRANSITIONS.sources(State.COMPLETED, State.FAILED, State.PENDING)
"""The states from which every outcome is a legal move."""
