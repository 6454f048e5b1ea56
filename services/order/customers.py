"""Customers are the users that SyncService knows."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

import grpc

from mesh import Code, Error
from mesh.scope import first_error
from meshwright.sync.v1.sync_service_pb2 import GetUserRequest

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from uuid import UUID

    from meshwright.sync.v1.sync_service_pb2_grpc import SyncServiceAsyncStub

CONCURRENCY = 16
"""How many customers are asked for side by side."""

RETRY_AFTER_SECONDS = 1.0
"""When to ask again while SyncService cannot be asked."""


class Customers(Protocol):
    """Who may order."""

    async def find(self, customer_ids: Collection[UUID]) -> Mapping[UUID, bool]:
        """Whether each customer is active, without those that nobody knows; UNAVAILABLE when nobody can say."""


class SyncCustomers:
    """Asks SyncService over the mesh, within the deadline of the call in hand."""

    def __init__(self, stub: SyncServiceAsyncStub) -> None:
        self._stub = stub

    async def find(self, customer_ids: Collection[UUID]) -> Mapping[UUID, bool]:
        """As in `Customers`: each is asked for once, `CONCURRENCY` at a time; the first failure ends all."""
        waiting = iter(set(customer_ids))
        found: dict[UUID, bool] = {}

        async def ask() -> None:
            for customer_id in waiting:
                await self._ask(customer_id, found)

        if len(customer_ids) == 1:
            await ask()
            return found
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(CONCURRENCY, len(customer_ids))):
                    group.create_task(ask())
        except* Error as failed:
            error = first_error(failed)
        else:
            return found
        raise error

    async def _ask(self, customer_id: UUID, found: dict[UUID, bool]) -> None:
        try:
            user = await self._stub.GetUser(GetUserRequest(id=str(customer_id)))
        except (grpc.aio.AioRpcError, Error) as error:
            code = _code(error)
            if code is not Code.NOT_FOUND:
                raise _unavailable(code) from error
        else:
            found[customer_id] = user.active


def _code(error: grpc.aio.AioRpcError | Error) -> Code:
    return error.code if isinstance(error, Error) else Code(error.code().value[0])


def _unavailable(code: Code) -> Error:
    return Error(
        Code.UNAVAILABLE,
        f"the customer cannot be checked now ({code.name}), so nothing was done; try again",
        reason="CUSTOMER_CHECK_UNAVAILABLE",
        metadata={"code": code.name},
        retry_after_seconds=RETRY_AFTER_SECONDS,
    )
