"""Does something about each event, once, however many processes do, and whichever of them dies.

Redis delivers an event again until a consumer is done with it, so an effect must not mind one that it has seen: in
Postgres `inbox` tells what is new, in Redis the version of the subject does. An event that cannot be done is tried at
longer intervals, and put to the dead letters with the reason; one that merely cannot be done now, as Postgres is away,
stays in hand and is not counted.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self, TypeAlias, TypeVar

import asyncpg
from opentelemetry import trace
from prometheus_client import Counter
from redis import exceptions

from mesh import Code, Error
from mesh.recovery import Backoff, Failures, now
from mesh.scope import Scope
from meshwright.events.v1.event_pb2 import Event
from services.events.stream import STREAM
from services.events.trace import about, links

if TYPE_CHECKING:
    from mesh import Variables
    from services.events.group import Delivery, Group

BATCH = 200
"""Most events in hand."""

BLOCK_SECONDS = 2.0
"""Longest time that one read waits for events; the client's own timeout is longer."""

T = TypeVar("T")
Apply: TypeAlias = Callable[[Sequence[Event]], Awaitable[None]]

_PASSING_CODES = frozenset({Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.RESOURCE_EXHAUSTED, Code.ABORTED})
_PASSING = (
    exceptions.ConnectionError,
    exceptions.TimeoutError,
    exceptions.ReadOnlyError,
    exceptions.OutOfMemoryError,
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.TransactionRollbackError,
    asyncpg.InsufficientResourcesError,
    asyncpg.OperatorInterventionError,
    asyncpg.ReadOnlySQLTransactionError,
)
_WAITED_FOR = (Error, exceptions.RedisError, OSError, asyncpg.PostgresError)
"""What ends a turn; the next one comes after a while."""

DROPPED = Counter(
    "event_group_dead_letters_dropped", "Dead letters dropped, the oldest first, as too many came.", ("group",)
)
_AGAIN = Backoff(first_seconds=0.1, limit_seconds=5.0)
_log = logging.getLogger(__name__)
_tracer = trace.get_tracer(__name__)


@dataclass(frozen=True, kw_only=True)
class ConsumerSettings:
    """How patient a consumer is."""

    claim_seconds: float = 10.0
    """EVENTS_CLAIM_SECONDS: what a consumer has not done for so long, another one does, or the same once more."""
    deliveries: int = 5
    """EVENTS_DELIVERIES: an event that was delivered so often in vain becomes a dead letter."""
    grace_seconds: float = 5.0
    """EVENTS_GRACE_SECONDS: time for what is in hand when the process stops; what is left waits to be claimed."""

    @classmethod
    def read(cls, variables: Variables) -> Self:
        """From variables."""
        return cls(
            claim_seconds=variables.number("EVENTS_CLAIM_SECONDS", cls.claim_seconds, minimum=0.1),
            deliveries=variables.integer("EVENTS_DELIVERIES", cls.deliveries, minimum=1, maximum=1000),
            grace_seconds=variables.number("EVENTS_GRACE_SECONDS", cls.grace_seconds, maximum=3600.0),
        )


@dataclass(frozen=True, kw_only=True)
class Effect:
    """What is to be done about events."""

    kinds: frozenset[str]
    """First words of the types of events that it is about."""
    apply: Apply
    """Is given events of these kinds in the order of the stream; those of a failed batch again, one by one."""
    rebuild: Callable[[], Awaitable[None]]
    """Makes good for events that never came, as the stream was full."""


