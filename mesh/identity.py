"""Proof of who the processes on this host are: certificates from the registry's authority, kept as files.

One leaf for each service that runs here, renewed by the registry long before its end, and the roots to trust; both are
followed by blocking queries. What was obtained stays while the registry is away, also for a process that starts then.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from cryptography import x509
from cryptography.x509.oid import NameOID

from mesh import identity_files
from mesh.identity_files import Files
from mesh.latest import Latest
from mesh.recovery import Backoff, Failures, time_of_day
from mesh.registry.model import Leaf

if TYPE_CHECKING:
    from mesh.registry.model import Registry
    from mesh.scope import Scope

OWN: Final = "mesh"
"""The service that the sidecar itself is, and whoever uses its bootstrap."""

_RETRY: Final = Backoff(first_seconds=0.2, limit_seconds=10.0)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Proof:
    """What a client that knows no SPIFFE ids reaches a service with."""

    own: Files
    """Who it is itself, and whom it trusts."""

    name: str
    """The common name in the certificate of the service, which only the registry's authority can have put there."""


class Identities:
    """The identities of one process and of those that it looks after; tasks run in its scope."""

    def __init__(self, registry: Registry, folder: Path, scope: Scope, own: str = OWN) -> None:
        self._registry, self._folder, self._scope, self._own = registry, folder, scope, own
        self._roots: tuple[str, ...] = ()
        self._held: dict[str, _Held] = {}
        self.datacenter = Latest("")
        """What the SPIFFE ids of all services begin with, other ones under another authority; empty as long as that is
        not known."""
        self.want(own)
        scope.start(self._follow_roots(), name="roots to trust")

    def want(self, service: str) -> None:
        """Obtain the identity of a service, and keep it from now on."""
        if service not in self._held:
            held = self._held[service] = _Held()
            self._take_kept(service, held)
            self._scope.start(self._follow_leaf(service, held), name=f"certificate of {service}")
            self._scope.start(self._write(service, held), name=f"identity of {service}")

    def folder(self, service: str) -> Path:
        """Where its files are: see `mesh.identity_files`."""
        return identity_files.folder_of(self._folder, service)

    async def ready(self, service: str) -> None:
        """Until the files of a wanted service are those of this run."""
        async for version in self._held[service].written.changes():
            if version:
                return

    def spiffe_id(self, service: str) -> str:
        """The id that a service of this datacenter proves to have; empty as long as that is not known."""
        known = self.datacenter.value
        return f"{known}/svc/{quote(service)}" if known else ""

    def proof(self, service: str) -> Latest[Proof | None]:
        """What to reach a wanted service of this host with, as the sidecar; None as long as that is not known."""
        return self._held[service].proof

    def ends(self) -> dict[str, datetime | None]:
        """Until when each wanted service has a certificate; None for one that has none yet."""
        return {service: held.leaf.end if held.leaf else None for service, held in sorted(self._held.items())}

    def _take_kept(self, service: str, held: _Held) -> None:
        """Go on with what a process before this one has written, if that is valid still."""
        with suppress(OSError, ValueError, x509.ExtensionNotFound):
            files = identity_files.read(self.folder(service))
            leaf = _leaf(service, files)
            if leaf.end > time_of_day():
                held.leaf, self._roots = leaf, self._roots or (files.roots,)
                self._renew()

    async def _follow_roots(self) -> None:
        async for roots in self._registry.watch_roots():
            self._roots = roots
            self._renew()

    async def _follow_leaf(self, service: str, held: _Held) -> None:
        async for leaf in self._registry.watch_leaf(service):
            held.leaf = leaf
            self._renew()

    def _renew(self) -> None:
        own, roots = self._held[self._own].leaf, "".join(self._roots)
        if own:
            self.datacenter.set(own.uri.rpartition("/svc/")[0])
        for held in self._held.values():
            if held.leaf and roots:
                held.files.set(Files(certificate=held.leaf.certificate, key=held.leaf.key, roots=roots))
            if held.leaf and roots and own:
                proof = Files(certificate=own.certificate, key=own.key, roots=roots)
                held.proof.set(Proof(own=proof, name=_common_name(held.leaf.certificate)))

    async def _write(self, service: str, held: _Held) -> None:
        """Write the files whenever they are other ones, for as long as that takes."""
        async for files in held.files.changes():
            if files:
                await self._written(service, files)
                held.written.set(files.version)

    async def _written(self, service: str, files: Files) -> None:
        failures = Failures()
        while True:
            try:
                return await asyncio.to_thread(identity_files.write, self.folder(service), files)
            except OSError as error:
                if not failures.count:
                    _log.error("the identity of %s cannot be written: %s. Trying again.", service, error)
                await failures.wait(_RETRY)


class _Held:
    """What is known of one service's identity."""

    def __init__(self) -> None:
        self.leaf: Leaf | None = None
        self.files: Latest[Files | None] = Latest(None)
        self.written = Latest("")
        self.proof: Latest[Proof | None] = Latest(None)


def _leaf(service: str, files: Files) -> Leaf:
    """What was written as the registry had told it. Raises `ValueError` or `ExtensionNotFound` for anything else."""
    certificate = x509.load_pem_x509_certificate(files.certificate.encode())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    (uri,) = names.get_values_for_type(x509.UniformResourceIdentifier)
    end = certificate.not_valid_after_utc
    return Leaf(service=service, uri=uri, certificate=files.certificate, key=files.key, end=end)


def _common_name(certificate: str) -> str:
    (found,) = x509.load_pem_x509_certificate(certificate.encode()).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found.value)
