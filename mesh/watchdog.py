"""Notices an event loop that is held up, and says by what; answers `mesh stack`, also while the loop is held up.

A thread looks at the loop's thread a few times within the threshold. A loop that waits for events is well, and pays
nothing for it; one that runs something is asked for a sign of life. When that takes longer than the threshold, the
stack that holds the loop goes to the log and to the span of the call that is being handled, once. Native code that
keeps the interpreter to itself holds the thread up, too: of that it tells afterwards.

Metrics of the same: `mesh.loop_lag`, which needs no thread, and goes on where this is turned off.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import selectors
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any, TypeVar

from mesh.config import Watch
from mesh.lateness import LONG_SECONDS, Used, is_held_up, used
from mesh.metrics import LOOP_STALLS
from mesh.recovery import now
from mesh.stacks import below_loop, dump, own, place
from mesh.tracing import LOOP_HELD_UP

if TYPE_CHECKING:
    from opentelemetry.trace import Span

T = TypeVar("T")

log = logging.getLogger("mesh.watchdog")

LOOKS = 4
"""How often the thread looks within the threshold."""

START_SECONDS = 10.0
"""So long after its start only stalls of LONG_SECONDS are told: a program imports much, and nobody waits for it yet."""

STACK_SECONDS = 2.0
"""How long the dump for `mesh stack` may take to be read."""

HELD_UP = "Held up"
"""How the answer to `mesh stack` begins while the loop is held up; the line goes on with how long, and by what."""

MAX_NAME = 40
"""Longest name of a process in the name of its socket, whose path is at most 107 bytes."""

_WAITING = selectors.DefaultSelector.select.__code__


@dataclass(frozen=True, kw_only=True, slots=True)
class Stall:
    """A loop that is held up."""

    began: float
    by: str
    """The innermost call of the program's own code, as `name (file:line)`."""


_spans: dict[CodeType, Callable[[dict[str, Any]], Span | None]] = {}
_watched: dict[asyncio.AbstractEventLoop, Watchdog] = {}


def spans_in(code: CodeType, find: Callable[[dict[str, Any]], Span | None]) -> None:
    """Say how to find, in the local variables of a function that handles calls, the span of the call."""
    _spans[code] = find


@contextmanager
def watching(watch: Watch) -> Iterator[None]:
    """Watch the running loop for the length of the block; inside another such block, do nothing more."""
    loop = asyncio.get_running_loop()
    if loop in _watched or not (watch.stall_seconds or watch.stacks_folder):
        yield
        return
    with ExitStack() as stack:
        listener = stack.enter_context(_socket(stack_socket(watch))) if watch.stacks_folder else None
        dog = _watched[loop] = Watchdog(loop, watch.stall_seconds, listener)
        stack.callback(_watched.pop, loop)
        stack.enter_context(dog.running())
        yield


async def watched(watch: Watch, work: Awaitable[T]) -> T:
    """Do the work of a whole process while its loop is watched."""
    with watching(watch):
        return await work


def stack_socket(watch: Watch) -> Path:
    """Where this process tells its stacks."""
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", watch.name)[:MAX_NAME] or "process"
    return Path(watch.stacks_folder) / f"stack-{name}.{os.getpid()}.sock"


