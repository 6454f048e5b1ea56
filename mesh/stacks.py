"""What a process is doing, as text: the stacks of its threads and of the tasks of its event loop."""

from __future__ import annotations

import asyncio
import sys
import sysconfig
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

MAX_TASKS = 1000
"""Tasks beyond that are only counted."""

_FOREIGN = tuple(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))
"""Where code is that is Python's, or was installed."""

_IMPORTING = "<frozen importlib"
_CALLED = asyncio.Handle._run.__code__


def dump(loop: asyncio.AbstractEventLoop, loop_thread: int) -> str:
    """Stacks of all threads but the caller's, innermost line first, and then what each task waits for.

    May be called from any thread, also while the loop is blocked. `loop_thread` is the ident of the loop's thread.
    """
    frames, own = sys._current_frames(), threading.get_ident()
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    parts = [
        "\n".join([f"Thread {names.get(ident, ident)}{' (event loop)' * (ident == loop_thread)}", *lines(frame)])
        for ident, frame in sorted(frames.items(), key=lambda item: item[0] != loop_thread)
        if ident != own
    ]
    return "\n\n".join([*parts, *_tasks(loop)]) + "\n"


def lines(frame: FrameType | None) -> list[str]:
    """One line for each call on a stack, innermost first, as `  name (file:line)`; those of imports are left out."""
    return [f"  {place(each)}" for each in _outward(frame) if not each.f_code.co_filename.startswith(_IMPORTING)]


def below_loop(frame: FrameType) -> list[str]:
    """As `lines`, up to what the event loop called."""
    until = next((each for each in _outward(frame) if each.f_code is _CALLED), None)
    return lines(frame)[: -len(lines(until)) or None]


def own(frame: FrameType) -> FrameType:
    """The innermost call of a program's own code, neither Python's nor that of a package; else the innermost one."""
    return next((each for each in _outward(frame) if not _is_foreign(each.f_code.co_filename)), frame)


def _is_foreign(file: str) -> bool:
    return file.startswith(("<", *_FOREIGN))


def _outward(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def place(frame: FrameType) -> str:
    """Where a call is, as `name (file:line)`."""
    return f"{frame.f_code.co_qualname} ({frame.f_code.co_filename}:{frame.f_lineno})"


def _tasks(loop: asyncio.AbstractEventLoop) -> Iterator[str]:
    tasks = sorted(asyncio.all_tasks(loop), key=lambda task: task.get_name())
    yield f"{len(tasks)} tasks"
    running = asyncio.current_task(loop)
    for task in tasks[:MAX_TASKS]:
        state = " (running)" if task is running else ""
        yield "\n".join([f"Task {task.get_name()}{state}", *reversed([*_awaited(task.get_coro())])])
    if len(tasks) > MAX_TASKS:
        yield f"and {len(tasks) - MAX_TASKS} more tasks"


def _awaited(coroutine: Any) -> Iterator[str]:
    """Lines of a suspended coroutine and of what it awaits, outermost first."""
    while coroutine is not None:
        frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "ag_frame", None)
        if frame is None:
            return
        yield f"  {place(frame)}"
        coroutine = getattr(coroutine, "cr_await", None) or getattr(coroutine, "ag_await", None)
