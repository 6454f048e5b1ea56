"""Ends what a killed process leaves behind: its children, their children, whatever sessions those made.

The kernel can tell a child that its parent died, but not a grandchild, and not where setpriv is missing. So a guard, a
small process beside the one that starts children, reads from a pipe which it has started. The pipe closes when that
one is gone, however it went, and the guard ends what is left: SIGTERM, a second, SIGKILL.

This file is also the guard's program, run by a bare interpreter: only the standard library, and little of it (so
no pathlib, whose import takes longer than all else here).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar

MARK = "MESH_GUARDED_BY"
"""Variable in the environment of all that a guarded process starts, and of what that starts."""

GRACE_SECONDS = 1.0
_LOOK_SECONDS = 0.05
_SESSION_FIELD = 3
"""Index of the session among the fields of proc(5)'s stat after the name of the program."""


class Guard:
    """The pipe to a guard."""

    def __init__(self, pipe: int, mark: str) -> None:
        self._pipe = pipe
        self._mark = mark

    @property
    def environ(self) -> Mapping[str, str]:
        """What children must find in their environment."""
        return {MARK: self._mark}

    def watch(self, pid: int) -> None:
        """A child with a session of its own was started."""
        self._tell(f"+{pid}\n")

    def forget(self, pid: int) -> None:
        """Its session is over."""
        self._tell(f"-{pid}\n")

    def _tell(self, line: str) -> None:
        with suppress(OSError):  # a guard that was killed is no reason to fail: it was the second line of defence
            os.write(self._pipe, line.encode())


_current: ContextVar[Guard | None] = ContextVar("guard", default=None)


def current() -> Guard | None:
    """The guard of this process; None when it has none."""
    return _current.get()


@contextmanager
def guarded(*inherited: int) -> Iterator[Guard]:
    """Have a guard for all that is started in this context; at its end the guard is gone as well.

    The guard keeps these file descriptors open as long as it lives, so that a lock on one tells when all is over.
    """
    mark = f"{os.getpid()}-{time.time_ns()}"
    reading, writing = os.pipe()
    try:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, mark],
            stdin=reading, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, pass_fds=inherited,
            start_new_session=True, cwd="/", env={},
        )  # fmt: skip
    finally:
        os.close(reading)
    guard = Guard(writing, mark)
    token = _current.set(guard)
    try:
        yield guard
    finally:
        _current.reset(token)
        os.close(writing)
        process.wait()


def main(mark: str) -> None:
    """Read until the pipe closes, then end what is left."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sessions: set[int] = set()
    for line in sys.stdin.buffer:
        change = sessions.add if line.startswith(b"+") else sessions.discard
        change(int(line[1:]))
    _end(sessions, f"{MARK}={mark}".encode())


def _end(sessions: set[int], mark: bytes) -> None:
    """SIGTERM, a grace, then SIGKILL until nothing is left: what ends may have started more."""
    began = time.monotonic()
    number = signal.SIGTERM
    while left := [pid for pid in _processes() if _session(pid) in sessions or _is_marked(pid, mark)]:
        for pid in left:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)
        while number is signal.SIGTERM and time.monotonic() - began < GRACE_SECONDS and any(map(is_alive, left)):
            time.sleep(_LOOK_SECONDS)
        if number is signal.SIGKILL:
            time.sleep(_LOOK_SECONDS)
        if time.monotonic() - began > 10 * GRACE_SECONDS:
            return
        number = signal.SIGKILL


def _processes() -> Iterator[int]:
    yield from (int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid())  # noqa: PTH208


def _session(pid: int) -> int:
    """The session of a process that is no zombie; else 0."""
    with suppress(OSError), open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123
        fields = file.read().rpartition(b")")[2].split()
        return 0 if fields[0] in b"ZX" else int(fields[_SESSION_FIELD])
    return 0


def is_alive(pid: int) -> bool:
    """Whether a process runs: not ended, and no zombie, which proc(5) lists as well."""
    return _session(pid) != 0


def _is_marked(pid: int, mark: bytes) -> bool:
    with suppress(OSError), open(f"/proc/{pid}/environ", "rb") as file:  # noqa: PTH123
        return mark in file.read().split(b"\0") and is_alive(pid)
    return False


if __name__ == "__main__":
    main(sys.argv[1])
