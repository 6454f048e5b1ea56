"""Asks a running launcher: what `mesh ps`, `mesh restart` and `mesh down` do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mesh.errors import Code, Error
from mesh.paths import Paths

if TYPE_CHECKING:
    from meshwright.launcher.v1 import launcher_service_pb2 as pb
    from meshwright.launcher.v1.launcher_service_pb2_grpc import LauncherServiceAsyncStub
    from meshwright.sidecar.v1 import sidecar_service_pb2 as sidecar_pb

_ASK_SECONDS = 10.0
_RESTART_SECONDS = 120.0
_PIDS_SECONDS = 3.0


async def processes(paths: Paths) -> list[pb.Process]:
    """Every process of the stack. Raises `Error` (FAILED_PRECONDITION) when none runs."""
    from meshwright.launcher.v1 import launcher_service_pb2 as pb

    async with _launcher(paths) as launcher:
        answer = await launcher.ListProcesses(pb.ListProcessesRequest(), timeout=_ASK_SECONDS)
        return list(answer.processes)


async def pids(paths: Paths) -> dict[str, int]:
    """Process ids by name; 0 for one that does not run. Empty where no launcher answers in time."""
    try:
        async with asyncio.timeout(_PIDS_SECONDS):
            return {process.name: process.pid for process in await processes(paths)}
    except (Error, TimeoutError):
        return {}


async def subscriptions(paths: Paths) -> list[sidecar_pb.Subscription]:
    """What each xDS client of the stack holds: the sidecar's, then the gateway's, which is Envoy.

    Raises `Error` (UNAVAILABLE) when one of the two does not answer.
    """
    sidecar = await _subscriptions("sidecar", paths.sidecar_socket)
    return [*sidecar, *await _subscriptions("gateway", paths.gateway_ads_socket)]


async def _subscriptions(name: str, socket: Path) -> list[sidecar_pb.Subscription]:
    import grpc

    from meshwright.sidecar.v1 import sidecar_service_pb2 as sidecar_pb
    from meshwright.sidecar.v1.sidecar_service_pb2_grpc import SidecarServiceStub

    async with grpc.aio.insecure_channel(f"unix:{socket}") as channel:
        request = sidecar_pb.ListSubscriptionsRequest()
        try:
            answer = await SidecarServiceStub(channel).ListSubscriptions(request, timeout=_ASK_SECONDS)
        except grpc.aio.AioRpcError as error:
            message = f"the {name} does not answer ({error.details()}): `mesh logs {name}` may say why"
            raise Error(Code.UNAVAILABLE, message) from None
        return list(answer.subscriptions)


async def restart(paths: Paths, name: str) -> pb.RestartProcessResponse:
    """Replace one process; returns when the new one is ready. Raises `Error`."""
    from meshwright.launcher.v1 import launcher_service_pb2 as pb

    async with _launcher(paths) as launcher:
        return await launcher.RestartProcess(pb.RestartProcessRequest(name=name), timeout=_RESTART_SECONDS)


async def stop(paths: Paths) -> AsyncIterator[pb.Process]:
    """Stop the stack; yields each process as it stops, and ends when the launcher is gone. Raises `Error`."""
    import grpc

    from mesh.up.launcher import until_unlocked
    from meshwright.launcher.v1 import launcher_service_pb2 as pb

    async with _launcher(paths) as launcher:
        stops = False
        try:
            async for answer in launcher.StopStack(pb.StopStackRequest()):
                stops = True
                yield answer.process
        except grpc.aio.AioRpcError:
            if not stops:  # Else it was gone before all was told; that it is gone is what counts.
                raise
    await until_unlocked(paths)


@asynccontextmanager
async def _launcher(paths: Paths) -> AsyncIterator[LauncherServiceAsyncStub]:
    if not (paths.are_in_use() and paths.launcher_socket.exists()):
        raise _nothing_runs(paths)
    import grpc

    from meshwright.launcher.v1.launcher_service_pb2_grpc import LauncherServiceStub

    async with grpc.aio.insecure_channel(f"unix:{paths.launcher_socket}") as channel:
        try:
            yield LauncherServiceStub(channel)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                raise _nothing_runs(paths) from None
            raise Error(Code[error.code().name], error.details() or "the launcher gave no reason") from None


def _nothing_runs(paths: Paths) -> Error:
    message = f"no stack runs in {paths.state}: start one with `mesh up`, or name its folder with --dir"
    return Error(Code.FAILED_PRECONDITION, message, reason="NO_STACK")
