"""`python -m services.order`: the order service."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import mesh
from mesh.scope import Scope
from meshwright.order.v1.order_service_pb2_grpc import add_OrderServiceServicer_to_server
from meshwright.sync.v1.sync_service_pb2_grpc import SyncServiceStub
from services import database, process, readiness
from services.migrations import migrate
from services.order.customers import SyncCustomers
from services.order.servicer import OrderServicer
from services.order.store import MIGRATIONS, SCHEMA, OrderStore
from services.settings import ServiceSettings
from services.totals import Totals

if TYPE_CHECKING:
    from collections.abc import Mapping


def settings(values: Mapping[str, str]) -> ServiceSettings:
    """From variables. Raises `InvalidConfig` with all problems."""
    found, variables = ServiceSettings.read(values, "order")
    variables.check()
    return found


async def serve(settings: ServiceSettings) -> None:
    """Serve until SIGTERM or SIGINT."""
    async with (
        mesh.server(settings.mesh) as server,
        mesh.channel("sync", settings.mesh) as channel,
        database.connect(settings.database) as connected,
        settings.redis.client() as redis,
        Scope() as scope,
    ):
        await migrate(connected, settings.database, SCHEMA, MIGRATIONS)
        process.instrument()
        store = OrderStore(connected)
        totals = Totals(redis, SCHEMA, store.totals)
        scope.start(totals.run(), name="totals")
        scope.start(readiness.follow(server, connected, settings.patience_seconds), name="readiness")
        servicer = OrderServicer(store, SyncCustomers(SyncServiceStub(channel)), totals.changed)
        add_OrderServiceServicer_to_server(servicer, server)
        await server.serve()


if __name__ == "__main__":
    sys.exit(process.run(os.environ, settings, serve))
