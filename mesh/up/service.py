"""LauncherService: what `mesh ps`, `mesh restart` and `mesh down` ask of a running stack."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import grpc

from mesh.errors import Code, Error
from mesh.process_state import how_to_go_on, is_stopped
from mesh.up.lifecycle import State
from mesh.up.supervisor import Supervisor
from mesh.up.unit import Unit
from meshwright.launcher.v1 import launcher_service_pb2 as pb
from meshwright.launcher.v1.launcher_service_pb2_grpc import (
    LauncherServiceServicer,
    add_LauncherServiceServicer_to_server,
)

Context = grpc.aio.ServicerContext[Any, Any]

_STATES: Mapping[State, pb.Process.State.ValueType] = {
    State.STARTING: pb.Process.STATE_STARTING,
    State.READY: pb.Process.STATE_READY,
    State.DRAINING: pb.Process.STATE_DRAINING,
    State.BACKING_OFF: pb.Process.STATE_BACKING_OFF,
    State.STOPPED: pb.Process.STATE_STOPPED,
}


class LauncherServicer(LauncherServiceServicer):
    """Speaks for one supervisor; `stopping` is set when the stack is to stop."""

    def __init__(self, supervisor: Supervisor, stopping: asyncio.Event) -> None:
        self._supervisor = supervisor
        self._stopping = stopping

    async def ListProcesses(
        self, request: pb.ListProcessesRequest, context: Context
    ) -> pb.ListProcessesResponse:
        """Every process in the order of the parts."""
        return pb.ListProcessesResponse(processes=map(message, self._supervisor.units.values()))

    async def RestartProcess(
        self, request: pb.RestartProcessRequest, context: Context
    ) -> pb.RestartProcessResponse:
        """NOT_FOUND for an unknown name; else as `Unit.restart`."""
        try:
            unit = self._unit(request.name)
            surged = await unit.restart()
            return pb.RestartProcessResponse(process=message(unit), surged=surged)
        except Error as error:
            await context.abort(grpc.StatusCode[error.code.name], error.message)

    async def StopStack(
        self, request: pb.StopStackRequest, context: Context
    ) -> AsyncIterator[pb.StopStackResponse]:
        """Each process as it stops; the stream ends after the last."""
        self._stopping.set()
        for unit in _in_order_of_stop(self._supervisor):
            await unit.stopped.wait()
            yield pb.StopStackResponse(process=message(unit))

    def _unit(self, name: str) -> Unit:
        unit = self._supervisor.units.get(name)
        if unit is None:
            known = ", ".join(self._supervisor.units)
            raise Error(Code.NOT_FOUND, f"no process is named {name!r}; there are {known}", reason="NO_PROCESS")
        return unit


def message(unit: Unit) -> pb.Process:
    """One process as it is now."""
    status = unit.status.value
    return pb.Process(
        name=unit.part.name,
        pid=status.pid,
        state=_STATES[status.state],
        address=status.address,
        restarts=status.restarts,
        note=how_to_go_on(status.pid) if is_stopped(status.pid) else unit.note,
    )


def state_of(process: pb.Process) -> State:
    """The state as a word."""
    return next(state for state, number in _STATES.items() if number == process.state)


def add_to_server(servicer: LauncherServicer, server: grpc.aio.Server) -> None:
    """Register the servicer."""
    add_LauncherServiceServicer_to_server(servicer, server)


def _in_order_of_stop(supervisor: Supervisor) -> list[Unit]:
    return sorted(supervisor.units.values(), key=lambda unit: -unit.part.stage)
