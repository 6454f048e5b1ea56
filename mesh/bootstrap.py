"""The xDS bootstrap: how a gRPC client of any language finds its sidecar. Light to import; pure but for `write`."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mesh.identity_files import CERTIFICATE, KEY, ROOTS

PROVIDER = "mesh"
"""Name of the certificate provider that clusters of the sidecar refer to."""

_REFRESH = "1s"
"""How often a client looks whether its certificate is another one; ten minutes unless said."""


def bootstrap(socket_path: Path, *, node_id: str, zone: str = "", identity: Path | None = None) -> str:
    """A gRPC xDS bootstrap (gRFC A27) that names a sidecar, as JSON.

    With the folder of an identity, its certificate is shown to the services that demand one (gRFC A29).
    `ignore_resource_deletion` (gRFC A53) keeps clients going should a sidecar forget what it served; Node.js needs a
    locality, even an empty one.
    """
    server = {
        "server_uri": f"unix:{socket_path}",
        "channel_creds": [{"type": "insecure"}],
        "server_features": ["xds_v3", "ignore_resource_deletion"],
    }
    node = {"id": node_id, "cluster": "meshwright", "locality": {"zone": zone}}
    providers = {"certificate_providers": {PROVIDER: _watcher(identity)}} if identity else {}
    return json.dumps({"xds_servers": [server], "node": node, **providers}, indent=2) + "\n"


def _watcher(identity: Path) -> dict[str, object]:
    config = {
        "certificate_file": str(identity / CERTIFICATE),
        "private_key_file": str(identity / KEY),
        "ca_certificate_file": str(identity / ROOTS),
        "refresh_interval": _REFRESH,
    }
    return {"plugin_name": "file_watcher", "config": config}


def write(path: Path, text: str) -> None:
    """Replace the file as a whole, so that no reader sees half of it; nobody else can read it."""
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    with open(draft, "w", encoding="utf-8", opener=_private) as file:
        file.write(text)
    draft.replace(path)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


@contextmanager
def held(path: Path, text: str) -> Iterator[None]:
    """Have the file there in this context; a lock on it tells others that somebody needs it."""
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    with open(draft, "w", encoding="utf-8", opener=_private) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(text)
        file.flush()
        draft.replace(path)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def drop_stale(paths: Iterable[Path]) -> bool:
    """Remove what was written by `held` and is needed by nobody any more; whether any is left."""
    are_held = [_is_held(path) for path in paths]
    return any(are_held)


def _is_held(path: Path) -> bool:
    with suppress(FileNotFoundError), path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        path.unlink(missing_ok=True)
    return False
