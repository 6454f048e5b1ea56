"""Where the sidecar of this process is, from the xDS bootstrap; gRPC reads the same file itself.

Format: https://github.com/grpc/proposal/blob/master/A27-xds-global-load-balancing.md
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mesh.errors import InvalidConfig

if TYPE_CHECKING:
    from mesh.config import Settings

BOOTSTRAP_OPTION = "grpc.TEST_ONLY_DO_NOT_USE_IN_PROD.xds_bootstrap_config"
"""Gives one channel a bootstrap of its own, so that several meshes can be reached from one process."""

CHANNEL_OPTIONS = (
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 500),
)
"""For a channel to a sidecar: it is on this host, so trying costs nothing, and it may be away for a moment."""

_HINT = "start this program under `mesh run`, or set GRPC_XDS_BOOTSTRAP to the path that `mesh bootstrap` prints"


def address_of(settings: Settings) -> str:
    """Address of the sidecar, in gRPC's syntax. Raises `InvalidConfig` when no usable bootstrap is there."""
    if settings.bootstrap_file:
        return _server_uri(_read(settings.bootstrap_file), settings.bootstrap_file)
    if settings.bootstrap:
        return _server_uri(settings.bootstrap, "GRPC_XDS_BOOTSTRAP_CONFIG")
    raise InvalidConfig.of([f"this process is not on a mesh: {_HINT}"])


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidConfig.of([f"cannot read the bootstrap {path}: {error}; {_HINT}"]) from error


def _server_uri(text: str, where: str) -> str:
    try:
        parsed: Any = json.loads(text)
        return str(parsed["xds_servers"][0]["server_uri"])
    except (ValueError, LookupError, TypeError) as error:
        raise InvalidConfig.of([f"{where} is no xDS bootstrap (no xds_servers[0].server_uri); {_HINT}"]) from error
