"""Where a process finds the certificate of its service, its key and whom it trusts. Light to import.

They lie in a folder of their own that a symbolic link points to; the link is what is replaced, so that the three always
belong together. A folder is 0700 and a file 0600: whoever can read the key is the service.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote

CERTIFICATE: Final = "current/certificate.pem"
"""With what is between it and a root behind it."""

KEY: Final = "current/key.pem"
ROOTS: Final = "current/roots.pem"

_LINK: Final = "current"


@dataclass(frozen=True, kw_only=True)
class Files:
    """What the files say; PEM."""

    certificate: str
    key: str = field(repr=False)
    roots: str

    @property
    def version(self) -> str:
        """The same for the same content; says nothing about the key, which goes with the certificate."""
        return hashlib.sha256(f"{self.certificate}\n{self.roots}".encode()).hexdigest()[:16]


def folder_of(identities: Path, service: str) -> Path:
    """The folder of one service, whatever its name."""
    return identities / quote(service, safe="").replace(".", "%2E")


def service_of(folder: Path) -> str:
    """The service whose folder it is."""
    return unquote(folder.name)


def write(folder: Path, files: Files) -> None:
    """Replace all three at once; those that are there already are left, and their readers too. Raises OSError."""
    for made in (folder.parent, folder):
        made.mkdir(mode=0o700, exist_ok=True)
    held, before = folder / files.version, _pointed_at(folder)
    if before == files.version and held.is_dir():
        return
    if not held.is_dir():
        draft = folder / f".{files.version}.{os.getpid()}"
        _fill(draft, files)
        draft.rename(held)
    link = folder / f".{_LINK}.{os.getpid()}"
    link.unlink(missing_ok=True)
    link.symlink_to(files.version)
    link.replace(folder / _LINK)
    _drop(folder, keep={files.version, before, _LINK})


def read(folder: Path) -> Files:
    """What is there now. Raises OSError where there is nothing yet."""
    current = (folder / _LINK).resolve(strict=True)
    names = (Path(name).name for name in (CERTIFICATE, KEY, ROOTS))
    certificate, key, roots = ((current / name).read_text(encoding="ascii") for name in names)
    return Files(certificate=certificate, key=key, roots=roots)


def version_of(folder: Path) -> str:
    """Version of what is there now, at little cost; empty for nothing."""
    return _pointed_at(folder)


def _pointed_at(folder: Path) -> str:
    with suppress(OSError):
        return (folder / _LINK).readlink().name
    return ""


def _fill(draft: Path, files: Files) -> None:
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(mode=0o700)
    for name, text in ((CERTIFICATE, files.certificate), (KEY, files.key), (ROOTS, files.roots)):
        descriptor = os.open(draft / Path(name).name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(text)


def _drop(folder: Path, keep: set[str]) -> None:
    """Remove versions that nobody reads any more; that before the newest may be being read."""
    for path in folder.iterdir():
        if path.name not in keep and path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
