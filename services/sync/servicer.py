"""SyncService: what a caller asks for, checked, done and answered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID

from mesh import Code, Error
from meshwright.sync.v1 import sync_pb2, sync_service_pb2
from meshwright.sync.v1.sync_service_pb2_grpc import SyncServiceServicer
from services import notices, paging
from services.sync import wire
from services.sync.model import TRANSITIONS, Run, State

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from services.notices import Notices
    from services.sync.reads import UserReads
    from services.sync.store import RunStore, UserStore

POLL_SECONDS = 5.0
"""How often a watcher looks at a run that no notice told of."""


class SyncServicer(SyncServiceServicer):
    """The methods of the contract, whose comments say what each does.

    `providers` are the names of those that are configured, the first the one that is meant where none is named.
    """

    def __init__(
        self, runs: RunStore, users: UserStore, reads: UserReads, notices: Notices, *, providers: Sequence[str]
    ) -> None:
        self._runs = runs
        self._users = users
        self._reads = reads
        self._notices = notices
        self._providers = providers

    async def StartSync(self, request: sync_service_pb2.StartSyncRequest, context: Any) -> sync_pb2.Sync:
        provider = request.provider or next(iter(self._providers), "")
        if provider not in self._providers:
            raise _unknown_provider(provider)
        run, _ = await self._runs.start(UUID(request.request_id), provider)
        return wire.sync(run.repeats(provider))

    async def GetSync(self, request: sync_service_pb2.GetSyncRequest, context: Any) -> sync_pb2.Sync:
        return wire.sync(await self._run(UUID(request.id)))

    async def ListSyncs(
        self, request: sync_service_pb2.ListSyncsRequest, context: Any
    ) -> sync_service_pb2.ListSyncsResponse:
        limit = paging.size(request.page_size)
        runs = await self._runs.page(paging.decode(request.page_token, {}, paging.parse_timed), limit + 1)
        shown, token = paging.cut(runs, limit, lambda last: paging.timed(last.create_time, last.id), {})
        return sync_service_pb2.ListSyncsResponse(
            syncs=[wire.sync(run, problems=False) for run in shown], next_page_token=token
        )

    async def CancelSync(self, request: sync_service_pb2.CancelSyncRequest, context: Any) -> sync_pb2.Sync:
        run_id = UUID(request.id)
        run = await self._runs.end(run_id, State.CANCELLED)
        if run is None:
            run = await self._run(run_id)
            if run.state is not State.CANCELLED:
                raise TRANSITIONS.illegal(run.id, run.state, State.CANCELLED)
        return wire.sync(run)

    async def WatchSync(
        self, request: sync_service_pb2.WatchSyncRequest, context: Any
    ) -> AsyncIterator[sync_service_pb2.WatchSyncResponse]:
        run_id = UUID(request.id)
        seen: Run | None = None
        with self._notices.following(str(run_id)) as event:
            while seen is None or not TRANSITIONS.is_final(seen.state):
                run = await self._run(run_id)
                if run != seen:
                    seen = run
                    yield sync_service_pb2.WatchSyncResponse(sync=wire.sync(run))
                if not TRANSITIONS.is_final(run.state):
                    await notices.wait(event, POLL_SECONDS)

    async def GetUser(self, request: sync_service_pb2.GetUserRequest, context: Any) -> sync_pb2.User:
        user = await self._reads.get(UUID(request.id))
        if user is None:
            raise _missing("user", request.id)
        return user

    async def BatchGetUsers(
        self, request: sync_service_pb2.BatchGetUsersRequest, context: Any
    ) -> sync_service_pb2.BatchGetUsersResponse:
        users = await self._reads.get_all({UUID(user_id) for user_id in request.ids})
        response = sync_service_pb2.BatchGetUsersResponse(users=users)
        if len(users) > 1 and response.ByteSize() > paging.MAX_BYTES:
            raise _too_large(len(users))
        return response

    async def ListUsers(
        self, request: sync_service_pb2.ListUsersRequest, context: Any
    ) -> sync_service_pb2.ListUsersResponse:
        filters = {"provider": request.provider}
        limit = paging.size(request.page_size)
        after = paging.decode(request.page_token, filters, _user_key)
        users = await self._users.page(provider=request.provider, after=after, limit=limit + 1)
        shown = [wire.user(user) for user in users]
        limit = min(limit, paging.fit(user.ByteSize() for user in shown))
        _, token = paging.cut(users, limit, lambda last: (last.profile.user_name, str(last.id)), filters)
        return sync_service_pb2.ListUsersResponse(users=shown[:limit], next_page_token=token)

    async def CountUsers(
        self, request: sync_service_pb2.CountUsersRequest, context: Any
    ) -> sync_service_pb2.CountUsersResponse:
        return sync_service_pb2.CountUsersResponse(**await self._users.totals())

    async def ListProviders(
        self, request: sync_service_pb2.ListProvidersRequest, context: Any
    ) -> sync_service_pb2.ListProvidersResponse:
        providers = [sync_pb2.Provider(name=name) for name in self._providers]
        return sync_service_pb2.ListProvidersResponse(providers=providers)

    async def _run(self, run_id: UUID) -> Run:
        run = await self._runs.get(run_id)
        if run is None:
            raise _missing("sync", str(run_id))
        return run


def _missing(kind: str, missing_id: str) -> Error:
    return Error(
        Code.NOT_FOUND,
        f"{kind} {missing_id} does not exist",
        reason=f"{kind.upper()}_NOT_FOUND",
        metadata={"id": missing_id},
    )


def _too_large(count: int) -> Error:
    return Error(
        Code.RESOURCE_EXHAUSTED,
        f"{count} users have more than {paging.MAX_BYTES} bytes; ask for fewer at once",
        reason="ANSWER_TOO_LARGE",
        metadata={"bytes": str(paging.MAX_BYTES)},
    )


def _unknown_provider(name: str) -> Error:
    return Error(
        Code.NOT_FOUND,
        f"provider {name} is not configured" if name else "no provider is configured; set SCIM_URL",
        reason="PROVIDER_NOT_FOUND",
        metadata={"provider": name},
    )


def _user_key(parts: Sequence[Any]) -> tuple[str, UUID]:
    name, user_id = parts
    return paging.text(name), UUID(paging.text(user_id))
