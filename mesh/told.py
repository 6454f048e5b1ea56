"""What the sidecar of this host tells by one watch, followed for as long as somebody wants to know."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final

import grpc

from mesh.local_sidecar import CHANNEL_OPTIONS
from mesh.recovery import Backoff, Failures
from meshwright.sidecar.v1.sidecar_service_pb2_grpc import SidecarServiceStub

PATIENCE_SECONDS: Final = 1.0
"""How long whoever starts waits for the first answer."""

_BACKOFF = Backoff(first_seconds=0.1, limit_seconds=1.0)
_log = logging.getLogger(__name__)


class Told:
    """One watch, begun again whenever it ends."""

    def __init__(self, sidecar: str) -> None:
        """`sidecar` is its address in gRPC's syntax."""
        self.sidecar = sidecar
        self._first = asyncio.Event()

    def __bool__(self) -> bool:
        """Whether the sidecar has told anything yet."""
        return self._first.is_set()

    async def soon(self) -> bool:
        """Wait until it has, but not for long; whether it has."""
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                return await self._first.wait()
        except TimeoutError:
            return False

    async def follow(self, begin: Callable[[Any], Any], take: Callable[[Any], None]) -> None:
        """Hand on each answer until cancelled: `begin` calls a stub of SidecarService, and `take` raises ValueError for
        an answer that cannot be read.
        """
        failures = Failures()
        async with grpc.aio.insecure_channel(self.sidecar, CHANNEL_OPTIONS) as channel:
            stub = SidecarServiceStub(channel)
            while True:
                try:
                    async for answer in begin(stub):
                        failures.reset()
                        take(answer)
                        self._first.set()
                except (grpc.aio.AioRpcError, ValueError) as error:
                    _log.debug("the sidecar at %s does not tell: %s", self.sidecar, error)
                await failures.wait(_BACKOFF)
