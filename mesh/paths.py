"""Where a stack keeps its files: state in a folder that lasts, sockets in a short one that may go."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import stat
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from mesh.bootstrap import drop_stale
from mesh.errors import Code, Error

SOCKET_PATH_LIMIT = 107
"""Longest path of a Unix socket in bytes (sun_path of unix(7), without the NUL)."""

_STATE = ".mesh"
_STACK_FILE = "mesh.toml"
_LINK = "run"
"""Symbolic link in the state folder to the run folder."""

_OWN_RUNTIME = "set XDG_RUNTIME_DIR to a folder of your own"
_MB = 1 << 20
_LONGEST_SOCKET = "/gateway-reflection.sock.4194304"


@dataclass(frozen=True, kw_only=True)
class Paths:
    """All files of one stack; `prepare` makes the folders."""

    state: Path
    """Absolute; data and logs that survive a restart."""

    run: Path
    """Absolute and short; sockets and bootstrap files of what runs now."""

    @classmethod
    def locate(cls, environ: Mapping[str, str], directory: Path | None = None) -> Self:
        """Paths of the stack whose state is in `directory`, else `$MESH_DIR`, else `./.mesh`.

        Once a run folder is in use it stays the one, also for a session that has another XDG_RUNTIME_DIR.
        """
        state = (directory or Path(environ.get("MESH_DIR") or _STATE)).resolve()
        return cls(state=state, run=_run_folder(state, environ.get("XDG_RUNTIME_DIR")))

    @classmethod
    def find(cls, environ: Mapping[str, str], directory: Path | None = None) -> Self:
        """As `locate`, but where nothing names a folder, that of the stack which the current folder is part of.

        It is the `.mesh` beside the current folder's files, or the nearest one above them. The search ends at a folder
        that has a stack file, at home, and at what others may write to. Where the folder of a project is named, its
        `.mesh` is meant.
        """
        named = directory or environ.get("MESH_DIR")
        return cls.locate(environ, _within(Path(named)) if named else _nearest(Path.cwd(), environ.get("HOME", "")))

    def prepare(self) -> None:
        """Make both folders, and prove that nobody else can enter the run folder.

        Raises `Error` (FAILED_PRECONDITION) with one line for people when a folder cannot be made or trusted.
        """
        for folder in (self.state, self.logs):
            _make(folder, 0o755, "name another one with --dir")
        _make(self.run, 0o700, _OWN_RUNTIME)
        _prove_own(self.run)
        self.run.chmod(0o700)
        _point(self.state / _LINK, self.run)

    def prove_space(self, wanted_bytes: int) -> None:
        """Raises `Error` (RESOURCE_EXHAUSTED) with one line for people when the disk has less than that."""
        free = shutil.disk_usage(self.state).free
        if free < wanted_bytes:
            raise Error(
                Code.RESOURCE_EXHAUSTED,
                f"{self.state} has {free // _MB} MB of free space, and {wanted_bytes // _MB} MB are needed;"
                " make room, or name another folder with --dir",
                reason="DISK_FULL",
            )

    def are_in_use(self) -> bool:
        """Whether there is a run folder: to be asked before anything in it is believed.

        Raises `Error` (FAILED_PRECONDITION) with one line for people when somebody else made it or can enter it, as
        anybody may make a folder in /tmp.
        """
        with suppress(FileNotFoundError):
            _prove_own(self.run)
            _prove_closed(self.run)
            return True
        return False

    def is_up(self) -> bool:
        """Whether a launcher serves here, as `mesh up` is one."""
        return _is_served(self.launcher_socket)

    def retire(self) -> None:
        """Remove the run folder, unless a program, a sidecar or a launcher still uses it, or it is not ours."""
        with suppress(Error):
            if self.are_in_use():
                self._remove_unless_used()

    def _remove_unless_used(self) -> None:
        if not (self.drop_stale() or _is_served(self.sidecar_socket) or _is_served(self.launcher_socket)):
            shutil.rmtree(self.run, ignore_errors=True)

    def drop_stale(self) -> bool:
        """Remove bootstrap files of programs that were killed; whether programs are left."""
        return drop_stale(self.run.glob("bootstrap-*.json*"))

    @property
    def logs(self) -> Path:
        """Folder of all logs."""
        return self.state / "logs"

    def log(self, name: str) -> Path:
        """Log of one process."""
        return self.logs / f"{name}.log"

    @property
    def postgres(self) -> Path:
        """Data of Postgres."""
        return self.state / "postgres"

    @property
    def valkey(self) -> Path:
        """Data of Valkey."""
        return self.state / "valkey"

    @property
    def registry(self) -> Path:
        """Data of the dev registry."""
        return self.state / "registry"

    @property
    def catalog(self) -> Path:
        """The catalog's disk copy."""
        return self.state / "catalog.json"

    @property
    def edge_catalog(self) -> Path:
        """The disk copy of the edge's catalog."""
        return self.state / "edge-catalog.json"

    @property
    def console_token(self) -> Path:
        """What readers of the console must have, where others can reach it; for its owner's eyes only."""
        return self.state / "console-token"

    @property
    def envoy_config(self) -> Path:
        """Bootstrap of Envoy, written at each start."""
        return self.state / "envoy.json"

    @property
    def lock(self) -> Path:
        """Locked by the launcher as long as it runs."""
        return self.state / "lock"

    @property
    def guard_lock(self) -> Path:
        """Locked as long as anything that a launcher started may be left."""
        return self.state / "guard.lock"

    @property
    def sidecar_socket(self) -> Path:
        """ADS and SidecarService."""
        return self.run / "sidecar.sock"

    @property
    def sidecar_lock(self) -> Path:
        """Held by whoever is the sidecar."""
        return self.run / "sidecar.lock"

    @property
    def identities(self) -> Path:
        """Certificates and keys of the services on this machine, a folder each."""
        return self.run / "identity"

    @property
    def launcher_socket(self) -> Path:
        """LauncherService."""
        return self.run / "launcher.sock"

    @property
    def gateway_ads_socket(self) -> Path:
        """ADS of the gateway's control process, for Envoy."""
        return self.run / "gateway-ads.sock"

    @property
    def gateway_reflection_socket(self) -> Path:
        """Merged reflection of the gateway's control process."""
        return self.run / "gateway-reflection.sock"

    @property
    def gateway_http_socket(self) -> Path:
        """Pages of the gateway's control process: /docs and /openapi.json."""
        return self.run / "gateway-http.sock"

    @property
    def envoy_admin_socket(self) -> Path:
        """Admin interface of Envoy."""
        return self.run / "envoy-admin.sock"

    @property
    def envoy_takeover(self) -> Path:
        """Beginning of the names of the sockets by which one Envoy takes over from another."""
        return self.run / "envoy"

    @property
    def bootstrap(self) -> Path:
        """xDS bootstrap for any client on this machine, written by the sidecar."""
        return self.run / "bootstrap.json"

    @property
    def environ(self) -> Path:
        """What a running stack provides to programs beside it, as JSON."""
        return self.run / "environ.json"

    def workload_bootstrap(self, instance_id: str) -> Path:
        """xDS bootstrap whose node is one instance."""
        return self.run / f"bootstrap-{instance_id}.json"