class Watchdog:
    """One thread that watches one loop."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, stall_seconds: float, listener: socket.socket | None,
        *, start_seconds: float = START_SECONDS,
    ) -> None:  # fmt: skip
        self._loop = loop
        self._loop_thread = threading.get_ident()
        self._threshold = stall_seconds
        self._pause = (stall_seconds or LONG_SECONDS) / LOOKS
        self._listener = listener
        self._ended = False
        self._waits = False
        self._asked_at = self._alive_at = now()
        self._calm_at = now() + start_seconds
        self._stall: Stall | None = None

    @contextmanager
    def running(self) -> Iterator[None]:
        """The thread, for the length of the block."""
        thread = threading.Thread(target=self._run, name="mesh-watchdog", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended = True
            thread.join()

    def _run(self) -> None:
        while not self._ended:
            began = used()
            time.sleep(self._pause)  # the cheapest way to wait: this is most of what a watchdog costs
            self._woke(began, used())
            if self._listener:
                self._answer(self._listener)

    def _woke(self, began: Used, ended: Used) -> None:
        lost = ended.at - began.at - self._pause
        if self._threshold and self._stall is None and lost >= self._limit(ended.at):
            if is_held_up(lost, began, ended, self._alive_at):
                self._tell_lost(lost)
            self._asked_at = ended.at
        elif self._threshold:
            self._look(ended.at)

    def _tell_lost(self, seconds: float) -> None:
        """Afterwards, as this thread did not run either. Native code gives way where it was called: there the loop is.

        A loop that waits was not held up: the process was stopped, or the machine had others to serve.
        """
        frame = sys._current_frames().get(self._loop_thread)
        if frame is None or frame.f_code is _WAITING:
            if seconds >= LONG_SECONDS:
                LOOP_STALLS.inc()
                log.warning("nothing of this process ran for %.1f s: stopped, or held up by native code", seconds)
            return
        by, stack = own(frame), "\n".join(below_loop(frame))
        LOOP_STALLS.inc()
        told = "nothing of this process ran for %.0f ms: stopped, or held up by native code, it seems by %s:\n%s"
        log.warning(told, seconds * 1000, place(by), stack)
        _mark(frame, by, stack)

    def _answer(self, listener: socket.socket) -> None:
        """Give the stacks to whoever asked since the last look."""
        with suppress(OSError):
            asker, _ = listener.accept()
            with asker:
                asker.settimeout(STACK_SECONDS)
                asker.sendall(f"{self._verdict()}{dump(self._loop, self._loop_thread)}".encode())

    def _verdict(self) -> str:
        stall = self._stall
        return f"{HELD_UP} for {now() - stall.began:.1f} s by {stall.by}\n\n" if stall else ""

    def _look(self, at: float) -> None:
        if self._waits:
            held = at - self._asked_at
            if self._stall is None and held >= self._limit(at) - self._pause / 2:
                self._begin(held)
            return
        if self._stall is not None:
            self._end()
        frame = sys._current_frames().get(self._loop_thread)
        if frame is not None and frame.f_code is not _WAITING:
            self._ask(at)

    def _limit(self, at: float) -> float:
        return self._threshold if at > self._calm_at else max(self._threshold, LONG_SECONDS)

    def _ask(self, at: float) -> None:
        self._waits, self._asked_at = True, at
        with suppress(RuntimeError):  # the loop is closed: nothing holds it up
            self._loop.call_soon_threadsafe(self._alive)

    def _alive(self) -> None:
        self._alive_at = now()
        self._waits = False

    def _begin(self, held: float) -> None:
        frame = sys._current_frames().get(self._loop_thread)
        if not self._waits or frame is None:
            return
        by, stack = own(frame), "\n".join(below_loop(frame))
        self._stall = Stall(began=self._asked_at, by=place(by))
        LOOP_STALLS.inc()
        log.warning("the event loop is held up for %.0f ms already by %s:\n%s", held * 1000, self._stall.by, stack)
        _mark(frame, by, stack)

    def _end(self) -> None:
        assert self._stall is not None
        seconds, self._stall = self._alive_at - self._stall.began, None
        if seconds >= LONG_SECONDS:
            log.warning("the event loop goes on after %.1f s", seconds)


def _mark(frame: FrameType | None, by: FrameType, stack: str) -> None:
    """Add an event to the span of the call that holds the loop, if a call does.

    https://opentelemetry.io/docs/specs/semconv/registry/attributes/code/
    """
    while frame is not None:
        find = _spans.get(frame.f_code)
        span = find(frame.f_locals) if find else None
        if span is not None and span.is_recording():
            span.add_event(LOOP_HELD_UP, {
                "code.function.name": by.f_code.co_qualname, "code.file.path": by.f_code.co_filename,
                "code.line.number": by.f_lineno, "code.stacktrace": stack,
            })  # fmt: skip
            return
        frame = frame.f_back


@contextmanager
def _socket(path: Path) -> Iterator[socket.socket | None]:
    """Listen at a path, for this user alone; None when that cannot be."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as made:
        try:
            path.unlink(missing_ok=True)  # of a process that was killed and had this id
            made.bind(str(path))
            path.chmod(0o600)
            made.listen()
            made.setblocking(False)
        except OSError as error:
            log.warning("mesh stack will not find this process: %s: %s", path, error.strerror or error)
            yield None
            return
        try:
            yield made
        finally:
            path.unlink(missing_ok=True)
