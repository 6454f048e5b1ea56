"""What the models of all services say alike: legal moves between states, and a request_id that is used twice. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from mesh import Code, Error

if TYPE_CHECKING:
    import enum
    from collections.abc import Mapping
    from uuid import UUID

S = TypeVar("S", bound="enum.StrEnum")


@dataclass(frozen=True)
class Transitions(Generic[S]):
    """Every legal move between the states of one kind of thing."""

    kind: str
    """What people call such a thing."""
    moves: Mapping[S, frozenset[S]]

    def is_final(self, state: S) -> bool:
        """Whether nothing follows."""
        return not self.moves[state]

    def sources(self, *targets: S) -> tuple[S, ...]:
        """The states from which a move to each of these is legal."""
        return tuple(state for state, legal in self.moves.items() if legal.issuperset(targets))

    def illegal(self, which: UUID, state: S, target: S) -> Error:
        """The answer to a move of a thing that the table does not have."""
        return Error(
            Code.FAILED_PRECONDITION,
            f"{self.kind} {which} is {state} and cannot become {target}",
            reason="ILLEGAL_TRANSITION",
            metadata={"state": state, "target": target},
        )


def reused(request_id: UUID, made: str, **ids: UUID) -> Error:
    """The answer to a request_id that came with another request; `made` says what that did, `ids` name the outcome."""
    return Error(
        Code.ALREADY_EXISTS,
        f"request_id {request_id} {made}; choose a new one",
        reason="REQUEST_ID_REUSED",
        metadata={"request_id": str(request_id), **{name: str(value) for name, value in ids.items()}},
    )
