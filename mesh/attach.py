"""A program's place on the mesh: a stream to its sidecar, for as long as the program runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

from mesh.errors import Code
from mesh.local_sidecar import CHANNEL_OPTIONS
from mesh.recovery import Backoff, Failures
from mesh.run import Attach, Membership, Observer
from mesh.status import from_rpc
from meshwright.sidecar.v1 import sidecar_service_pb2 as pb
from meshwright.sidecar.v1.sidecar_service_pb2_grpc import SidecarServiceStub

if TYPE_CHECKING:
    from meshwright.sidecar.v1.sidecar_service_pb2_grpc import SidecarServiceAsyncStub

LEAVE_SECONDS = 5.0
"""How long a leaving program is kept while its sidecar tells the callers."""

_REATTACH = Backoff(first_seconds=0.1, limit_seconds=2.0)
_log = logging.getLogger(__name__)


@asynccontextmanager
async def attaching(socket: Path) -> AsyncIterator[Attach]:
    """What attaches programs to the sidecar on a socket; it connects again by itself."""
    async with grpc.aio.insecure_channel(f"unix:{socket}", options=CHANNEL_OPTIONS) as channel:
        sidecar = SidecarServiceStub(channel)
        yield lambda membership, instance_id, port, observer: StreamAttachment(
            sidecar, workload(membership, instance_id, port), observer
        )


def workload(membership: Membership, instance_id: str, port: int) -> pb.Workload:
    """What the sidecar is told about an instance."""
    prefixes = {"http-prefixes": " ".join(membership.http_prefixes)} if membership.http_prefixes else {}
    return pb.Workload(
        service=membership.service,
        id=instance_id,
        address=membership.address,
        port=port,
        zone=membership.zone,
        tags=membership.tags,
        meta={**membership.meta, **prefixes},
        protocol=membership.protocol,
        descriptors=membership.descriptors,
        service_config=membership.service_config,
    )


_HOPELESS = (Code.INVALID_ARGUMENT, Code.FAILED_PRECONDITION)


class StreamAttachment:
    """One workload's stream to its sidecar, opened again whenever that restarts."""

    def __init__(self, sidecar: SidecarServiceAsyncStub, workload: pb.Workload, observer: Observer) -> None:
        self._sidecar = sidecar
        self._workload = workload
        self._observer = observer
        self._call: grpc.aio.StreamStreamCall[pb.AttachRequest, pb.AttachResponse] | None = None
        self._leaving = False
        self._was_attached = False
        self._attached = asyncio.Event()
        self._left = asyncio.Event()

    async def keep(self) -> None:
        """Stay attached until cancelled or left; then the stream is closed, which takes the workload out at once.

        Raises the sidecar's own error where trying again is of no use.
        """
        failures = Failures()
        while not self._leaving:
            try:
                await self._attach(failures)
            except grpc.aio.AioRpcError as error:
                refusal = from_rpc(error)
                if refusal.code in _HOPELESS:
                    raise refusal from error
                _log.warning("%s is off the mesh: %s", self._workload.id, refusal.message)
            if not self._leaving:
                await failures.wait(_REATTACH)

    async def leave(self, reason: str) -> None:
        """Ask to be taken out of rotation, and wait until callers have been told, or there is no hope of it.

        While the sidecar is away, it is waited for if it had taken the workload in before.
        """
        with suppress(TimeoutError, grpc.aio.AioRpcError, asyncio.InvalidStateError):
            async with asyncio.timeout(LEAVE_SECONDS):
                if self._was_attached:
                    await self._attached.wait()
                self._leaving = True
                if self._call is None:
                    return
                await self._call.write(pb.AttachRequest(leave=pb.Leave(reason=reason)))
                await self._left.wait()

    async def _attach(self, failures: Failures) -> None:
        call = self._sidecar.Attach(wait_for_ready=True)
        try:
            await call.write(pb.AttachRequest(workload=self._workload))
            self._call = call
            async for response in call:
                failures.reset()
                self._was_attached = True
                self._attached.set()
                self._tell(response)
        finally:
            self._call = None
            self._attached.clear()
            if self._leaving:
                self._left.set()
            call.cancel()

    def _tell(self, response: pb.AttachResponse) -> None:
        if response.state == pb.AttachResponse.STATE_STARTING:
            self._observer.waiting(response.reason)
        elif response.state == pb.AttachResponse.STATE_SERVING:
            self._observer.ready()
            if response.reason:
                _log.warning("%s: %s", self._workload.id, response.reason)
        elif response.state == pb.AttachResponse.STATE_NOT_SERVING:
            self._observer.unready(response.reason)
        elif response.state == pb.AttachResponse.STATE_LEFT:
            self._left.set()
