"""`mesh stack`: what a running process is doing, also one that hangs.

A process that watches its event loop answers at a socket in the run folder, with its tasks. One that does not answer
(stopped, or held up by native code) is looked at from outside by py-spy, which reads its memory.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from mesh.errors import Code, Error

ANSWER_SECONDS = 1.5
"""How long a process may take to answer before it is looked at from outside."""

SPY_SECONDS = 20.0


def stacks(run: Path, name: str, listed: Mapping[str, int]) -> str:
    """Stacks of the process with this name or process id, as text.

    `listed` are the names and ids that the launcher knows. Raises `Error`: NOT_FOUND when nothing has the name,
    FAILED_PRECONDITION when several have it, UNIMPLEMENTED for a process that is no Python.
    """
    found = dict(_sockets(run))
    pid = _pid(name, listed, found)
    path = next((path for path, (_, each) in found.items() if each == pid), None)
    told = _ask(path) if path else ""
    return told or _state(pid) + _spied(name, pid)


def _sockets(run: Path) -> Iterator[tuple[Path, tuple[str, int]]]:
    """Paths of all sockets, with the name and the id of their processes."""
    for path in sorted(run.glob("stack-*.sock")):
        name, _, pid = path.stem.removeprefix("stack-").rpartition(".")
        if pid.isdecimal() and Path(f"/proc/{pid}").exists():
            yield path, (name, int(pid))


def _pid(name: str, listed: Mapping[str, int], found: Mapping[Path, tuple[str, int]]) -> int:
    if name.isdecimal():
        return int(name)
    if name in listed:
        return listed[name] or _refuse_idle(name)
    named = [pid for own, pid in found.values() if own == name]
    if len(named) == 1:
        return named[0]
    if named:
        ids = ", ".join(map(str, named))
        raise Error(Code.FAILED_PRECONDITION, f"several processes are called {name}: name one by its id, of {ids}")
    known = ", ".join(sorted({*listed, *(own for own, _ in found.values())})) or "none"
    raise Error(Code.NOT_FOUND, f"no process here is called {name!r}; there are: {known}", reason="NO_PROCESS")


def _refuse_idle(name: str) -> int:
    raise Error(Code.FAILED_PRECONDITION, f"{name} does not run now; `mesh ps` says why", reason="NO_PROCESS")


def _ask(path: Path) -> str:
    """What the process tells; empty when it does not within its time."""
    parts: list[bytes] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asked, suppress(OSError):
        asked.settimeout(ANSWER_SECONDS)
        asked.connect(str(path))
        while part := asked.recv(65536):
            parts.append(part)
        return b"".join(parts).decode()
    return ""


def _state(pid: int) -> str:
    """A line on a process that cannot answer, by its state in /proc (proc(5)); empty when it could."""
    with suppress(OSError):
        fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        state = fields["State"].split()[0]
        if state in "Tt":
            return f"Process {pid} is stopped by a signal: `kill -CONT {pid}` lets it go on.\n"
        if state == "D":
            return f"Process {pid} waits for a disk or a network file system.\n"
    return ""


def _spied(name: str, pid: int) -> str:
    command = [str(Path(sys.executable).with_name("py-spy")), "dump", "--nonblocking", "--pid", str(pid)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SPY_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Error(Code.UNAVAILABLE, f"{name} does not answer, and py-spy cannot look at it: {error}") from None
    if done.returncode:
        raise _unseen(name, pid, done.stderr.strip())
    return done.stdout


def _unseen(name: str, pid: int, reason: str) -> Error:
    executable = Path(f"/proc/{pid}/exe")
    with suppress(OSError):
        program = executable.readlink().name
        if not program.startswith("python"):
            return Error(Code.UNIMPLEMENTED, f"{name} runs {program}, which has no Python stacks", reason="NOT_PYTHON")
    if not executable.parent.exists():
        return Error(Code.NOT_FOUND, f"there is no process {pid}", reason="NO_PROCESS")
    said = reason.splitlines()[-1] if reason else "py-spy gave no reason"
    return Error(Code.PERMISSION_DENIED, f"{name} does not answer, and cannot be looked at from outside: {said}")
