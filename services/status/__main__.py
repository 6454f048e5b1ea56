"""`python -m services.status`: the status service."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import mesh
from mesh import InvalidConfig
from mesh.registry import RegistrySettings, connect
from mesh.scope import Scope
from meshwright.order.v1.order_service_pb2_grpc import OrderServiceStub
from meshwright.status.v1.status_service_pb2_grpc import add_StatusServiceServicer_to_server
from meshwright.sync.v1.sync_service_pb2_grpc import SyncServiceStub
from services import database, process
from services.events.gauges import GROUPS
from services.events.hub import BLOCK_SECONDS, Hub
from services.events.stream import Stream
from services.leader import lead
from services.settings import ServiceSettings
from services.startup import prepared
from services.status import jobs
from services.status.directory import Directory
from services.status.probes import Parts, Stubs
from services.status.schedule import Cron
from services.status.scheduler import Scheduler
from services.status.servicer import StatusServicer
from services.status.store import MIGRATIONS, SCHEMA, TaskStore
from services.status.tasks import TaskSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mesh import Variables


@dataclass(frozen=True, kw_only=True)
class StatusSettings:
    """Everything that the process needs to know."""

    service: ServiceSettings
    registry: RegistrySettings
    tasks: TaskSettings


SYNC_CRON = "7 * * * *"
SWEEP_CRON = "*/5 * * * *"
CLEAN_UP_CRON = "37 3 * * *"
LEAD = "status.scheduler"


def settings(values: Mapping[str, str]) -> StatusSettings:
    """From variables. Raises `InvalidConfig` with all problems."""
    service, variables = ServiceSettings.read(values, "status")
    registry = _registry(values, variables)
    tasks = _tasks(values, variables)
    variables.check()
    return StatusSettings(service=service, registry=registry, tasks=tasks)


def _registry(values: Mapping[str, str], variables: Variables) -> RegistrySettings:
    try:
        return RegistrySettings.from_env(values)
    except InvalidConfig as error:
        variables.problems.extend(error.message.splitlines())
        return RegistrySettings()


def _tasks(values: Mapping[str, str], variables: Variables) -> TaskSettings:
    return TaskSettings(
        sync=_cron(values, variables, "SYNC_CRON", SYNC_CRON),
        sweep=_cron(values, variables, "SWEEP_CRON", SWEEP_CRON),
        clean_up=_cron(values, variables, "CLEAN_UP_CRON", CLEAN_UP_CRON),
        patience=timedelta(seconds=variables.number("TASK_PATIENCE_SECONDS", 3600.0)),
        limit=timedelta(seconds=variables.number("TASK_TIMEOUT_SECONDS", 3600.0, minimum=0.01)),
        concurrency=variables.integer("TASK_CONCURRENCY", TaskSettings.concurrency, minimum=1, maximum=100),
        retention=timedelta(days=variables.number("TASK_RETENTION_DAYS", 30.0, maximum=36_500.0)),
    )


def _cron(values: Mapping[str, str], variables: Variables, name: str, default: str) -> Cron | None:
    """The times in a variable; None where it is there and empty, which turns a task off."""
    text = values.get(name, default).strip()
    try:
        return Cron.parse(text) if text else None
    except ValueError as error:
        variables.problems.append(f"{name}={text!r} {error}")
        return None


async def serve(settings: StatusSettings) -> None:
    """Serve, and run tasks while this process leads, until SIGTERM or SIGINT.

    It stays in the rotation without Postgres, to say that there is none.
    """
    service = settings.service
    async with (
        mesh.server(service.mesh) as server,
        mesh.channel("sync", service.mesh) as sync_channel,
        mesh.channel("order", service.mesh) as order_channel,
        connect(settings.registry) as registry,
        database.connect(service.database) as connected,
        service.redis.client(binary=True) as redis,
        service.redis.client(binary=True, blocks_seconds=BLOCK_SECONDS) as stream,
        Scope() as scope,
        prepared(server, connected, service, SCHEMA, MIGRATIONS, leaves=False) as later,
    ):
        services = Stubs(SyncServiceStub(sync_channel), OrderServiceStub(order_channel))
        store = TaskStore(connected, service.instance)
        scheduler = Scheduler(store, jobs.tasks(settings.tasks, services, store), settings.tasks)
        later.start(lead(connected, LEAD, scheduler.run), name="tasks")
        directory = Directory(registry)
        scope.start(directory.run(), name="directory")
        parts = Parts(directory, connected, redis, services, store)
        events = Hub(Stream(stream))
        scope.start(events.run(), name="events")
        scope.start(GROUPS.follow(redis, service.redis.public_url), name="groups of consumers")
        add_StatusServiceServicer_to_server(StatusServicer(parts, events, store, scope), server)
        await server.serve()


if __name__ == "__main__":
    sys.exit(process.run(os.environ, settings, serve))
