"""`python -m services.sync`: the sync service, its worker included."""

from __future__ import annotations

import os
import sys
import uuid
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import mesh
from meshwright.sync.v1.sync_service_pb2_grpc import add_SyncServiceServicer_to_server
from services import database, process
from services.events import consumer, relay
from services.events.consumer import Consumer, ConsumerSettings
from services.events.group import Group
from services.notices import Notices
from services.settings import ServiceSettings
from services.startup import prepared
from services.sync import provider, reads
from services.sync.changes import SOURCE
from services.sync.provider_settings import ProviderSettings
from services.sync.reads import CacheSettings, UserReads
from services.sync.servicer import SyncServicer
from services.sync.store import CHANNEL, MIGRATIONS, SCHEMA, RunStore, UserStore
from services.sync.worker import Worker
from services.totals import Totals

if TYPE_CHECKING:
    from collections.abc import Mapping



@dataclass(frozen=True, kw_only=True)
class SyncSettings:
    """Everything that the process needs to know."""

    service: ServiceSettings
    providers: tuple[ProviderSettings, ...]
    cache: CacheSettings
    consumer: ConsumerSettings


def settings(values: Mapping[str, str]) -> SyncSettings:
    """From variables. Raises `InvalidConfig` with all problems."""
    service, variables = ServiceSettings.read(values, "sync")
    found = SyncSettings(
        service=service, providers=ProviderSettings.read(variables),
        cache=CacheSettings.read(variables), consumer=ConsumerSettings.read(variables),
    )  # fmt: skip
    variables.check()
    return found


async def serve(settings: SyncSettings) -> None:
    """Serve and work off runs until SIGTERM or SIGINT."""
    service = settings.service
    async with (
        mesh.server(service.mesh) as server,
        database.connect(service.database) as connected,
        service.redis.client() as redis,
        service.redis.client(binary=True) as kept,
        service.redis.client(binary=True, blocks_seconds=consumer.BLOCK_SECONDS) as stream,
        prepared(server, connected, service, SCHEMA, MIGRATIONS) as scope,
    ):
        runs, users, notices = RunStore(connected), UserStore(connected), Notices(connected, CHANNEL)
        totals = Totals(redis, "users", users.totals)
        scope.start(totals.run(), name="totals")
        scope.start(notices.run(), name="notices")
        relay.start(scope, connected, redis, SOURCE)
        group = Group(stream, reads.GROUP, service.instance)
        copies = reads.copies(kept, settings.cache)
        scope.start(Consumer(group, reads.effect(copies), settings.consumer).run(), name="consumer of users")
        name = f"{service.instance} {uuid.uuid4()}"  # of this process alone: it takes its own runs back
        for one in settings.providers:
            connect = partial(provider.connect, one)
            worker = Worker(runs, notices, one, connect, name=name, changed=totals.changed)
            scope.start(worker.run(), name=f"worker of {one.name}")
        names = [one.name for one in settings.providers]
        servicer = SyncServicer(runs, users, UserReads(users, copies), notices, providers=names)
        add_SyncServiceServicer_to_server(servicer, server)
        await server.serve()


if __name__ == "__main__":
    sys.exit(process.run(os.environ, settings, serve))
