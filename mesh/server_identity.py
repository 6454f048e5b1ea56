"""The certificate that a server shows, and whom it lets in: whoever the registry's authority has signed."""

from __future__ import annotations

import logging
from pathlib import Path

import grpc

from mesh import identity_files
from mesh.identity_files import Files
from mesh.recovery import now, sleep

_LOOK_SECONDS = 0.05
_PATIENCE_SECONDS = 5.0
"""How long nothing is said about an identity that is not there."""

_log = logging.getLogger("mesh.server")


async def credentials(folder: Path) -> grpc.ServerCredentials:
    """Mutual TLS with what is in the folder of an identity; waits until there is something.

    The newest is taken at each handshake, so that a renewed one needs no restart.
    """
    held = _Newest(folder, await _first(folder))
    credentials: grpc.ServerCredentials = grpc.dynamic_ssl_server_credentials(
        _configuration(held.files), held.changed,  # type: ignore[arg-type] # None keeps what there is
        require_client_authentication=True,
    )
    return credentials


class _Newest:
    """Is asked in threads of gRPC, by one at a time."""

    def __init__(self, folder: Path, files: Files) -> None:
        self._folder, self.files = folder, files

    def changed(self) -> grpc.ServerCertificateConfiguration | None:
        """The configuration where it is another one than before; what was good stays where it cannot be read."""
        try:
            if identity_files.version_of(self._folder) == self.files.version:
                return None
            self.files = identity_files.read(self._folder)
            return _configuration(self.files)
        except (OSError, ValueError) as error:
            _log.warning("the identity in %s cannot be read, so the one before stays: %s", self._folder, error)
            return None


def _configuration(files: Files) -> grpc.ServerCertificateConfiguration:
    pair = files.key.encode(), files.certificate.encode()
    return grpc.ssl_server_certificate_configuration([pair], root_certificates=files.roots.encode())


async def _first(folder: Path) -> Files:
    begun, told = now(), False
    while True:
        try:
            return identity_files.read(folder)
        except OSError as error:
            if not told and now() - begun > _PATIENCE_SECONDS:
                _log.warning("waiting for a certificate, which the sidecar is to put into %s: %s", folder, error)
                told = True
        await sleep(_LOOK_SECONDS)
