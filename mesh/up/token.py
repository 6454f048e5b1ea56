"""The token without which nobody reads the console of a stack that other hosts can reach."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from mesh.ports import LOOPBACK

VARIABLE = "MESH_CONSOLE_TOKEN"


def console_token(environ: Mapping[str, str], address: str, file: Path) -> str:
    """What `MESH_CONSOLE_TOKEN` says, else the one in the file, made if need be; empty for a stack on loopback.

    It stays the same from one start to the next, so that a browser that was let in remains so.
    """
    if given := environ.get(VARIABLE, "").strip():
        return given
    if address == LOOPBACK:
        return ""
    with suppress(FileExistsError):
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as made:
            made.write(secrets.token_urlsafe(18))
    return file.read_text().strip()
