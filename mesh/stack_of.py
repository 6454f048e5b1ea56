"""`mesh stack`: what a running process is doing, also one that hangs.

A process that watches its event loop answers at a socket in the run folder, with its tasks. One that does not answer
(stopped, or held up by native code) is looked at from outside by py-spy, which reads its memory.
"""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from mesh.errors import Code, Error
from mesh.ports import owner
from mesh.process_state import how_to_go_on, is_stopped, waits_for_disk

ANSWER_SECONDS = 1.5
"""How long a process may take to answer before it is looked at from outside."""

SPY_SECONDS = 20.0

_ADDRESS = re.compile(r".*:(\d{1,5})")


def stacks(run: Path, name: str, listed: Mapping[str, int]) -> str:
    """Stacks of the process with this name, process id or address, as text.

    `listed` are the names and ids that the launcher knows. An address, as alerts name one, is that of any port where
    it listens. Raises `Error`: NOT_FOUND when nothing has the name, FAILED_PRECONDITION when several have it,
    UNIMPLEMENTED for a process that is no Python.
    """
    found = dict(sockets(run))
    pid = _pid(name, listed, found)
    path = next((path for path, (_, each) in found.items() if each == pid), None)
    told = ask(path) if path else ""
    return told or _from_outside(name, pid)


def sockets(run: Path) -> Iterator[tuple[Path, tuple[str, int]]]:
    """Paths of all sockets, with the name and the id of their processes."""
    for path in sorted(run.glob("stack-*.sock")):
        name, _, pid = path.stem.removeprefix("stack-").rpartition(".")
        if pid.isdecimal() and Path(f"/proc/{pid}").exists():
            yield path, (name, int(pid))


def _pid(name: str, listed: Mapping[str, int], found: Mapping[Path, tuple[str, int]]) -> int:
    if name.isdecimal():
        return int(name)
    if port := _ADDRESS.fullmatch(name):
        return _listener(name, int(port[1]))
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


def _listener(address: str, port: int) -> int:
    found = owner(port)
    if found is None:
        raise Error(Code.NOT_FOUND, f"no process of this host listens at {address}", reason="NO_PROCESS")
    if not found.pid:
        raise Error(Code.PERMISSION_DENIED, f"what listens at {address} is a process of another user")
    return found.pid


def _refuse_idle(name: str) -> int:
    raise Error(Code.FAILED_PRECONDITION, f"{name} does not run now; `mesh ps` says why", reason="NO_PROCESS")


def ask(path: Path, seconds: float = ANSWER_SECONDS) -> str:
    """What the process at a socket tells; empty when it does not within its time."""
    parts: list[bytes] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asked, suppress(OSError):
        asked.settimeout(seconds)
        asked.connect(str(path))
        while part := asked.recv(65536):
            parts.append(part)
        return b"".join(parts).decode()
    return ""


def _from_outside(name: str, pid: int) -> str:
    state = _state(pid)
    try:
        return state + _spied(name, pid)
    except Error:
        if state:  # which is worth knowing, also where nobody may look at the stacks
            return state
        raise


def _state(pid: int) -> str:
    """A line on a process that cannot answer; empty when it could."""
    if is_stopped(pid):
        return f"Process {pid} is {how_to_go_on(pid)}.\n"
    return f"Process {pid} waits for a disk or a network file system.\n" if waits_for_disk(pid) else ""


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