def _nearest(start: Path, home: str) -> Path | None:
    with suppress(PermissionError):
        for folder in (start, *start.parents[:-1]):
            if _is_ours(folder / _STATE):
                return folder / _STATE
            if (folder / _STACK_FILE).exists() or folder == Path(home) or folder.stat().st_mode & stat.S_IWOTH:
                break
    return None


def _within(named: Path) -> Path:
    """The named folder, or the state in it where it has some and is none itself."""
    with suppress(PermissionError):
        if _is_ours(named / _STATE) and not (named / _LINK).is_symlink():
            return named / _STATE
    return named


def _is_ours(folder: Path) -> bool:
    return folder.is_dir() and folder.stat().st_uid == os.getuid()


def _run_folder(state: Path, runtime: str | None) -> Path:
    name = f"mesh-{os.getuid()}-{hashlib.sha256(os.fsencode(state)).hexdigest()[:8]}"
    preferred = Path(runtime or "/tmp") / name
    link = state / _LINK
    with suppress(PermissionError):  # `prepare` says what is wrong with a folder that is not to be entered
        if link.is_symlink() and (used := link.readlink()).name == name and used.is_dir():
            return used
    fits = preferred.is_absolute() and len(os.fsencode(preferred) + os.fsencode(_LONGEST_SOCKET)) <= SOCKET_PATH_LIMIT
    return preferred if fits and preferred.parent.is_dir() else Path("/tmp") / name


def _make(folder: Path, mode: int, advice: str) -> None:
    try:
        folder.mkdir(mode=mode, parents=True, exist_ok=True)
    except OSError as error:
        raise Error(
            Code.FAILED_PRECONDITION,
            f"cannot make the folder {folder}: {error.strerror}; {advice}",
            reason="FOLDER_UNUSABLE",
        ) from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise Error(
            Code.FAILED_PRECONDITION,
            f"cannot write to the folder {folder}; {advice}",
            reason="FOLDER_UNUSABLE",
        )


def _is_served(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        return client.connect_ex(str(path)) == 0


def _point(link: Path, target: Path) -> None:
    if not (link.is_symlink() and link.readlink() == target):
        link.unlink(missing_ok=True)
        with suppress(FileExistsError):  # another process was faster, and has the same target
            link.symlink_to(target)


def _prove_own(folder: Path) -> None:
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise _untrusted(folder, "belongs to someone else")


def _prove_closed(folder: Path) -> None:
    if stat.S_IMODE(folder.lstat().st_mode) & 0o077:
        raise _untrusted(folder, "can be entered by others")


def _untrusted(folder: Path, fault: str) -> Error:
    message = f"{folder} {fault}; remove it, or {_OWN_RUNTIME}"
    return Error(Code.FAILED_PRECONDITION, message, reason="FOLDER_UNTRUSTED")
