"""`python -m services.status`: the status service."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import mesh
from mesh import InvalidConfig
from mesh.registry import RegistrySettings, connect
from mesh.scope import Scope
from meshwright.status.v1.status_service_pb2_grpc import add_StatusServiceServicer_to_server
from meshwright.sync.v1.sync_service_pb2_grpc import SyncServiceStub
from services import database, process
from services.events.hub import BLOCK_SECONDS, Hub
from services.events.stream import Stream
from services.settings import ServiceSettings
from services.status.probes import Parts
from services.status.servicer import StatusServicer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mesh import Variables


@dataclass(frozen=True, kw_only=True)
class StatusSettings:
    """Everything that the process needs to know."""

    service: ServiceSettings
    registry: RegistrySettings


def settings(values: Mapping[str, str]) -> StatusSettings:
    """From variables. Raises `InvalidConfig` with all problems."""
    service, variables = ServiceSettings.read(values, "status")
    registry = _registry(values, variables)
    variables.check()
    return StatusSettings(service=service, registry=registry)


def _registry(values: Mapping[str, str], variables: Variables) -> RegistrySettings:
    try:
        return RegistrySettings.from_env(values)
    except InvalidConfig as error:
        variables.problems.extend(error.message.splitlines())
        return RegistrySettings()


async def serve(settings: StatusSettings) -> None:
    """Serve until SIGTERM or SIGINT."""
    service = settings.service
    async with (
        mesh.server(service.mesh) as server,
        mesh.channel("sync", service.mesh) as channel,
        connect(settings.registry) as registry,
        database.connect(service.database) as connected,
        service.redis.client() as redis,
        service.redis.client(binary=True, blocks_seconds=BLOCK_SECONDS) as stream,
        Scope() as scope,
    ):
        process.instrument()
        parts = Parts(registry, connected, redis, SyncServiceStub(channel))
        events = Hub(Stream(stream))
        scope.start(events.run(), name="events")
        add_StatusServiceServicer_to_server(StatusServicer(parts, events), server)
        await server.serve()


if __name__ == "__main__":
    sys.exit(process.run(os.environ, settings, serve))
