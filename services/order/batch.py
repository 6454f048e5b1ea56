"""Many orders at a time: which of them cannot be, and what became of the others. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from mesh import Code, Error, Refused
from services import transitions

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from uuid import UUID

    from services.order.model import Draft, Order

MAX_REJECTED = 1000
"""How many rejected orders a tally remembers; it counts all."""

MAX_REQUEST_ID = 64
"""A valid one has 36 characters."""

MAX_VIOLATIONS = 16
"""More are left out: they travel in a trailer, and peers limit those to 8 KiB."""

DEACTIVATED = "CUSTOMER_DEACTIVATED"
"""Why an order is refused, or cancelled while it is pending."""

Faults = dict[int, Error]
"""What is wrong with some of the drafts, by their index."""


def checked(drafts: Sequence[Draft]) -> Mapping[int, Draft]:
    """The drafts of one batch by index. Raises `Refused` for wrong prices and for drafts that contradict each other."""
    found = {index: draft.faults() for index, draft in enumerate(drafts)}
    named = ((f"requests[{index}].{field}", why) for index, faults in found.items() for field, why in faults)
    if faults := list(islice(named, MAX_VIOLATIONS)):
        raise Refused.of(faults)
    by_index = dict(enumerate(drafts))
    if contradicted := contradictions(by_index):
        raise Refused.of(_violations("request_id", contradicted))
    return by_index


def contradictions(drafts: Mapping[int, Draft]) -> Faults:
    """Drafts with the request_id of an earlier one that asks for something else."""
    first: dict[UUID, tuple[int, Draft]] = {}
    found: Faults = {}
    for index, draft in drafts.items():
        earlier, same = first.setdefault(draft.request_id, (index, draft))
        if same.fingerprint != draft.fingerprint:
            found[index] = transitions.reused(draft.request_id, f"came at index {earlier} with another content")
    return found


def distinct(drafts: Iterable[Draft]) -> list[Draft]:
    """One draft of each request_id, in an order that all batches share, so that no two wait for each other."""
    return sorted({draft.request_id: draft for draft in drafts}.values(), key=lambda draft: draft.request_id)


def reused(drafts: Mapping[int, Draft], stored: Mapping[UUID, Order]) -> Faults:
    """Drafts whose request_id made another order."""
    found: Faults = {}
    for index, draft in drafts.items():
        order = stored.get(draft.request_id)
        try:
            if order is not None:
                order.repeats(draft)
        except Error as error:
            found[index] = error
    return found


def unwelcome(drafts: Mapping[int, Draft], active: Mapping[UUID, bool]) -> Faults:
    """Drafts of customers that nobody knows, or that are not active."""
    answers = {index: refused(draft.customer_id, active.get(draft.customer_id)) for index, draft in drafts.items()}
    return {index: error for index, error in answers.items() if error is not None}


def refused(customer_id: UUID, active: bool | None) -> Error | None:
    """The answer to an order of somebody who may not order; `active` is None for nobody."""
    if active:
        return None
    what, reason = (
        ("does not exist; sync users first, then order for one of /v1/users", "CUSTOMER_NOT_FOUND")
        if active is None
        else ("is deactivated", DEACTIVATED)
    )
    return Error(
        Code.FAILED_PRECONDITION, f"customer {customer_id} {what}", reason=reason,
        metadata={"customer_id": str(customer_id)},
    )  # fmt: skip


def refuse(field: str, faults: Faults) -> None:
    """Raise what is wrong with a batch when anything is; the first fault decides code and reason."""
    for index, error in faults.items():
        raise Error(
            error.code,
            f"requests[{index}]: {error.message}",
            reason=error.reason,
            metadata={**error.metadata, "index": str(index)},
            violations=_violations(field, faults),
        )


def _violations(field: str, faults: Faults) -> list[tuple[str, str]]:
    return [(f"requests[{index}].{field}", error.message) for index, error in islice(faults.items(), MAX_VIOLATIONS)]


@dataclass(frozen=True, kw_only=True)
class Rejected:
    """An order of a stream that was not accepted."""

    index: int
    request_id: str
    """As it came, whatever it is, cut after `MAX_REQUEST_ID` characters."""
    error: Error


@dataclass
class Tally:
    """What became of the orders of one stream."""

    created: int = 0
    existing: int = 0
    rejected: int = 0
    first_rejected: list[Rejected] = field(default_factory=list)

    def reject(self, index: int, request_id: str, error: Error) -> None:
        """Count one that is not accepted."""
        self.rejected += 1
        if len(self.first_rejected) < MAX_REJECTED:
            self.first_rejected.append(Rejected(index=index, request_id=request_id[:MAX_REQUEST_ID], error=error))

    def accept(self, accepted: int, created: int) -> None:
        """Count some that are, of which so many are new."""
        self.created += created
        self.existing += accepted - created
