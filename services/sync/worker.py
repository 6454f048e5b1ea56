"""Works off the runs of one provider, one at a time."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING

import asyncpg
from opentelemetry import trace

from mesh import Error
from mesh.recovery import Backoff, Failures, now
from mesh.scope import Scope, first_error
from services import notices
from services.events.consumer import passes
from services.events.trace import links
from services.metrics import Tally, error_type
from services.sync.model import ATTEMPTS, TRANSITIONS, State
from services.sync.provider import ProviderFailed
from services.sync.pull import Pull
from services.sync.store import LEASE, RunLost

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from services.notices import Notices
    from services.sync.model import Run
    from services.sync.provider import Users
    from services.sync.provider_settings import ProviderSettings
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
    statuses=(state.lower() for state in State if TRANSITIONS.is_final(state)),
    errors=(ProviderFailed.__name__, "GivenUp"),
)
AGAIN = Backoff(first_seconds=0.5, limit_seconds=2.0)
"""Between attempts while the database is away or slow."""

_DIED = "every worker that had it ended before it was done"
_log = logging.getLogger(__name__)
_tracer = trace.get_tracer(__name__)


class Worker:
    """Claims the runs of a provider and pulls its users.

    `name` tells the workers of all processes apart, those of before included; `connect` opens the provider; `changed`
    is called after each batch that was stored; `again` is between attempts.
    """

    def __init__(
        self,
        store: RunStore,
        notices: Notices,
        provider: ProviderSettings,
        connect: Connect,
        *,
        name: str,
        changed: Callable[[], None],
        again: Backoff = AGAIN,
    ) -> None:
        self._store = store
        self._notices = notices
        self._provider = provider
        self._connect = connect
        self._name = name
        self._changed = changed
        self._again = again
        self._failure = _DIED

    async def run(self) -> None:
        """Work until cancelled; a run in hand is then given back for another worker to go on with."""
        failures = Failures()
        with self._notices.following(notices.ALL) as event:
            while True:
                try:
                    await self._work_off()
                    failures.reset()
                    self._failure = _DIED
                    await notices.wait(event, POLL_SECONDS)
                except* (Error, asyncpg.PostgresError) as failed:
                    self._failure = str(first_error(failed))[:1000]
                    _log.warning("runs wait: %s", self._failure)
                    await failures.wait(self._again)

    async def _work_off(self) -> None:
        while (run := await self._claim()) is not None:
            try:
                if run.attempts > ATTEMPTS:
                    await self._give_up(run)
                else:
                    await self._work(run)
            except asyncio.CancelledError:
                await self._release(run)
                raise

    async def _release(self, run: Run) -> None:
        with suppress(Error, TimeoutError):
            async with asyncio.timeout(RELEASE_SECONDS):
                await self._store.release(run.id, self._name)

    async def _claim(self) -> Run | None:
        return await self._store.claim(self._name, self._provider.name)

    async def _give_up(self, run: Run) -> None:
        reason = f"given up after {ATTEMPTS} attempts that came no further: {self._failure}"
        _log.error("run %s: %s", run.id, reason)
        if await self._end(run, State.FAILED, reason):
            SYNCS.ended(State.FAILED.lower(), None, "GivenUp")

    async def _work(self, run: Run) -> None:
        """One run to its end, unless it is lost; raises what of the database will pass, and it is claimed again."""
        asked_in = links([run.traceparent])
        with _tracer.start_as_current_span("sync run", attributes={"sync.id": str(run.id)}, links=asked_in):
            began, kind = now(), ""
            try:
                await self._pull_under_lease(run)
                state, error = State.SUCCEEDED, ""
            except* RunLost:
                _log.info("run %s was cancelled or taken over", run.id)
                state, error = State.CANCELLED, ""
            except* (ProviderFailed, Error, asyncpg.PostgresError) as failed:
                if passes(cause := first_error(failed)):
                    raise
                kind = error_type(cause)
                state, error = State.FAILED, str(cause)[:1000]
            if state is not State.CANCELLED and not await self._end(run, state, error):
                state = State.CANCELLED
            SYNCS.ended(state.lower(), now() - began, kind)

    async def _end(self, run: Run, state: State, error: str) -> bool:
        """Whether it was still this worker's, and had not ended."""
        return await self._store.end(run.id, state, error=error, worker=self._name) is not None

    async def _pull_under_lease(self, run: Run) -> None:
        async with Scope() as scope:
            scope.start(self._keep(run), name=f"lease of {run.id}")
            async with self._connect() as users:
                await Pull(self._store, self._name, run, self._provider, self._changed).all(users)

    async def _keep(self, run: Run) -> None:
        """Renew the lease until cancelled; ends the run's work when it is lost."""
        with self._notices.following(str(run.id)) as event, trace.use_span(trace.INVALID_SPAN):
            while True:
                await self._store.renew(run.id, self._name)
                await notices.wait(event, LEASE.total_seconds() / 3)
