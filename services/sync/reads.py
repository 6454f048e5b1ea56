"""Reads users from Redis where it has them, else from Postgres, and keeps what events say of them up to date.

How old an answer can be: as old as the user's last event takes to come, which is milliseconds; while nobody brings
events, at most as long as copies are kept.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Self, TypeVar
from uuid import UUID

from redis.exceptions import RedisError

from mesh import deadline
from mesh.recovery import now
from meshwright.sync.v1.sync_pb2 import User
from services.events.consumer import Effect
from services.flights import Flights
from services.sync import wire
from services.versioned import Copy, Versioned

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

    from redis.asyncio import Redis

    from mesh import Variables
    from meshwright.events.v1.event_pb2 import Event
    from services.sync import model
    from services.sync.store import UserStore

    T = TypeVar("T")

KIND = "user"
GROUP = "users"
"""The consumers that keep the copies up to date."""

READ_SECONDS = 0.25
"""Redis is asked for no longer: Postgres has the answer too, and the call has a deadline."""

PAUSE_SECONDS = 1.0
"""A Redis that did not answer is left alone for so long; then a single call tries, and no other has to wait for it."""

PAGE = 500
"""Users that are copied at once when all are."""

AT_ONCE = 8
"""Most commands at the same time, fewer than the client has connections."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class CacheSettings:
    """How long copies of users are kept."""

    keep_seconds: float = 300.0
    """USER_CACHE_SECONDS: how old a copy can get of which no event came."""
    missing_seconds: float = 5.0
    """USER_CACHE_MISSING_SECONDS: how long it is known that there is no user with an id."""

    @classmethod
    def read(cls, variables: Variables) -> Self:
        """From variables."""
        return cls(
            keep_seconds=variables.number("USER_CACHE_SECONDS", cls.keep_seconds, minimum=0.01),
            missing_seconds=variables.number("USER_CACHE_MISSING_SECONDS", cls.missing_seconds, minimum=0.01),
        )


def copies(redis: Redis, settings: CacheSettings) -> Versioned:
    """The copies of users; the client must not decode what it reads."""
    return Versioned(redis, KIND, keep_seconds=settings.keep_seconds, missing_seconds=settings.missing_seconds)


async def rebuild(copies: Versioned, store: UserStore) -> int:
    """Forget all copies and make one of each user; how many. Raises what `UserStore` and the Redis client do."""
    await copies.clear()
    count, after = 0, None
    while users := await store.page(provider="", after=after, limit=PAGE):
        await _copied(copies, store, {str(user.id) for user in users})
        count, after = count + len(users), (users[-1].profile.user_name, users[-1].id)
    return count


async def _copied(copies: Versioned, store: UserStore, ids: set[str]) -> None:
    """Read anew after the marks were made, as an event may have come since the page was read."""
    await copies.look(list(ids))
    await copies.fill([_copy(user) for user in await store.get_all([UUID(one) for one in ids])])


def effect(copies: Versioned) -> Effect:
    """What events of users do to the copies."""

    async def apply(events: Sequence[Event]) -> None:
        await copies.change([Copy(event.subject, event.version, event.user.SerializeToString()) for event in events])

    return Effect(kinds=frozenset({KIND}), apply=apply, rebuild=copies.clear)


class UserReads:
    """Answers users by their ids. Raises what `UserStore` does; a Redis that is away or slow is done without."""

    def __init__(self, store: UserStore, copies: Versioned, *, pause_seconds: float = PAUSE_SECONDS) -> None:
        self._store = store
        self._pause_seconds = pause_seconds
        self._copies = copies
        self._flights: Flights[User | None] = Flights()
        self._free = asyncio.Semaphore(AT_ONCE)
        self._is_away = False
        self._away_until = now()

    async def get(self, user_id: UUID) -> User | None:
        """One user; calls for the same one at the same time share one read."""
        return await self._flights.join(user_id, partial(self._get, user_id))

    async def get_all(self, user_ids: Collection[UUID]) -> list[User]:
        """Those of many users that there are, in no order."""
        ids = [str(one) for one in user_ids]
        nothing: Mapping[str, bytes] = {}
        known = await self._ask(lambda: self._copies.look(ids), nothing)
        return [User.FromString(body) for body in known.values() if body] + await self._stored(set(ids) - known.keys())

    async def _get(self, user_id: UUID) -> User | None:
        return next(iter(await self.get_all([user_id])), None)

    async def _stored(self, ids: set[str]) -> list[User]:
        """From Postgres, and into Redis."""
        if not ids:
            return []
        found = await self._store.get_all([UUID(one) for one in ids])
        filling = {one: Copy(one, 0, b"") for one in ids} | {str(user.id): _copy(user) for user in found}
        await self._ask(lambda: self._copies.fill(list(filling.values())), None)
        return [wire.user(user) for user in found]

    async def _ask(self, command: Callable[[], Awaitable[T]], otherwise: T) -> T:
        """What Redis says, or else."""
        async with self._free:
            if now() < self._away_until:
                return otherwise
            if self._is_away:
                self._pause()
            try:
                async with asyncio.timeout(READ_SECONDS):
                    answer = await command()
            except (RedisError, OSError) as error:  # among these, TimeoutError
                self._away(error)
                return otherwise
            self._is_away = False
            return answer

    def _pause(self) -> None:
        self._away_until = now() + self._pause_seconds

    def _away(self, error: Exception) -> None:
        if deadline.remaining() == 0:
            return
        if not self._is_away:
            _log.warning("users come from Postgres alone for a while: %s", str(error) or type(error).__name__)
        self._is_away = True
        self._pause()


def _copy(user: model.User) -> Copy:
    return Copy(str(user.id), user.version, wire.user(user).SerializeToString())
