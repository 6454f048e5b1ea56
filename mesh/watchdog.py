"""Notices an event loop that is held up, and says by what; answers `mesh stack`, also while the loop is held up.

A thread looks at the loop's thread a few times within the threshold. A loop that waits for events is well, and pays
nothing for it; one that runs something is asked for a sign of life. When that takes longer than the threshold, the
stack that holds the loop goes to the log, to the span of the call that is being handled, and to the listeners, once.
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
from mesh.metrics import LOOP_STALLS
from mesh.recovery import now
from mesh.stacks import dump, lines

if TYPE_CHECKING:
    from opentelemetry.trace import Span

T = TypeVar("T")

log = logging.getLogger("mesh.watchdog")

LOOKS = 4
"""How often the thread looks within the threshold."""

LONG_SECONDS = 1.0
"""A stall of this length is told again when it is over, with its length."""

STACK_SECONDS = 2.0
"""How long the dump for `mesh stack` may take to be read."""

MAX_NAME = 40
"""Longest name of a process in the name of its socket, whose path is at most 107 bytes."""

_WAITING = selectors.DefaultSelector.select.__code__


@dataclass(frozen=True, kw_only=True, slots=True)
class Stall:
    """A loop that was held up: reported when it begins, and again when it is over."""

    seconds: float
    """How long so far."""
    over: bool
    stack: tuple[str, ...]
    """What held the loop, innermost call first; empty when nothing of the process could run."""


Listener = Callable[[Stall], object]
"""Called in the watchdog's thread."""

_listeners: list[Listener] = []
_spans: dict[CodeType, Callable[[dict[str, Any]], Span | None]] = {}
_watched: dict[asyncio.AbstractEventLoop, Watchdog] = {}


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Tell a listener of all stalls of this process, for the length of the block."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


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

    def __init__(self, loop: asyncio.AbstractEventLoop, stall_seconds: float, listener: socket.socket | None) -> None:
        self._loop = loop
        self._loop_thread = threading.get_ident()
        self._threshold = stall_seconds
        self._pause = (stall_seconds or LONG_SECONDS) / LOOKS
        self._listener = listener
        self._ended = False
        self._waits = False
        self._asked_at = self._alive_at = now()
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
            began = now()
            time.sleep(self._pause)  # the cheapest way to wait: this is most of what a watchdog costs
            at = now()
            if self._threshold and at - began > self._pause + LONG_SECONDS:
                self._report(Stall(seconds=at - began - self._pause, over=True, stack=()))
            elif self._threshold:
                self._look(at)
            if self._listener:
                self._answer(self._listener)

    def _answer(self, listener: socket.socket) -> None:
        """Give the stacks to whoever asked since the last look."""
        with suppress(OSError):
            asker, _ = listener.accept()
            with asker:
                asker.settimeout(STACK_SECONDS)
                asker.sendall(dump(self._loop, self._loop_thread).encode())

    def _look(self, at: float) -> None:
        if self._waits:
            held = at - self._asked_at
            if self._stall is None and held >= self._threshold - self._pause / 2:
                self._begin(held)
            return
        if self._stall is not None:
            self._end()
        frame = sys._current_frames().get(self._loop_thread)
        if frame is not None and frame.f_code is not _WAITING:
            self._ask(at)

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
        self._stall = Stall(seconds=held, over=False, stack=tuple(lines(frame)))
        _mark(frame, self._stall)
        self._report(self._stall)

    def _end(self) -> None:
        assert self._stall is not None
        stack, self._stall = self._stall.stack, None
        self._report(Stall(seconds=self._alive_at - self._asked_at, over=True, stack=stack))

    def _report(self, stall: Stall) -> None:
        if not (stall.over and stall.stack):
            LOOP_STALLS.inc()
        if not stall.over:
            log.warning("the event loop is held up for %.0f ms already, by\n%s", stall.seconds * 1000, _text(stall))
        elif not stall.stack:
            log.warning("nothing of this process ran for %.1f s: stopped, or held up by native code", stall.seconds)
        elif stall.seconds >= LONG_SECONDS:
            log.warning("the event loop goes on after %.1f s", stall.seconds)
        for listener in _listeners:
            listener(stall)


def _text(stall: Stall) -> str:
    return "\n".join(stall.stack)


def _mark(frame: FrameType | None, stall: Stall) -> None:
    """Add an event to the span of the call that holds the loop, if a call does."""
    while frame is not None:
        find = _spans.get(frame.f_code)
        span = find(frame.f_locals) if find else None
        if span is not None and span.is_recording():
            stack = {"code.stacktrace": _text(stall)}
            span.add_event("event loop held up", {**stack, "meshwright.stall_seconds": stall.seconds})
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
