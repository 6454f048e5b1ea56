"""`mesh up --detach`: the launcher in a session of its own, and how it tells that all is ready."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress

from mesh.errors import Code, Error
from mesh.paths import Paths
from mesh.process import open_log
from mesh.up.logs import size

READY = "ready\n"
STOPPED = "it was stopped before all was ready\n"
_SHOWN = ("waiting for ", "stopping")
"""What begins a line that is not the outcome yet."""


def detach(arguments: Sequence[str], paths: Paths) -> None:
    """Start `mesh` with these arguments in the background; returns when its stack is ready.

    `--notify-fd N` is added. What the launcher waits for goes to stderr. Interrupted, it stops what it started. Raises
    `Error` with what the launcher said when it failed; one that said nothing has its log named.
    """
    log = paths.log("launcher")
    log_start = size(log)
    reading, writing = os.pipe()
    with open_log(log) as output:
        launcher = subprocess.Popen(
            [sys.executable, "-P", "-m", "mesh", *arguments, "--notify-fd", str(writing)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=(writing,),
            start_new_session=True,
        )
    os.close(writing)
    try:
        with os.fdopen(reading) as pipe:
            told = "".join(line for line in pipe if not _is_shown(line))
    except KeyboardInterrupt:
        launcher.terminate()
        raise
    if told != READY:
        message = told.strip() or f"the launcher died; its log is {log}"
        metadata = {} if told else {"log": str(log), "log_start": str(log_start)}
        raise Error(Code.FAILED_PRECONDITION, message, reason="NOT_READY", metadata=metadata)


def _is_shown(line: str) -> bool:
    if not line.startswith(_SHOWN):
        return False
    print(f"mesh: {line}", end="", file=sys.stderr, flush=True)
    return True


class Notice:
    """Tells whoever detached this launcher how it went: once, as the descriptor's number means nothing after that."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor
        self.is_wanted = descriptor is not None
        """Whether anybody detached it."""

    def waiting(self, text: str) -> None:
        """Say what the start waits for, which is no outcome: more is to come."""
        if self._descriptor is not None:
            with suppress(OSError):
                os.write(self._descriptor, f"{text}\n".encode())

    def give(self, text: str) -> None:
        """Tell them, unless they have been told; they may be gone."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            with suppress(OSError), os.fdopen(descriptor, "w") as pipe:
                pipe.write(text)
