"""Who is on the mesh, as the registry says or, while it cannot be asked, as it said last."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mesh import Error
from mesh.recovery import sleep, time_of_day
from mesh.registry import MESH_TAG
from mesh.scope import first_error
from services.status.model import Service

if TYPE_CHECKING:
    from datetime import datetime

    from mesh.registry import Registry

REFRESH_SECONDS = 10.0
"""How often the registry is asked though nobody wants to know, so that what it said last is never much older."""

MAX_READS = 16
"""Most services whose instances are read from the registry at once."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What the registry said."""

    services: tuple[Service, ...]
    """Every service on the mesh with its instances, sorted by name."""
    time: datetime
    """When it said so."""


class Directory:
    """Asks the registry, and remembers its last answer."""

    def __init__(self, registry: Registry, *, refresh_seconds: float = REFRESH_SECONDS) -> None:
        self._registry = registry
        self._refresh_seconds = refresh_seconds
        self._last: Listing | None = None

    @property
    def last(self) -> Listing | None:
        """The last answer; None before there was one."""
        return self._last

    async def read(self) -> Listing:
        """Ask. Raises what the registry does."""
        listed = await self._registry.services()
        names = sorted(name for name, tags in listed.items() if MESH_TAG in tags)
        limit = asyncio.Semaphore(MAX_READS)
        try:
            async with asyncio.TaskGroup() as group:
                reads = [group.create_task(self._service(name, limit)) for name in names]
        except BaseExceptionGroup as failed:
            raise first_error(failed) from None
        self._last = Listing(services=tuple(read.result() for read in reads), time=time_of_day())
        return self._last

    async def run(self) -> None:
        """Ask now and then until cancelled."""
        while True:
            try:
                await self.read()
            except (Error, OSError) as error:
                _log.warning("the registry does not answer: %s", error)
            await sleep(self._refresh_seconds)

    async def _service(self, name: str, limit: asyncio.Semaphore) -> Service:
        async with limit:
            return Service(name=name, instances=await self._registry.instances(name))
