"""Customers are the users that SyncService knows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc

from mesh import Code, Error
from meshwright.sync.v1.sync_service_pb2 import GetUserRequest

if TYPE_CHECKING:
    from uuid import UUID

    from meshwright.sync.v1.sync_service_pb2_grpc import SyncServiceAsyncStub

RETRY_AFTER_SECONDS = 1.0
"""When to ask again while SyncService cannot be asked."""


class SyncCustomers:
    """Asks SyncService over the mesh, within the deadline of the call in hand."""

    def __init__(self, stub: SyncServiceAsyncStub) -> None:
        self._stub = stub

    async def check(self, customer_id: UUID) -> None:
        """Raise FAILED_PRECONDITION for an unknown customer, UNAVAILABLE when nobody can say."""
        try:
            await self._stub.GetUser(GetUserRequest(id=str(customer_id)))
        except (grpc.aio.AioRpcError, Error) as error:
            raise _refusal(customer_id, _code(error)) from error


def _code(error: grpc.aio.AioRpcError | Error) -> Code:
    return error.code if isinstance(error, Error) else Code(error.code().value[0])


def _refusal(customer_id: UUID, code: Code) -> Error:
    if code is Code.NOT_FOUND:
        return Error(
            Code.FAILED_PRECONDITION,
            f"customer {customer_id} does not exist; sync users first, then order for one of /v1/users",
            reason="CUSTOMER_NOT_FOUND",
            metadata={"customer_id": str(customer_id)},
        )
    return Error(
        Code.UNAVAILABLE,
        f"the customer cannot be checked now ({code.name}); nothing was stored, so try again",
        reason="CUSTOMER_CHECK_UNAVAILABLE",
        metadata={"code": code.name},
        retry_after_seconds=RETRY_AFTER_SECONDS,
    )