class Consumer:
    """One consumer of a group."""

    def __init__(self, group: Group, effect: Effect, settings: ConsumerSettings | None = None) -> None:
        self._group = group
        self._effect = effect
        self._settings = settings or ConsumerSettings()
        self._hand: list[Delivery] = []
        self._begun = False
        self._behind = False
        self._due = now()

    async def run(self) -> None:
        """Work until cancelled, then end what is in hand. Without Redis, or what the effect needs, events wait."""
        failures = Failures()
        async with Scope() as scope:
            while True:
                try:
                    await self._turn(scope)
                    failures.reset()
                except _WAITED_FOR as error:
                    _log.warning("consumer of %s waits: %s", self._group.name, str(error) or type(error).__name__)
                    self._begun = False
                    await failures.wait(_AGAIN)

    async def _turn(self, scope: Scope) -> None:
        if not self._begun:
            await self._group.begin()
            self._begun = True
        if self._hand:
            await self._group.hold(self._hand)
        else:
            await self._catch_up()
            self._hand = await self._next()
        if error := await _finished(scope.start(self._work()), self._settings.grace_seconds):
            raise error

    async def _catch_up(self) -> None:
        self._behind = await self._group.missed() or self._behind
        if self._behind:
            _log.warning("the stream was full before %s had read it: building anew", self._group.name)
            await self._effect.rebuild()
            self._behind = False

    async def _next(self) -> list[Delivery]:
        """What others left, one by one, as it may be what they died of; then what is new."""
        if now() >= self._due:
            if found := await self._group.claim(self._settings.claim_seconds):
                return [found]
            self._due = now() + self._settings.claim_seconds / 2
        return await self._group.take(BATCH, round(min(BLOCK_SECONDS, self._settings.claim_seconds / 2) * 1000))

    async def _work(self) -> Exception | None:
        """Be done with what is in hand; what is in the way and will pass, and the rest stays in hand."""
        try:
            if len(self._hand) > 1 and await self._all():
                return None
            while self._hand:
                await self._one(self._hand[0])
                self._hand.pop(0)
        except _WAITED_FOR as error:
            return error
        return None

    async def _all(self) -> bool:
        """Whether all went well together."""
        try:
            await self._do(self._hand)
        except Exception as error:
            if passes(error):
                raise
            return False
        await self._group.done(self._hand)
        self._hand = []
        return True

    async def _one(self, delivery: Delivery) -> None:
        if delivery.count > self._settings.deliveries:
            await self._bury(delivery, "every consumer that had it ended before it was done")
            return
        try:
            await self._do([delivery])
        except Exception as error:
            if passes(error):
                raise
            await self._failed(delivery, error)
        else:
            await self._group.done([delivery])

    async def _failed(self, delivery: Delivery, error: Exception) -> None:
        reason = f"{type(error).__name__}: {error}"
        if delivery.count >= self._settings.deliveries:
            await self._bury(delivery, reason)
        else:
            _log.warning("%s could not do an event, try %d: %s", self._group.name, delivery.count, reason)

    async def _bury(self, delivery: Delivery, reason: str) -> None:
        _log.error("%s gives an event up after %d tries: %s", self._group.name, delivery.count, reason)
        if dropped := await self._group.bury(delivery, reason):
            _log.error("%s has too many dead letters: %d of the oldest are dropped", self._group.name, dropped)
            DROPPED.labels(self._group.name).inc(dropped)

    async def _do(self, deliveries: Sequence[Delivery]) -> None:
        events = [Event.FromString(delivery.raw) for delivery in deliveries]
        events = [event for event in events if event.type.partition(".")[0] in self._effect.kinds]
        if not events:
            return
        with _tracer.start_as_current_span(
            f"process {STREAM}", kind=trace.SpanKind.CONSUMER, links=links(event.traceparent for event in events),
            attributes=about("process", "process", len(events)) | {"messaging.consumer.group.name": self._group.name},
        ):  # fmt: skip
            await self._effect.apply(events)


async def _finished(work: asyncio.Task[T], grace_seconds: float) -> T:
    """Wait for it; who is cancelled meanwhile gives it the grace to end in, and goes on with being cancelled."""
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait((work,), timeout=grace_seconds)
        raise


def passes(error: BaseException) -> bool:
    """Whether what failed may go well later, though nobody mends anything."""
    if isinstance(error, Error):
        return error.code in _PASSING_CODES
    return isinstance(error, _PASSING)
