"""Envoy's admin interface, which listens on a Unix socket of this host alone: it could also stop Envoy.

https://www.envoyproxy.io/docs/envoy/latest/operations/admin
"""

from __future__ import annotations

import http.client
import socket
from pathlib import Path

ASK_SECONDS = 1.0


def read(admin: Path, page: str) -> bytes:
    """What it has on a page. Raises `OSError` or `HTTPException` when no Envoy answers in time."""
    connection = _Unix(admin)
    try:
        connection.request("GET", page)
        return connection.getresponse().read()
    finally:
        connection.close()


class _Unix(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("envoy", timeout=ASK_SECONDS)
        self._path = path

    def connect(self) -> None:
        """To the socket."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))
