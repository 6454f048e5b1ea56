"""Asks the sidecar of this host, and the control process of the gateway where there is one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mesh.errors import Code, Error
from mesh.intentions import PARTS
from mesh.methods import NO_METHOD, NO_SERVICE
from mesh.paths import Paths
from mesh.process_state import is_stopped
from mesh.stack_of import sockets

if TYPE_CHECKING:
    import grpc

    from meshwright.check.v1.check_service_pb2 import Finding
    from meshwright.launcher.v1 import launcher_service_pb2 as pb
    from meshwright.sidecar.v1.explanation_pb2 import Explanation

_CONNECT_SECONDS = 5.0
"""How long a process may take to say anything at all."""

_ASK_SECONDS = 15.0


async def explanation(paths: Paths, service: str, method: str, caller: str = "") -> Explanation:
    """Why the calls of a service do what they do, and whether a caller may send them.

    Raises `Error`: FAILED_PRECONDITION when no sidecar runs, DEADLINE_EXCEEDED when it does not answer.
    """
    from meshwright.sidecar.v1 import sidecar_service_pb2
    from meshwright.sidecar.v1.sidecar_service_pb2_grpc import SidecarServiceStub

    request = sidecar_service_pb2.ExplainServiceRequest(service=service, method=method, caller=caller)
    try:
        async with _connected(paths, "sidecar", paths.sidecar_socket) as channel:
            return await SidecarServiceStub(channel).ExplainService(request, timeout=_ASK_SECONDS)
    except Error as error:
        if error.code is Code.DEADLINE_EXCEEDED:
            raise _silent("sidecar", _remedy(paths, "sidecar")) from None
        raise _no_sidecar(paths) if error.reason == "UNAVAILABLE" else error from None


async def doubt(paths: Paths, service: str, method: str = "") -> str:
    """Why there is no such service or method, as far as the sidecar knows; empty where there is, or nobody can say."""
    try:
        if service not in PARTS:
            await explanation(paths, service, method)
    except Error as error:
        return error.message if error.reason in (NO_METHOD, NO_SERVICE) else ""
    return ""


async def findings(paths: Paths) -> tuple[Finding, ...]:
    """What is well with the mesh and what is not, as far as the processes of this host can see. Never raises: whoever
    does not answer is a finding.
    """
    from mesh.findings.show import merged

    processes = await _processes(paths)
    found = await asyncio.gather(
        _of_sidecar(paths), _of_gateway(paths), _of_processes(paths, processes), _of_programs(paths)
    )
    names = {process.address: process.name for process in processes if process.address}
    return merged((one for part in found for one in part), names)


async def _of_sidecar(paths: Paths) -> list[Finding]:
    from mesh.findings import bad, good

    try:
        found = await _findings_at(paths, "sidecar", paths.sidecar_socket)
    except Error as error:
        remedy = "mesh up  # or `mesh sidecar`, or `mesh restart sidecar` where `mesh ps` shows one"
        if error.code is not Code.UNAVAILABLE:
            remedy = _remedy(paths, "sidecar")
        return [bad("sidecar", f"none answers for {paths.state}{_why(error)}: nothing else is known", remedy)]
    return [good("sidecar", f"answers on {paths.sidecar_socket}"), *found]


async def _of_gateway(paths: Paths) -> list[Finding]:
    """Nothing where no gateway runs."""
    from mesh.findings import bad

    if not paths.gateway_reflection_socket.exists():
        return []
    try:
        return await _findings_at(paths, "gateway", paths.gateway_reflection_socket)
    except Error as error:
        remedy = "mesh restart gateway" if error.code is Code.UNAVAILABLE else _remedy(paths, "gateway")
        return [bad("gateway", f"its control process does not answer{_why(error)}", remedy)]


def _why(error: Error) -> str:
    """What was said, unless that is only that nobody listens."""
    return "" if error.code is Code.UNAVAILABLE else f" ({error.message})"


async def _findings_at(paths: Paths, name: str, socket: Path) -> list[Finding]:
    """What one process can see. Raises `Error` when it does not answer."""
    from meshwright.check.v1.check_service_pb2 import ListFindingsRequest
    from meshwright.check.v1.check_service_pb2_grpc import CheckServiceStub

    async with _connected(paths, name, socket) as channel:
        answer = await CheckServiceStub(channel).ListFindings(ListFindingsRequest(), timeout=_ASK_SECONDS)
        return list(answer.findings)


@asynccontextmanager
async def _connected(paths: Paths, name: str, socket: Path) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to a process that says something: one that is stopped, or hangs, is told from one that takes its time.

    Raises `Error` for what fails: UNAVAILABLE where nobody listens, DEADLINE_EXCEEDED where nobody answers.
    """
    import grpc

    from mesh.status import from_rpc

    if _stopped(paths, name):
        raise Error(Code.DEADLINE_EXCEEDED, "it is stopped by a signal")
    async with grpc.aio.insecure_channel(f"unix:{socket}") as channel:
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                await _ready(channel)
            yield channel
        except TimeoutError:
            raise Error(Code.DEADLINE_EXCEEDED, f"nothing within {_CONNECT_SECONDS:g} s") from None
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error) from None


async def _ready(channel: grpc.aio.Channel) -> None:
    """Wait for the other side. Raises UNAVAILABLE where there is none."""
    import grpc

    state = channel.get_state(try_to_connect=True)
    while state is not grpc.ChannelConnectivity.READY:
        if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
            raise Error(Code.UNAVAILABLE, "nobody listens")
        await channel.wait_for_state_change(state)
        state = channel.get_state(try_to_connect=True)


def _stopped(paths: Paths, name: str) -> int:
    """The id of the process with this name that a signal stopped; 0 where there is none."""
    return next((pid for _, (own, pid) in sockets(paths.run) if own == name and is_stopped(pid)), 0)


def _remedy(paths: Paths, name: str) -> str:
    """The command for a process that runs and does not answer."""
    if pid := _stopped(paths, name):
        return f"kill -CONT {pid}  # it is stopped by a signal"
    return f"mesh stack {name}  # what it is doing; `mesh restart {name}` replaces one of a stack"


async def _of_processes(paths: Paths, listed: Iterable[pb.Process]) -> list[Finding]:
    from mesh import hangs
    from mesh.findings.processes import processes

    found = await asyncio.to_thread(hangs.look, paths.run, {process.name: process.pid for process in listed})
    return list(processes(found))


async def _of_programs(paths: Paths) -> list[Finding]:
    from mesh import pages
    from mesh.findings.programs import programs

    return list(programs(await asyncio.to_thread(pages.of_programs, paths.run)))


async def _processes(paths: Paths) -> list[pb.Process]:
    """Those of the stack; none without a stack, or when its launcher does not answer."""
    from mesh.up import client

    try:
        return await client.processes(paths)
    except Error:
        return []


def _silent(name: str, remedy: str) -> Error:
    command, _, why = remedy.partition("  # ")
    return Error(Code.DEADLINE_EXCEEDED, f"the {name} does not answer: run `{command}`; {why}", reason="SILENT")


def _no_sidecar(paths: Paths) -> Error:
    how = "start one with `mesh up` or `mesh sidecar`, or name its folder with --dir"
    return Error(Code.FAILED_PRECONDITION, f"no sidecar runs for {paths.state}: {how}", reason="NO_SIDECAR")
