"""What a user and a run are: legal states, counts, and how users are found again. Pure."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from services import transitions
from services.transitions import Transitions

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime
    from uuid import UUID

    from services.sync.chain import Chain

PROBLEMS = 20
"""Most problems of a run that are kept."""

ATTEMPTS = 5
"""So often a run is claimed that comes no further; then it fails."""

WAITING = 20
"""Most runs of one provider that wait."""


class State(enum.StrEnum):
    """How far a run has come; the meaning of each is in sync.proto."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


TRANSITIONS = Transitions("run", {
    State.PENDING: frozenset({State.RUNNING, State.CANCELLED}),
    State.RUNNING: frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED}),
    State.SUCCEEDED: frozenset(),
    State.FAILED: frozenset(),
    State.CANCELLED: frozenset(),
})  # fmt: skip
"""Every legal move."""


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What became of users."""

    created: int = 0
    updated: int = 0
    unchanged: int = 0
    failed: int = 0
    deactivated: int = 0

    @property
    def fetched(self) -> int:
        """All that the provider sent."""
        return self.created + self.updated + self.unchanged + self.failed


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run as it is stored."""

    id: UUID
    request_id: UUID
    provider: str
    state: State
    counts: Counts
    error: str
    problems: tuple[str, ...]
    chain: Chain
    attempts: int
    """How often it was claimed since it last came further."""
    create_time: datetime
    start_time: datetime | None
    end_time: datetime | None
    traceparent: str = ""
    """W3C trace context of the call that asked for it; empty without a trace."""

    def repeats(self, provider: str) -> Run:
        """The same, when a request for this provider made it; ALREADY_EXISTS otherwise."""
        if self.provider == provider:
            return self
        raise transitions.reused(self.request_id, "started a run of another provider", sync_id=self.id)


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What a provider says about a user; every text may be empty but the name."""

    user_name: str
    external_id: str = ""
    display_name: str = ""
    email: str = ""
    phone: str = ""
    active: bool = True

    @cached_property
    def match_key(self) -> str:
        """What finds the user again at the next run: externalId where there is one, else userName.

        The case of a userName does not matter, that of an externalId does (RFC 7643, 4.1.1 and 3.1).
        """
        return f"e:{self.external_id}" if self.external_id else f"u:{self.user_name.lower()}"

    @property
    def former_keys(self) -> set[str]:
        """What else may have found the user before: an externalId came since, or keys minded the case of the name."""
        return {f"u:{self.user_name}", f"u:{self.user_name.lower()}"} - {self.match_key}


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A user that cannot be stored."""

    reason: str
    """For people."""
    match_key: str = ""
    """Whom it would be; empty when that cannot be told."""


def sifted(entries: Iterable[Profile | Fault]) -> tuple[list[Profile], list[Fault]]:
    """What can be stored, sorted by match key, and what not; of equal keys the last counts, others are faults."""
    found: dict[str, Profile] = {}
    faults: list[Fault] = []
    for entry in entries:
        if isinstance(entry, Fault):
            faults.append(entry)
            continue
        key = entry.match_key
        if before := found.get(key):
            faults.append(Fault(reason=f"{before.user_name}: comes more than once; the last one counts"))
        found[key] = entry
    return [found[key] for key in sorted(found)], faults


@dataclass(frozen=True, kw_only=True)
class User:
    """A user as stored."""

    id: UUID
    provider: str
    profile: Profile
    create_time: datetime
    update_time: datetime
    sync_time: datetime
    version: int
    """Grows with each change that makes an event."""
