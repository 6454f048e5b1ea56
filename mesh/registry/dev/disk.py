"""What the built-in registry keeps on disk: small files, each replaced whole: a kill leaves the old or the new."""

from __future__ import annotations

import base64
import fcntl
import hashlib
import json
import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from mesh.errors import Code, Error
from mesh.registry.dev.authority import proven
from mesh.registry.dev.intentions import Intention
from mesh.registry.dev.kv import Entry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

T = TypeVar("T")
log = logging.getLogger("mesh.registry.dev")

KV, CONFIG, INTENTIONS, AUTHORITY = PARTS = ("kv", "config", "intentions", "authority")
_BROKEN = ".broken"
_TEMPORARY = ".tmp"


@dataclass(frozen=True)
class Disk:
    """A folder with a file per entry, named by the hash of what identifies it."""

    folder: Path

    def lock(self) -> int:
        """A descriptor that keeps other registries out until it is closed. Raises Error when there is one."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            message = f"another registry uses {self.folder}; stop it, or choose another folder with --data"
            raise Error(Code.FAILED_PRECONDITION, message, reason="DATA_IN_USE") from error
        return descriptor

    def prepare(self) -> None:
        """Make the folders and remove what an interrupted write left."""
        for part in PARTS:
            (self.folder / part).mkdir(parents=True, exist_ok=True, mode=0o700)
            for left in (self.folder / part).glob(f"*{_TEMPORARY}"):
                left.unlink()

    def write(self, part: str, name: str, content: Mapping[str, Any] | None) -> None:
        """Store what is at a name now; None removes it. Durable when it returns. Raises OSError."""
        path = self._path(part, name)
        if content is None:
            path.unlink(missing_ok=True)
        else:
            _replace(path, json.dumps(content, separators=(",", ":")).encode())
        _sync_folder(path.parent)

    def kv(self) -> Iterator[Entry]:
        """All stored values. A file that cannot be read is set aside with a message."""
        return self._read(KV, _entry_of)

    def config(self) -> Iterator[dict[str, Any]]:
        """All stored config entries. A file that cannot be read is set aside with a message."""
        return self._read(CONFIG, _config_of)

    def intentions(self) -> Iterator[Intention]:
        """All stored intentions. A file that cannot be read is set aside with a message."""
        return self._read(INTENTIONS, lambda content: Intention(**content))

    def authority(self) -> Iterator[dict[str, Any]]:
        """The certificate authority, if there is one. A file that cannot be read is set aside with a message."""
        return self._read(AUTHORITY, proven)

    def _read(self, part: str, parse: Callable[[Any], T]) -> Iterator[T]:
        for path in sorted((self.folder / part).glob("*.json")):
            try:
                yield parse(json.loads(path.read_bytes()))
            except (ValueError, KeyError, TypeError) as error:
                aside = path.with_suffix(_BROKEN)
                path.replace(aside)
                log.error("%s cannot be read (%s); it was set aside as %s, its entry is lost", path, error, aside.name)

    def _path(self, part: str, name: str) -> Path:
        return self.folder / part / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.json"


def content_of(entry: Entry | None) -> dict[str, Any] | None:
    """What is written for a value; None for none."""
    if entry is None:
        return None
    return {
        "Key": entry.key,
        "Value": base64.b64encode(entry.value).decode(),
        "Flags": entry.flags,
        "CreateIndex": entry.create_index,
        "ModifyIndex": entry.modify_index,
    }


def _entry_of(content: Any) -> Entry:
    return Entry(
        key=str(content["Key"]),
        value=base64.b64decode(content["Value"], validate=True),
        flags=int(content["Flags"]),
        create_index=int(content["CreateIndex"]),
        modify_index=int(content["ModifyIndex"]),
    )


def _config_of(content: Any) -> dict[str, Any]:
    indexes = {name: int(content[name]) for name in ("CreateIndex", "ModifyIndex")}
    return {**content, "Kind": str(content["Kind"]), "Name": str(content["Name"]), **indexes}


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_suffix(_TEMPORARY)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
