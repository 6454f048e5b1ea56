"""One part of a stack and its lives: started, started again after a death, replaced, stopped."""

from __future__ import annotations

import asyncio
import enum
import logging
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mesh.errors import Code, Error
from mesh.latest import Latest
from mesh.process import ended
from mesh.recovery import Backoff, Failures, now
from mesh.run import Observer
from mesh.scope import Scope
from mesh.up.lifecycle import Lifecycle, State
from mesh.up.logs import size

RESTARTS = Backoff(first_seconds=0.2, limit_seconds=10.0)
STEADY_SECONDS = 10.0
"""A process that was ready for so long has recovered: its next pause is the shortest again."""

READY_SECONDS = 60.0
"""A part that is not ready by then has failed to start."""

EARLY_DEATHS = 4
"""So many deaths before a part was ever ready are a failure to start."""

_log = logging.getLogger(__name__)

Live = Callable[[Observer, asyncio.Event], Coroutine[Any, Any, int]]
"""One life: start, tell the observer, drain when the event is set; the exit code. Raises `Error` if it cannot start."""


def always() -> bool:
    """As `Part.surges`."""
    return True


def never() -> bool:
    """As `Part.surges`."""
    return False


class Stage(enum.IntEnum):
    """The order in which parts stop: the highest first."""

    STORE = 0
    """Databases, the registry and plain programs."""

    SIDECAR = 1
    CONSOLE = 2
    EDGE = 3
    SERVICE = 4


@dataclass(frozen=True, kw_only=True)
class Part:
    """One process of a stack."""

    name: str
    live: Live
    log: Path
    stage: Stage = Stage.STORE
    needs: tuple[str, ...] = ()
    """Names of parts that must be ready before it starts for the first time."""

    surges: Callable[[], bool] = never
    """Whether two lives may overlap, so that a restart has the new one ready before the old one drains."""


class _Life:
    """One life of a part, as its unit sees it."""

    def __init__(self, unit: Unit) -> None:
        self._unit = unit
        self.stop = asyncio.Event()
        self.first_ready = asyncio.Event()
        self.over = asyncio.Event()
        self.replaced = asyncio.Event()
        self.outcome = ""
        self.waits_for = ""
        self.log_start = size(unit.part.log)
        self.ready_at: float | None = None
        self.status = Lifecycle()

    async def run(self) -> None:
        try:
            code = await self._unit.part.live(self, self.stop)
            self.outcome = ended(code)
        except (Error, OSError) as error:
            self.outcome = error.message if isinstance(error, Error) else str(error)
        finally:
            self.over.set()

    def running(self, pid: int, address: str) -> None:
        self._become(self.status.running(pid, address))

    def ready(self) -> None:
        if self.status.state is State.STARTING:
            if self.ready_at:
                _log.info("%s is ready again", self._unit.part.name)
            self.ready_at = self.ready_at or now()
            self.waits_for = ""
            self._become(self.status.to(State.READY))
            self.first_ready.set()

    def waiting(self, reason: str) -> None:
        self.waits_for = reason

    def unready(self, reason: str) -> None:
        self.waits_for = reason
        if self.status.state is State.READY:
            _log.warning("%s is not ready any more: %s", self._unit.part.name, reason)
            self._become(self.status.to(State.STARTING))

    def draining(self) -> None:
        self._become(self.status.to(State.DRAINING))

    def _become(self, status: Lifecycle) -> None:
        self.status = status
        self._unit.show(self, status)

    @property
    def was_steady(self) -> bool:
        return self.ready_at is not None and now() - self.ready_at >= STEADY_SECONDS


