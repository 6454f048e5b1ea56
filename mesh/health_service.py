"""grpc.health.v1 for a `mesh.server`: what it serves, said at once and again at each change.

Ours and not grpcio-health-checking's servicer, because that one holds its lock while it writes to a watcher (a
slow watcher stops every change) and its watches never end (a draining server waits for them until its grace is
over). Protocol: https://github.com/grpc/grpc/blob/master/doc/health-checking.md
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckResponse

from mesh.latest import Latest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from grpc_health.v1.health_pb2 import HealthCheckRequest

SERVICE = "grpc.health.v1.Health"


class Serving(enum.IntEnum):
    """Health of one service, by its number on the wire."""

    SERVING = 1
    """Takes calls."""
    NOT_SERVING = 2
    """Takes none; callers go elsewhere."""
    UNKNOWN_SERVICE = 3
    """Only in a watch: no such service, yet."""


@dataclass(frozen=True, kw_only=True)
class _State:
    statuses: Mapping[str, Serving]
    withheld: bool = False
    draining: bool = False
    ended: bool = False

    def of(self, service: str) -> Serving | None:
        """What is said of a service; None of an unknown one."""
        status = self.statuses.get(service)
        return Serving.NOT_SERVING if status and self.withheld else status


class Statuses(health_pb2_grpc.HealthServicer):
    """Statuses by full service name; `""` is the server as a whole, and what a sidecar watches."""

    def __init__(self) -> None:
        self._state: Latest[_State] = Latest(_State(statuses={"": Serving.SERVING}))
        self.watchers = 0
        """Open watches."""

    def set(self, service: str, status: Serving) -> None:
        """Change the status of a service (`""` for the server) and tell watchers; without effect once it drains."""
        state = self._state.value
        if not state.draining:
            self._state.set(replace(state, statuses={**state.statuses, service: status}))

    def get(self, service: str) -> Serving | None:
        """The status of a service; None for an unknown one."""
        return self._state.value.of(service)

    def withhold(self) -> None:
        """Say NOT_SERVING for everything, whatever is set, until `release`."""
        self._state.set(replace(self._state.value, withheld=True))

    def release(self) -> None:
        """Say what is set from now on."""
        self._state.set(replace(self._state.value, withheld=False))

    def drain(self) -> None:
        """Say NOT_SERVING for everything, for good."""
        statuses = dict.fromkeys(self._state.value.statuses, Serving.NOT_SERVING)
        self._state.set(replace(self._state.value, statuses=statuses, draining=True))

    def end(self) -> None:
        """End all watches, so that nothing keeps the server."""
        self._state.set(replace(self._state.value, ended=True))

    async def Check(self, request: HealthCheckRequest, context: Any) -> HealthCheckResponse:
        """The status now; NOT_FOUND for an unknown service."""
        status = self.get(request.service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such service")
        return _response(status)

    async def Watch(self, request: HealthCheckRequest, context: Any) -> AsyncIterator[HealthCheckResponse]:
        """The status now and at each change; a slow watcher sees the newest only. Ends when the server stops."""
        self.watchers += 1
        last: Serving | None = None
        try:
            async for state in self._state.changes():
                status = state.of(request.service) or Serving.UNKNOWN_SERVICE
                if status is not last:
                    last = status
                    yield _response(status)
                if state.ended:
                    return
        finally:
            self.watchers -= 1


def _response(status: Any) -> HealthCheckResponse:
    return HealthCheckResponse(status=status)
