"""Asks the sidecar of this host, and the control process of the gateway where there is one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from mesh.errors import Code, Error
from mesh.intentions import PARTS
from mesh.methods import NO_METHOD, NO_SERVICE
from mesh.paths import Paths

if TYPE_CHECKING:
    from meshwright.check.v1.check_service_pb2 import Finding
    from meshwright.launcher.v1 import launcher_service_pb2 as pb
    from meshwright.sidecar.v1.explanation_pb2 import Explanation

_ASK_SECONDS = 15.0


async def explanation(paths: Paths, service: str, method: str, caller: str = "") -> Explanation:
    """Why the calls of a service do what they do, and whether a caller may send them.

    Raises `Error`, FAILED_PRECONDITION when no sidecar answers.
    """
    import grpc

    from mesh.status import from_rpc
    from meshwright.sidecar.v1 import sidecar_service_pb2
    from meshwright.sidecar.v1.sidecar_service_pb2_grpc import SidecarServiceStub

    async with grpc.aio.insecure_channel(f"unix:{paths.sidecar_socket}") as channel:
        request = sidecar_service_pb2.ExplainServiceRequest(service=service, method=method, caller=caller)
        try:
            return await SidecarServiceStub(channel).ExplainService(request, timeout=_ASK_SECONDS)
        except grpc.aio.AioRpcError as error:
            found = from_rpc(error)
            raise _no_sidecar(paths) if found.reason == "UNAVAILABLE" else found from None


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
    found = await asyncio.gather(_of_sidecar(paths), _of_gateway(paths), _of_processes(paths, processes))
    names = {process.address: process.name for process in processes if process.address}
    return merged((one for part in found for one in part), names)


async def _of_sidecar(paths: Paths) -> list[Finding]:
    from mesh.findings import bad, good

    try:
        found = await _findings_at(paths.sidecar_socket)
    except Error as error:
        remedy = "mesh up  # or `mesh sidecar`, or `mesh restart sidecar` where `mesh ps` shows one"
        return [bad("sidecar", f"none answers for {paths.state}{_why(error)}: nothing else is known", remedy)]
    return [good("sidecar", f"answers on {paths.sidecar_socket}"), *found]


async def _of_gateway(paths: Paths) -> list[Finding]:
    """Nothing where no gateway runs."""
    from mesh.findings import bad

    if not paths.gateway_reflection_socket.exists():
        return []
    try:
        return await _findings_at(paths.gateway_reflection_socket)
    except Error as error:
        return [bad("gateway", f"its control process does not answer{_why(error)}", "mesh restart gateway")]


def _why(error: Error) -> str:
    """What was said, unless that is only that nobody listens."""
    return "" if error.code is Code.UNAVAILABLE else f" ({error.message})"


async def _findings_at(socket: Path) -> list[Finding]:
    """What one process can see. Raises `Error` when it does not answer."""
    import grpc

    from mesh.status import from_rpc
    from meshwright.check.v1.check_service_pb2 import ListFindingsRequest
    from meshwright.check.v1.check_service_pb2_grpc import CheckServiceStub

    async with grpc.aio.insecure_channel(f"unix:{socket}") as channel:
        try:
            answer = await CheckServiceStub(channel).ListFindings(ListFindingsRequest(), timeout=_ASK_SECONDS)
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error) from None
        return list(answer.findings)


async def _of_processes(paths: Paths, listed: Iterable[pb.Process]) -> list[Finding]:
    from mesh import hangs
    from mesh.findings.processes import processes

    found = await asyncio.to_thread(hangs.look, paths.run, {process.name: process.pid for process in listed})
    return list(processes(found))


async def _processes(paths: Paths) -> list[pb.Process]:
    """Those of the stack; none without a stack, or when its launcher does not answer."""
    from mesh.up import client

    try:
        return await client.processes(paths)
    except Error:
        return []


def _no_sidecar(paths: Paths) -> Error:
    how = "start one with `mesh up` or `mesh sidecar`, or name its folder with --dir"
    return Error(Code.FAILED_PRECONDITION, f"no sidecar runs for {paths.state}: {how}", reason="NO_SIDECAR")
