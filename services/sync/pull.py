"""Pulls all users of a provider in one run: pages fetched side by side, stored in order, then who is there no more."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING

from mesh.scope import Scope
from services.sync.chain import overlap, ranges
from services.sync.provider import ProviderFailed
from services.sync.scim import MAX_TOTAL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from services.sync.chain import Entry
    from services.sync.model import Run
    from services.sync.provider import Users
    from services.sync.provider_settings import ProviderSettings
    from services.sync.scim import Page
    from services.sync.store import RunStore

REST_PAGES = 10
"""Most pages beyond as many users as a provider says that it has, for those that come while it is read."""

BATCH = 5000
"""About as many users are stored at once where the provider is faster than the database; a page more at most."""

FEW = 10
"""So many users may vanish at once, whatever share of all they are."""

_log = logging.getLogger(__name__)


class Pull:
    """One run, in the hands of one worker. `changed` is called after each batch that was stored."""

    def __init__(
        self, store: RunStore, worker: str, run: Run, provider: ProviderSettings, changed: Callable[[], None]
    ) -> None:
        self._store = store
        self._worker = worker
        self._run = run
        self._provider = provider
        self._changed = changed
        self._nobody_from = MAX_TOTAL + 2

    async def all(self, users: Users) -> None:
        """Go on where the run is, to its end. Raises `ProviderFailed`, and what the store does."""
        first = await users.fetch(self._run.chain.restart(), self._provider.page_size)
        await self._keep([first])
        await self._window(users, ranges(first), max(self._provider.concurrency, BATCH // max(1, first.size)))
        if first.size:
            await self._rest(users, max(1, overlap(first.size)), first.total)
        await self._deactivate()

    async def _window(self, users: Users, left: Iterator[tuple[int, int]], most: int) -> None:
        """Pages side by side, `most` asked for or in hand; what came while others were stored is stored together."""
        slots = asyncio.Semaphore(self._provider.concurrency)
        async with Scope() as scope:

            def begin(number: int) -> Iterator[asyncio.Task[list[Page]]]:
                return (scope.start(self._fill(users, slots, *one)) for one in islice(left, number))

            window = deque(begin(most))
            while window:
                pages = await window.popleft()
                while window and window[0].done() and sum(page.size for page in pages) < BATCH:
                    pages += window.popleft().result()
                if not (ended := any(page.size == 0 for page in pages)):
                    window.extend(begin(most - len(window)))
                await self._keep(pages)
                if ended:
                    return

    async def _fill(self, users: Users, slots: asyncio.Semaphore, index: int, count: int) -> list[Page]:
        """Pages that cover a range, as a provider may answer fewer users than were asked for; an empty one ends them.

        None where the provider is known to have nobody: it may claim any number of users.
        """
        pages: list[Page] = []
        end = index + count
        while True:
            async with slots:
                if index >= self._nobody_from:
                    return pages
                page = await users.fetch(index, end - index)
            pages.append(page)
            if page.size == 0:
                self._nobody_from = min(self._nobody_from, index)
            if page.size == 0 or page.end >= end or page.end > page.total:
                return pages
            index = page.end - overlap(page.size)

    async def _rest(self, users: Users, shared: int, total: int) -> None:
        """Whoever comes after as many users as there were said to be; ends where a page shows nobody new."""
        for _ in range(REST_PAGES):
            page = await users.fetch(self._run.chain.restart(shared), self._provider.page_size)
            ended = page.end <= self._run.chain.next_index
            await self._keep([page])
            if ended:
                return
        raise ProviderFailed(f"it goes on after {page.end} users, though it said that it has {total}", passing=False)

    async def _keep(self, pages: Sequence[Page]) -> None:
        """Store what is new on pages."""
        chain, problems = self._run.chain, []
        entries: list[Entry] = []
        for page in pages:
            before = chain
            chain, fresh = chain.join(page)
            entries += fresh
            if before.whole and not chain.whole:
                problems.append(f"around user {page.index} the list has a gap: nobody is taken for vanished")
        if entries or chain != self._run.chain:
            known = len(self._run.problems)
            self._run = await self._store.store(self._run, self._worker, chain, entries, problems)
            for problem in self._run.problems[known:]:
                _log.warning("run %s: %s", self._run.id, problem)
            self._changed()

    async def _deactivate(self) -> None:
        """Deactivate users that are there no more, if it is sure who that is, and not too many to be true."""
        if not self._run.chain.whole:
            return
        vanished, active = await self._store.vanished(self._run)
        if vanished > max(FEW, active * self._provider.vanish_limit):
            raise ProviderFailed(
                f"{vanished} of {active} active users are there no more, which is more than SCIM_VANISH_LIMIT allows; "
                "none of them was deactivated",
                passing=False,
            )
        while await self._store.deactivate(self._run, self._worker):
            self._changed()