class Unit:
    """One part and its lives: mostly one at a time, two while a restart surges."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self.status = Latest(Lifecycle())
        self.was_ready = asyncio.Event()
        self.stopped = asyncio.Event()
        self.early_deaths = Latest(0)
        self.outcome = ""
        self.log_start = size(part.log)
        self._stopping = asyncio.Event()
        self._life = _Life(self)
        self._restarts = 0
        self._at_once = asyncio.Event()
        self._replacing = asyncio.Lock()
        self._running: set[_Life] = set()

    def show(self, life: _Life, status: Lifecycle) -> None:
        """Take over the status of the current life."""
        if life is self._life:
            self.status.set(
                Lifecycle(state=status.state, pid=status.pid, address=status.address, restarts=self._restarts)
            )
            if status.state is State.READY:
                self.was_ready.set()

    @property
    def waits_for(self) -> str:
        """What its health check said last while it was not ready; empty when that is not known."""
        return self._life.waits_for

    @property
    def note(self) -> str:
        """Why it is not ready, for people; empty when it is, or that is not known."""
        if self.status.value.state is State.BACKING_OFF:
            return self.outcome
        if self.status.value.state is not State.STARTING or not self.waits_for:
            return ""
        return f"{'was ready, but ' if self._life.first_ready.is_set() else ''}{self.waits_for}"

    async def run(self, needs: Iterable[Unit]) -> None:
        """Keep the part running until `stop`. Cancellation kills it."""
        try:
            if await self._before_stop(*(unit.was_ready.wait() for unit in needs)):
                async with asyncio.TaskGroup() as lives:
                    self._lives = lives
                    await self._keep()
        finally:
            self.status.set(Lifecycle(state=State.STOPPED, restarts=self._restarts))
            self.stopped.set()

    async def _keep(self) -> None:
        failures = Failures()
        life = self._begin()
        while True:
            await life.over.wait()
            if self._stopping.is_set() and life is self._life:
                return
            died = life is self._life and not life.stop.is_set()
            if died and not await self._pause(life, failures):
                return
            if life is self._life:
                self._restarts += died
                self._begin()
            life = self._life

    async def _pause(self, life: _Life, failures: Failures) -> bool:
        """Wait before the next life; False when the part is to stop instead."""
        self.outcome, self.log_start = life.outcome, life.log_start
        if life.was_steady:
            failures.reset()
        if not self.was_ready.is_set():
            self.early_deaths.set(self.early_deaths.value + 1)
        self.status.set(Lifecycle(state=State.BACKING_OFF, address=life.status.address, restarts=self._restarts))
        self._at_once.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(failures.next(RESTARTS)):
                await self._before_stop(self._at_once.wait())
        return not self._stopping.is_set()

    def _begin(self) -> _Life:
        life = _Life(self)
        self._start(life)
        self._become_current(life)
        return life

    def _become_current(self, life: _Life) -> None:
        before, self._life = self._life, life
        self.show(life, life.status)
        before.replaced.set()

    def _start(self, life: _Life) -> None:
        if self._stopping.is_set():
            life.stop.set()
        self._running.add(life)
        self._lives.create_task(life.run()).add_done_callback(lambda task: self._running.discard(life))

    async def _before_stop(self, *waits: Coroutine[Any, Any, Any]) -> bool:
        """Wait for all, but not past `stop`; whether it was not stopped."""
        async with Scope() as scope:
            asked = scope.start(self._stopping.wait())
            for task in [scope.start(wait) for wait in waits]:
                await asyncio.wait((asked, task), return_when=asyncio.FIRST_COMPLETED)
        return not self._stopping.is_set()

    async def stop(self) -> None:
        """Drain and end the part; returns when it is gone."""
        self._stopping.set()
        for life in self._running:
            life.stop.set()
        await self.stopped.wait()

    async def restart(self) -> bool:
        """Replace the running life by a new one; returns when that is ready, and whether both lived for a while.

        Raises `Error` (FAILED_PRECONDITION) when the part is stopping, or when the new life does not become ready; a
        part that surges then keeps its old life.
        """
        async with self._replacing:
            self._prove_going_on()
            surges = self.part.surges() and self.status.value.state is State.READY
            await (self._surge() if surges else self._replace())
            return surges

    def _prove_going_on(self) -> None:
        if self._stopping.is_set():
            raise Error(Code.FAILED_PRECONDITION, f"{self.part.name} is stopping", reason="STOPPING")

    async def _surge(self) -> None:
        successor = _Life(self)
        self._start(successor)
        try:
            await self._ready_or_over(successor)
        except BaseException:  # whoever asked may be gone: nobody else would stop it
            successor.stop.set()
            raise
        old = self._life
        self._become_current(successor)
        old.stop.set()
        await old.over.wait()

    async def _replace(self) -> None:
        old = self._life
        old.stop.set()
        self._at_once.set()
        await self._before_stop(old.replaced.wait())
        self._prove_going_on()
        await self._ready_or_over(self._life)

    async def _ready_or_over(self, life: _Life) -> None:
        try:
            async with asyncio.timeout(READY_SECONDS), Scope() as scope:
                tasks = [scope.start(event.wait()) for event in (life.first_ready, life.over)]
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError:
            life.stop.set()
        if not life.first_ready.is_set():
            raise failure(self, life.outcome, life.log_start)


def failure(unit: Unit, outcome: str, log_start: int) -> Error:
    """What people read when a part does not start: how it ended, else that it is late. Its log before is left out."""
    name, log = unit.part.name, str(unit.part.log)
    why = f" ({unit.waits_for})" if unit.waits_for else ""
    message = f"{name} does not start: {outcome or f'is not ready after {READY_SECONDS:.0f} s{why}'}; its log is {log}"
    metadata = {"name": name, "log": log, "log_start": str(log_start)}
    return Error(Code.FAILED_PRECONDITION, message, reason="NOT_READY", metadata=metadata)
