"""Which processes of this host do not go on: what `mesh check`, and with it the console, says of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mesh.findings.processes import Process
from mesh.process_state import is_stopped
from mesh.stack_of import ask, sockets
from mesh.watchdog import HELD_UP

HICCUP_SECONDS = 2.0
"""An event loop that is held up no longer than that is not told of here."""

ANSWER_SECONDS = 2.5
"""How long a process may take to answer: longer than it does on a machine that is busy."""

_AT_ONCE = 8
_SAID = re.compile(rf"{HELD_UP}( for ([0-9.]+) s by .*)")


def look(run: Path, listed: Mapping[str, int]) -> list[Process]:
    """Those that the launcher lists (0 is the id of one that does not run), and all that watch their loops.

    Blocks for as long as a process may take to answer.
    """
    doors = {pid: (name, path) for path, (name, pid) in sockets(run)}
    names = {pid: name for name, pid in listed.items() if pid}

    def one(pid: int) -> Process:
        own, door = doors.get(pid, ("", None))
        stopped = is_stopped(pid)
        held = "" if stopped or door is None else _held_up(door)
        return Process(
            name=names.get(pid, own), pid=pid, is_stopped=stopped, held_up=held, is_ours=pid in names
        )

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return sorted(pool.map(one, {**doors, **names}), key=lambda process: (process.name, process.pid))


def _held_up(door: Path) -> str:
    told = ask(door, ANSWER_SECONDS)
    if not told:
        return "held up by native code, or has no core to run on" if door.exists() else ""
    said = _SAID.match(told)
    return f"held up{said[1]}" if said and float(said[2]) >= HICCUP_SECONDS else ""
