"""Works off runs, one at a time in this process: pages pulled side by side, stored in order."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING

import asyncpg
from opentelemetry import trace
from opentelemetry.instrumentation.utils import suppress_instrumentation

from mesh import Error
from mesh.recovery import Backoff, Failures, now
from mesh.scope import Scope, first_error
from services import notices
from services.metrics import Tally, error_type
from services.sync.model import State, repeated
from services.sync.provider import ProviderFailed
from services.sync.store import LEASE, RunLost

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractAsyncContextManager

    from services.notices import Notices
    from services.sync.model import Run
    from services.sync.provider import Users
    from services.sync.scim import Page
    from services.sync.store import RunStore

    Connect = Callable[[], AbstractAsyncContextManager[Users]]

POLL_SECONDS = 5.0
"""How often to look for runs that no notice told of, such as those of a worker that died."""

RELEASE_SECONDS = 1.0
"""Longest time that giving a run back may keep a process from ending; its lease ends anyway."""

SYNCS = Tally(
    "user_sync",
    "runs of the sync",
    seconds=(0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0),
    statuses=(state.lower() for state in State if state.final),
)
_AGAIN = Backoff(first_seconds=0.5, limit_seconds=10.0)
_log = logging.getLogger(__name__)
_tracer = trace.get_tracer(__name__)


class Worker:
    """Claims runs and pulls their users.

    `name` tells the workers of all processes apart; `connect` opens the provider; `changed` is called after each page
    that wrote something. Page size and concurrency are those of the provider's settings.
    """

    def __init__(
        self,
        store: RunStore,
        notices: Notices,
        connect: Connect,
        *,
        name: str,
        page_size: int,
        concurrency: int,
        changed: Callable[[], None],
    ) -> None:
        self._store = store
        self._notices = notices
        self._connect = connect
        self._name = name
        self._page_size = page_size
        self._concurrency = concurrency
        self._changed = changed

    async def run(self) -> None:
        """Work until cancelled; a run in hand is then given back for another worker to go on with."""
        failures = Failures()
        with self._notices.following(notices.ALL) as event:
            while True:
                try:
                    await self._work_off()
                    failures.reset()
                    await notices.wait(event, POLL_SECONDS)
                except* (Error, asyncpg.PostgresError) as failed:
                    _log.warning("runs wait: %s", str(first_error(failed))[:1000])
                    await failures.wait(_AGAIN)

    async def _work_off(self) -> None:
        while (run := await self._claim()) is not None:
            try:
                await self._work(run)
            except asyncio.CancelledError:
                await self._release(run)
                raise

    async def _release(self, run: Run) -> None:
        with suppress(Error, TimeoutError):
            async with asyncio.timeout(RELEASE_SECONDS):
                await self._store.release(run.id, self._name)

    async def _claim(self) -> Run | None:
        with suppress_instrumentation():
            return await self._store.claim(self._name)

    async def _work(self, run: Run) -> None:
        """One run to its end, unless it is lost or the database is; then its lease brings it back."""
        with _tracer.start_as_current_span("sync run", attributes={"sync.id": str(run.id)}):
            began, kind = now(), ""
            try:
                await self._pull_under_lease(run)
                state, error = State.SUCCEEDED, ""
            except* RunLost:
                _log.info("run %s was cancelled or taken over", run.id)
                state, error = State.CANCELLED, ""
            except* (ProviderFailed, asyncpg.PostgresError) as failed:
                kind = error_type(first_error(failed))
                state, error = State.FAILED, str(first_error(failed))[:1000]
            if state is not State.CANCELLED:
                await self._store.end(run.id, state, error=error, worker=self._name)
            SYNCS.ended(state.lower(), now() - began, kind)

    async def _pull_under_lease(self, run: Run) -> None:
        async with Scope() as scope:
            scope.start(self._keep(run), name=f"lease of {run.id}")
            async with self._connect() as users:
                await self._pull(run, users)

    async def _keep(self, run: Run) -> None:
        """Renew the lease until cancelled; ends the run's work when it is lost."""
        with self._notices.following(str(run.id)) as event, suppress_instrumentation():
            while True:
                await self._store.renew(run.id, self._name)
                await notices.wait(event, LEASE.total_seconds() / 3)

    async def _pull(self, run: Run, users: Users) -> None:
        """Every page until the first empty one, or as many users as the provider says that it has at the start."""
        first = await users.fetch(run.next_index, self._page_size)
        await self._keep_page(run, first)
        ranges = _ranges(first)
        async with Scope() as scope:
            window = deque(scope.start(_fill(users, *one)) for one in islice(ranges, self._concurrency))
            while window:
                for page in await window.popleft():
                    await self._keep_page(run, page)
                    if page.size == 0:
                        _log.warning("run %s: of %d users none came from number %d on", run.id, first.total, page.index)
                        return
                window.extend(scope.start(_fill(users, *one)) for one in islice(ranges, 1))

    async def _keep_page(self, run: Run, page: Page) -> None:
        for fault in page.faults:
            _log.warning("run %s: %s", run.id, fault)
        for key in repeated(page.profiles):
            _log.warning("run %s: %s comes more than once on one page; the last one counts", run.id, key)
        if page.size:
            await self._store.store(run, self._name, page)
            self._changed()


def _ranges(first: Page) -> Iterator[tuple[int, int]]:
    """(index, count) of what is left after the first page, in steps of what the provider answers at once."""
    step, end = first.size, first.total + 1
    starts = range(first.index + step, end, step) if step else ()
    return ((index, min(step, end - index)) for index in starts)


async def _fill(users: Users, index: int, count: int) -> list[Page]:
    """Pages that cover a range, as a provider may answer fewer users than were asked for; an empty one ends them."""
    pages: list[Page] = []
    end = index + count
    while index < end:
        page = await users.fetch(index, end - index)
        pages.append(page)
        if page.size == 0:
            break
        index += page.size
    return pages
