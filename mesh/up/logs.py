"""Reading the logs of a stack."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TextIO

from mesh.errors import Code, Error
from mesh.paths import Paths
from mesh.recovery import sleep

_LOOK_SECONDS = 0.1
_LINE_BYTES = 400


def find(paths: Paths, name: str) -> Path:
    """The log of a process. Raises `Error` (NOT_FOUND) that lists the logs there are."""
    log = paths.log(name)
    if log.parent == paths.logs and log.is_file():
        return log
    known = ", ".join(sorted(found.stem for found in paths.logs.glob("*.log"))) or "none; start a stack with `mesh up`"
    raise Error(Code.NOT_FOUND, f"there is no log of {name!r} in {paths.logs}; there are: {known}", reason="NO_LOG")


def size(log: Path) -> int:
    """How long a log is now, in bytes; 0 when it is not there."""
    return log.stat().st_size if log.is_file() else 0


def tail(log: Path, lines: int, since: int = 0) -> list[str]:
    """The last lines of a log, of those after its first `since` bytes; none when it is not there.

    A log that is shorter than that has been moved aside meanwhile: the new one counts from its start.
    """
    end, wanted = size(log), lines * _LINE_BYTES
    begin = since if since <= end else 0
    while lines and end:
        start = max(begin, end - wanted)
        with log.open("rb") as file:
            file.seek(start)
            found = file.read().decode(errors="replace").splitlines()
        if start == begin or len(found) > lines:
            return found[-lines:]
        wanted *= 4
    return []


async def follow(log: Path, output: TextIO) -> None:
    """Write what is appended from now on, also to the log that takes its place; runs until cancelled."""
    file = _open(log)
    file.seek(0, os.SEEK_END)
    try:
        while True:
            if text := file.read():
                output.write(text)
                output.flush()
            elif _was_replaced(log, file):
                file.close()
                file = _open(log)
            else:
                await sleep(_LOOK_SECONDS)
    finally:
        file.close()


def _open(log: Path) -> TextIO:
    return log.open(encoding="utf-8", errors="replace")


def _was_replaced(log: Path, file: TextIO) -> bool:
    return log.exists() and log.stat().st_ino != os.fstat(file.fileno()).st_ino
