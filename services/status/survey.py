"""Everything asked side by side, and put together whatever did not answer."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from mesh.recovery import now, time_of_day
from meshwright.status.v1 import status_pb2
from services.status import wire
from services.status.model import Totals, of_consumer, of_parts, queues
from services.status.probes import Answer, ask
from services.timestamps import timestamp

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime

    from mesh.registry import Health
    from mesh.scope import Scope
    from meshwright.sync.v1 import sync_pb2
    from services.events.group import Standing
    from services.status.directory import Listing
    from services.status.model import Component, Models
    from services.status.probes import Parts
    from services.totals import Model

MODELS_SHARE = 0.5
"""Share of the time that Redis may take to say how much there is: the rest is for counting it in Postgres."""


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What the parts answered."""

    services: Answer[Listing]
    postgres: Answer[None]
    models: Answer[Models]
    """The read models."""
    counts: Mapping[str, Answer[Model]]
    """Of read models that Redis lacks: what was counted instead."""
    consumers: Answer[list[Standing]]
    last_sync: Answer[sync_pb2.Sync | None]
    failed_tasks: Answer[int]
    last_listing: Listing | None
    """What the registry said last."""

    @property
    def listing(self) -> Listing | None:
        """What is known of the services."""
        return self.services.value or self.last_listing

    @property
    def known(self) -> Models:
        """The read models, with what was counted instead."""
        return {**(self.models.value or {}), **{name: count.value for name, count in self.counts.items()}}

    @property
    def components(self) -> list[Component]:
        """What the services stand on."""
        parts: dict[str, Answer[Any]] = {"registry": self.services, "postgres": self.postgres, "redis": self.models}
        return [part.component(name) for name, part in parts.items()]

    def problems(self) -> list[str]:
        """What did not answer, and why."""
        asked: dict[str, Answer[Any]] = {
            "registry": self.services, "postgres": self.postgres, "redis": self.models, **self.counts,
            "consumers": self.consumers, "last sync": self.last_sync, "tasks": self.failed_tasks,
        }  # fmt: skip
        return [f"{name}: {part.error}" for name, part in asked.items() if part.error] + list(self._stale())

    def _stale(self) -> Iterator[str]:
        if self.services.error and self.last_listing:
            yield f"services: as the registry said at {self.last_listing.time:%H:%M:%S} UTC"

    def healths(self, at: datetime) -> Iterator[Health]:
        """Of all parts."""
        yield from (service.health for service in (self.listing.services if self.listing else ()))
        yield from (component.health for component in self.components)
        yield from (queue.health(at) for queue in queues(self.known))
        yield from (of_consumer(consumer, at) for consumer in self.consumers.value or ())


async def survey(parts: Parts, scope: Scope, seconds: float) -> Survey:
    """Ask every part, each for so long at most."""
    inquire = partial(ask, scope, seconds=seconds)
    async with asyncio.TaskGroup() as group:
        services = group.create_task(inquire(parts.directory.read))
        postgres = group.create_task(inquire(parts.postgres))
        models = group.create_task(_models(parts, scope, seconds))
        consumers = group.create_task(inquire(parts.consumers))
        last_sync = group.create_task(inquire(parts.last_sync))
        failed = group.create_task(inquire(parts.failed_tasks))
    found, counts = models.result()
    return Survey(
        services=services.result(), postgres=postgres.result(), models=found, counts=counts,
        consumers=consumers.result(), last_sync=last_sync.result(), failed_tasks=failed.result(),
        last_listing=parts.directory.last,
    )  # fmt: skip


async def _models(
    parts: Parts, scope: Scope, seconds: float
) -> tuple[Answer[Models], dict[str, Answer[Model]]]:
    """The read models in Redis, and the counts of those that are not there."""
    begin = now()
    found = await ask(scope, parts.models, seconds * MODELS_SHARE)
    inquire = partial(ask, scope, seconds=seconds - (now() - begin))
    instead, known = {"users": parts.users, "orders": parts.orders}, found.value or {}
    missing = [name for name in instead if known.get(name) is None]
    counts = await asyncio.gather(*(inquire(instead[name]) for name in missing))
    return found, dict(zip(missing, counts, strict=True))


def together(found: Survey) -> status_pb2.SystemStatus:
    """The status of the whole from what its parts answered."""
    at, problems, listing = time_of_day(), found.problems(), found.listing
    return status_pb2.SystemStatus(
        health=wire.health(of_parts(found.healths(at), all_known=not problems)),
        time=timestamp(at),
        services=[wire.service(service, at) for service in (listing.services if listing else ())],
        services_time=timestamp(listing.time) if listing else None,
        components=[wire.component(part) for part in found.components],
        totals=wire.totals(Totals.of(found.known)),
        last_sync=found.last_sync.value,
        problems=problems,
        failed_tasks=found.failed_tasks.value,
        queues=[wire.queue(queue, at) for queue in queues(found.known)],
        consumers=[wire.consumer(consumer, at) for consumer in found.consumers.value or ()],
    )
