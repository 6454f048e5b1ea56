"""Asks the sidecar of this host, and the control process of the gateway where there is one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mesh.errors import Code, Error
from mesh.paths import Paths

if TYPE_CHECKING:
    from meshwright.sidecar.v1.explanation_pb2 import Explanation

_ASK_SECONDS = 15.0


async def explanation(paths: Paths, service: str, method: str) -> Explanation:
    """Why the calls of a service do what they do. Raises `Error`, FAILED_PRECONDITION when no sidecar answers."""
    import grpc

    from mesh.status import from_rpc
    from meshwright.sidecar.v1 import sidecar_service_pb2 as pb
    from meshwright.sidecar.v1.sidecar_service_pb2_grpc import SidecarServiceStub

    if not paths.sidecar_socket.exists():
        raise no_sidecar(paths)
    async with grpc.aio.insecure_channel(f"unix:{paths.sidecar_socket}") as channel:
        request = pb.ExplainServiceRequest(service=service, method=method)
        try:
            return await SidecarServiceStub(channel).ExplainService(request, timeout=_ASK_SECONDS)
        except grpc.aio.AioRpcError as error:
            found = from_rpc(error)
            raise no_sidecar(paths) if found.reason == "UNAVAILABLE" else found from None


def no_sidecar(paths: Paths) -> Error:
    """No sidecar answers; says how to start one."""
    how = "start one with `mesh up` or `mesh sidecar`, or name its folder with --dir"
    return Error(Code.FAILED_PRECONDITION, f"no sidecar runs for {paths.state}: {how}", reason="NO_SIDECAR")
