"""Customers are the users that SyncService knows."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Protocol
from uuid import UUID

import grpc

from mesh import Code, Error, from_rpc
from mesh.recovery import now
from meshwright.sync.v1.sync_service_pb2 import BatchGetUsersRequest, GetUserRequest

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from meshwright.sync.v1.sync_pb2 import User
    from meshwright.sync.v1.sync_service_pb2_grpc import SyncServiceAsyncStub

RETRY_AFTER_SECONDS = 1.0
"""When to ask again while SyncService cannot be asked, unless it says so itself."""

FIT = 100
"""So many users always fit into one answer, as the contract says."""

WARN_SECONDS = 60.0
"""How often it is said, at most, that SyncService refuses to be asked."""

_REASONS = {
    Code.RESOURCE_EXHAUSTED: "CUSTOMER_CHECK_OVERLOADED",
    Code.DEADLINE_EXCEEDED: "CUSTOMER_CHECK_SLOW",
}

_LASTING = frozenset({Code.PERMISSION_DENIED, Code.UNAUTHENTICATED, Code.UNIMPLEMENTED})
"""What stays until somebody mends it: whoever sends the call again hears it again."""

_log = logging.getLogger(__name__)


class Customers(Protocol):
    """Who may order."""

    async def find(self, customer_ids: Collection[UUID]) -> Mapping[UUID, bool]:
        """Whether each of up to 1,000 customers is active, without those that nobody knows.

        Raises UNAVAILABLE when nobody can say, RESOURCE_EXHAUSTED when who could has too much to do,
        DEADLINE_EXCEEDED when it took too long, and INTERNAL when who could refuses to be asked.
        """


class SyncCustomers:
    """Asks SyncService over the mesh, once for all, within the deadline of the call in hand."""

    def __init__(self, stub: SyncServiceAsyncStub) -> None:
        self._stub = stub
        self._warned_at = -WARN_SECONDS

    async def find(self, customer_ids: Collection[UUID]) -> Mapping[UUID, bool]:
        """As in `Customers`."""
        if not customer_ids:
            return {}
        try:
            return {UUID(user.id): user.active for user in await self._users([str(one) for one in customer_ids])}
        except (grpc.aio.AioRpcError, Error) as error:
            told = error if isinstance(error, Error) else from_rpc(error)
            if told.code is Code.NOT_FOUND:
                return {}
            if told.code in _LASTING:
                self._warn(told)
                raise _refused(told) from error
            raise _unanswered(told) from error

    def _warn(self, told: Error) -> None:
        if now() - self._warned_at >= WARN_SECONDS:
            self._warned_at = now()
            _log.warning("orders are refused, as SyncService cannot be asked for their customers: %s", told)

    async def _users(self, ids: list[str]) -> Iterable[User]:
        if len(ids) == 1:
            return (await self._stub.GetUser(GetUserRequest(id=ids[0])),)
        try:
            return (await self._stub.BatchGetUsers(BatchGetUsersRequest(ids=ids))).users
        except grpc.aio.AioRpcError as error:
            if len(ids) <= FIT or from_rpc(error).reason != "ANSWER_TOO_LARGE":
                raise
            half = len(ids) // 2
            return [*await self._users(ids[:half]), *await self._users(ids[half:])]


def _unanswered(told: Error) -> Error:
    """A code that says how to go on is passed on: who hears UNAVAILABLE asks again at once, which may be too much."""
    return Error(
        told.code if told.code in _REASONS else Code.UNAVAILABLE,
        f"the customer cannot be checked now ({told.code.name}), so nothing was done; try again",
        reason=_REASONS.get(told.code, "CUSTOMER_CHECK_UNAVAILABLE"),
        metadata={"code": told.code.name},
        retry_after_seconds=told.retry_after_seconds or RETRY_AFTER_SECONDS,
    )


def _refused(told: Error) -> Error:
    """No fault of the caller, who may not be told PERMISSION_DENIED either: it is not the one who may not."""
    return Error(
        Code.FAILED_PRECONDITION,
        f"the customer cannot be checked, so nothing was done: {told}",
        reason="CUSTOMER_CHECK_REFUSED",
        metadata={"code": told.code.name, "reason": told.reason},
    )
