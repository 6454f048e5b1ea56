"""`python -m services.order`: the order service, its workers included."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import mesh
from meshwright.order.v1.order_service_pb2_grpc import add_OrderServiceServicer_to_server
from meshwright.sync.v1.sync_service_pb2_grpc import SyncServiceStub
from services import database, process
from services.events import consumer, relay
from services.events.consumer import Consumer, ConsumerSettings
from services.events.group import Group
from services.metrics import Queue
from services.order import deactivations
from services.order.changes import SOURCE
from services.order.customers import SyncCustomers
from services.order.intake import Intake
from services.order.model import State
from services.order.servicer import OrderServicer
from services.order.store import MIGRATIONS, SCHEMA, CustomerStore, OrderStore, WorkStore
from services.order.work import Attempts
from services.order.worker import Checkout, Worker, WorkSettings
from services.settings import ServiceSettings
from services.startup import prepared
from services.totals import Totals

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mesh import Variables


QUEUE = Queue("order_queue", "Orders that wait for a worker", waiting=State.PENDING)


@dataclass(frozen=True, kw_only=True)
class OrderSettings:
    """Everything that the process needs to know."""

    service: ServiceSettings
    work: WorkSettings
    consumer: ConsumerSettings


def settings(values: Mapping[str, str]) -> OrderSettings:
    """From variables. Raises `InvalidConfig` with all problems."""
    service, variables = ServiceSettings.read(values, "order")
    found = OrderSettings(service=service, work=_work(variables), consumer=ConsumerSettings.read(variables))
    variables.check()
    return found


def _work(variables: Variables) -> WorkSettings:
    known = WorkSettings
    return WorkSettings(
        workers=variables.integer("ORDER_WORKERS", known.workers, maximum=64),
        batch_size=variables.integer("ORDER_BATCH_SIZE", known.batch_size, minimum=1, maximum=1000),
        lease_seconds=variables.number("ORDER_LEASE_SECONDS", known.lease_seconds, minimum=1.0, maximum=3600.0),
        poll_seconds=variables.number("ORDER_POLL_SECONDS", known.poll_seconds, minimum=0.01, maximum=3600.0),
        delay_seconds=variables.number("ORDER_WORK_DELAY_SECONDS", known.delay_seconds, maximum=86_400.0),
        grace_seconds=variables.number("ORDER_GRACE_SECONDS", known.grace_seconds, maximum=3600.0),
        attempts=Attempts(limit=variables.integer("ORDER_ATTEMPTS", Attempts.limit, minimum=1, maximum=1000)),
    )


async def serve(settings: OrderSettings) -> None:
    """Serve and work off orders until SIGTERM or SIGINT."""
    service, work = settings.service, settings.work
    async with (
        mesh.server(service.mesh) as server,
        mesh.channel("sync", service.mesh) as channel,
        database.connect(service.database) as connected,
        service.redis.client() as redis,
        service.redis.client(binary=True, blocks_seconds=consumer.BLOCK_SECONDS) as stream,
        prepared(server, connected, service, SCHEMA, MIGRATIONS) as scope,
    ):
        store = OrderStore(connected, work_delay=timedelta(seconds=work.delay_seconds))
        customers = SyncCustomers(SyncServiceStub(channel))
        totals = Totals(redis, SCHEMA, store.totals, told=QUEUE.told)
        scope.start(totals.run(), name="totals")
        changes = relay.start(scope, connected, redis, SOURCE)
        scope.start(changes.run(), name="changes of orders")
        if work.workers:
            worked = WorkStore(connected, name=service.instance, lease=timedelta(seconds=work.lease_seconds))
            scope.start(Worker(worked, Checkout(customers), work, totals.changed).run(), name="worker")
        group = Group(stream, deactivations.GROUP, service.instance)
        effect = deactivations.effect(CustomerStore(connected), customers, totals.changed)
        scope.start(Consumer(group, effect, settings.consumer).run(), name="consumer of users")
        servicer = OrderServicer(store, Intake(store, customers, totals.changed), changes, totals.changed)
        add_OrderServiceServicer_to_server(servicer, server)
        await server.serve()


if __name__ == "__main__":
    sys.exit(process.run(os.environ, settings, serve))
