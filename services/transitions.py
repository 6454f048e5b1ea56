"""What the models of all services say alike: legal moves between states, and a request_id that is used twice. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from mesh import Code, Error

if TYPE_CHECKING:
    import enum
    from collections.abc import Mapping
    from uuid import UUID

S = TypeVar("S", bound="enum.StrEnum")


def sources(moves: Mapping[S, frozenset[S]], target: S) -> tuple[S, ...]:
    """The states from which a move to `target` is legal."""
    return tuple(state for state, targets in moves.items() if target in targets)


def illegal(what: str, state: enum.StrEnum, target: enum.StrEnum) -> Error:
    """The answer to a move that the table does not have; `what` names the thing, as in `order 4f...`."""
    return Error(
        Code.FAILED_PRECONDITION,
        f"{what} is {state} and cannot become {target}",
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
