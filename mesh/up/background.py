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

READY = "ready\n"


def detach(arguments: Sequence[str], paths: Paths) -> None:
    """Start `mesh` with these arguments in the background; returns when its stack is ready.

    `--notify-fd N` is added. Interrupted, it stops what it started. Raises `Error` with what the launcher said when it
    failed; one that said nothing has its log named.
    """
    log = paths.log("launcher")
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
            told = pipe.read()
    except KeyboardInterrupt:
        launcher.terminate()
        raise
    if told != READY:
        message = told.strip() or f"the launcher died; its log is {log}"
        metadata = {} if told else {"log": str(log)}
        raise Error(Code.FAILED_PRECONDITION, message, reason="NOT_READY", metadata=metadata)


class Notice:
    """Tells whoever detached this launcher how it went: once, as the descriptor's number means nothing after that."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor
        self.is_wanted = descriptor is not None
        """Whether anybody detached it."""

    def give(self, text: str) -> None:
        """Tell them, unless they have been told; they may be gone."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            with suppress(OSError), os.fdopen(descriptor, "w") as pipe:
                pipe.write(text)
