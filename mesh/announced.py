"""The mesh's own processes of this host in the registry, so that a Prometheus with Consul discovery finds them.

They are a service of their own, without the tag of the mesh: nobody calls them, and nothing counts them as instances.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import socket
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from mesh import targets
from mesh.errors import Code, Error
from mesh.recovery import Backoff, Failures, now, sleep
from mesh.registry.model import METRICS_META, Health, Registration

if TYPE_CHECKING:
    from mesh.registry import Registry

SERVICE = "meshwright-metrics"
TAG = "metrics"

LEAVE_SECONDS = 1.0
_RETRY = Backoff(first_seconds=1.0, limit_seconds=30.0)
_log = logging.getLogger(__name__)


async def announce(run: Path, registry: Registry) -> None:
    """Have those registered that a run folder tells of, until cancelled; a registry that refuses costs only this."""
    known, failures = _Known(registry), Failures()
    try:
        while True:
            try:
                await known.follow(await asyncio.to_thread(registrations, run))
                failures.reset()
                await sleep(targets.LOOK_SECONDS)
            except Error as error:
                if not failures.count:
                    _log.warning("%s: Prometheus will not find the mesh's own processes by the registry", error.message)
                await failures.wait(_RETRY)
    finally:
        with suppress(Error, TimeoutError):
            async with asyncio.timeout(LEAVE_SECONDS):
                await known.follow({})


def registrations(run: Path) -> dict[str, Registration]:
    """What a run folder tells of, by id: one for each kind of process, the same after it started again."""
    place = f"{socket.gethostname()}-{hashlib.sha256(str(run).encode()).hexdigest()[:6]}"
    made = (_registration(job, address, place) for job, address in targets.parts(run).items())
    return {one.id: one for one in made}


def _registration(job: str, address: str, place: str) -> Registration:
    host, _, port = address.rpartition(":")
    return Registration(
        service=SERVICE, id=f"{SERVICE}-{job}-{place}", address=host.strip("[]"), port=int(port), tags=(TAG,),
        meta={"job": job, METRICS_META: port},
    )  # fmt: skip


class _Known:
    """What the registry was told."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._told: dict[str, tuple[Registration, float]] = {}
        """By id, and when it was said last that it is well."""

    async def follow(self, found: dict[str, Registration]) -> None:
        """Tell what differs, and that the others are well when it is time for that."""
        for gone in self._told.keys() - found.keys():
            await self._registry.deregister(gone)
            del self._told[gone]
        for made in found.values():
            told, at = self._told.get(made.id, (None, 0.0))
            if told != made:
                await self._registry.register(made)
            elif now() < at + made.ttl_seconds / 3:
                continue
            await self._report(made)

    async def _report(self, made: Registration) -> None:
        try:
            await self._registry.report(made.id, Health.PASSING)
            self._told[made.id] = made, now()
        except Error as error:
            if error.code is not Code.NOT_FOUND:
                raise
            self._told.pop(made.id, None)  # it forgot, and is told again
