"""One child process: started in a session of its own, dying with its parent, stopped as a group."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from mesh.errors import Code, Error
from mesh.guard import current
from mesh.scope import Scope

Work = Coroutine[Any, Any, None]

LOG_LIMIT_BYTES = 16 * 1024 * 1024
"""A log larger than this is moved to `NAME.log.1` when its process starts again."""

_SETPRIV = "setpriv"
_PREFIX_LOOKS, _PREFIX_LOOK_SECONDS = 5000, 0.001
"""How often, and how often at most, a child is looked at until it is the program itself."""

_DEATH_SECONDS = 2.0
"""How long a killed child may take to end: one that the kernel holds up is not waited for."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """What to start, and how to end it."""

    argv: tuple[str, ...]
    environ: Mapping[str, str] = field(repr=False)
    """The whole environment of the child."""

    directory: Path | None = None
    log: Path | None = None
    """Where stdout and stderr are appended; None leaves both (and stdin) as the parent's."""

    stop_signal: signal.Signals = signal.SIGTERM
    grace_seconds: float = 10.0
    """Time between the stop signal and SIGKILL of the whole group."""

    death_signal: signal.Signals = signal.SIGKILL
    """What the kernel sends the child when its parent dies, however that dies."""


class Child:
    """A running child. Its process group is ended with it, so no grandchild stays behind."""

    def __init__(self, command: Command, process: asyncio.subprocess.Process) -> None:
        self._command = command
        self._process = process

    @property
    def pid(self) -> int:
        """Process id, which is also the id of its group and session."""
        return self._process.pid

    async def wait(self) -> int:
        """Exit code as a shell gives it: 128+n when signal n ended it."""
        code = await self._process.wait()
        self._signal_group(signal.SIGKILL)
        if guard := current():
            guard.forget(self.pid)
        return code if code >= 0 else 128 - code

    def send(self, number: signal.Signals) -> None:
        """Signal the child alone; a child that is gone is fine."""
        with suppress(ProcessLookupError):
            self._process.send_signal(number)

    def kill(self) -> None:
        """End the whole group at once."""
        self._signal_group(signal.SIGKILL)

    async def stop(self) -> int:
        """Stop signal, grace, SIGKILL of the group; exit code as `wait`. Cancellation kills at once."""
        self.send(self._command.stop_signal)
        try:
            async with asyncio.timeout(self._command.grace_seconds):
                return await self.wait()
        except TimeoutError:
            self.kill()
            return await self.wait()
        except asyncio.CancelledError:
            self.kill()
            raise

    async def killed(self) -> None:
        """Kill, and see it gone: an event loop that ends before its children complains of each."""
        self.kill()
        with suppress(TimeoutError):
            async with asyncio.timeout(_DEATH_SECONDS):
                await self.wait()

    def _signal_group(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)


async def attend(
    child: Child, stop: asyncio.Event, *, aside: Work, leave: Callable[[bool], Work]
) -> int:
    """Stay with a child until it ends; its exit code.

    `aside` runs meanwhile. When `stop` is set, `leave(False)` is awaited, then the child is stopped; should it end
    before that, as when a service manager signals both, leaving goes on. When the child ended by itself, `leave(True)`
    is awaited. Cancellation kills the child.
    """
    async with Scope() as scope:
        exited = scope.start(child.wait())
        asked = scope.start(stop.wait())
        scope.start(aside)
        try:
            await asyncio.wait((exited, asked), return_when=asyncio.FIRST_COMPLETED)
            if exited.done():
                await leave(True)
            else:
                await leave(False)
                await child.stop()
            return await exited
        except asyncio.CancelledError:
            await child.killed()
            raise
    raise AssertionError("a scope swallows nothing")


async def start(command: Command) -> Child:
    """Start a child.

    Raises `Error` (NOT_FOUND) with one line for people when the program cannot be started. Children are started
    by exec with GRPC_ENABLE_FORK_SUPPORT=0, as forks of a process with live channels get stuck (grpc#43055).
    Returns when the death signal is set: a parent that is killed right after leaves nobody behind.
    """
    program, guard = _find(command), current()
    _prove_folder(command)
    output = open_log(command.log) if command.log else None
    try:
        process = await asyncio.create_subprocess_exec(
            *_with_death_signal((program, *command.argv[1:]), command.death_signal),
            env={**command.environ, "GRPC_ENABLE_FORK_SUPPORT": "0", **(guard.environ if guard else {})},
            cwd=command.directory,
            stdin=None if output is None else asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    except OSError as error:
        raise Error(Code.NOT_FOUND, f"cannot start {command.argv[0]}: {error.strerror}", reason="NO_COMMAND") from None
    finally:
        if output is not None:
            output.close()
    if guard:
        guard.watch(process.pid)
    await _passed_prefix(process.pid)
    return Child(command, process)


def ended(code: int) -> str:
    """An exit code as `Child.wait` gives it, in words."""
    by_signal = 128 < code <= 128 + max(signal.valid_signals())
    return f"ended by signal {code - 128}" if by_signal else f"ended with exit code {code}"


def _with_death_signal(argv: tuple[str, ...], number: signal.Signals) -> tuple[str, ...]:
    """With a prefix that sets it, where there is one: the guard ends grandchildren, and children where there is none.

    The signal survives exec, but not a change of user: a prefix of `argv` that changes it must set it itself."""
    setpriv = shutil.which(_SETPRIV)
    if setpriv is None:
        return argv
    option = ("--pdeathsig", number.name.removeprefix("SIG"))
    if Path(argv[0]).name == _SETPRIV:
        return (argv[0], *option, *argv[1:])
    return (setpriv, *option, "--", *argv)


async def _passed_prefix(pid: int) -> None:
    """Until a child that has just begun is the program itself, and its death signal is set. One that has ended is."""
    for _ in range(_PREFIX_LOOKS):
        if not _is_prefix(pid):
            return
        await asyncio.sleep(_PREFIX_LOOK_SECONDS)


def _is_prefix(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/exe").readlink().name == _SETPRIV
    return False


def _prove_folder(command: Command) -> None:
    if command.directory is not None and not command.directory.is_dir():
        raise Error(Code.NOT_FOUND, f"there is no folder {command.directory} to start in", reason="NO_COMMAND")


def _find(command: Command) -> str:
    name = command.argv[0]
    found = shutil.which(_absolute(name, command.directory), path=command.environ.get("PATH", os.defpath))
    if found is None:
        hint = "it is not on PATH" if "/" not in name else "no such program, or it may not be executed"
        raise Error(Code.NOT_FOUND, f"command not found: {name} ({hint})", reason="NO_COMMAND")
    return found


def _absolute(name: str, directory: Path | None) -> str:
    return str((directory or Path()).absolute() / name) if "/" in name else name


def open_log(log: Path) -> IO[bytes]:
    """A log to append to; one that has grown too large is moved aside first."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileNotFoundError):
        if log.stat().st_size > LOG_LIMIT_BYTES:
            log.replace(log.with_name(log.name + ".1"))
    return log.open("ab", buffering=0)
