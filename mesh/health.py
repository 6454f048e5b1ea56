"""Whether a local process serves: asked for periodically, and at once when it says that something changed.

gRPC health (https://github.com/grpc/grpc/blob/master/doc/health-checking.md) where the process offers it and knows
an overall status, else whether its port accepts connections. A Watch stream alone would not do: it stays silent while
the event loop of the process is blocked.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from mesh.latest import Latest
from mesh.local_channel import dial
from mesh.recovery import sleep
from mesh.scope import Scope

if TYPE_CHECKING:
    from mesh.identity import Proof

CHANNEL_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.use_local_subchannel_pool", 1),
)
"""For a channel to a process on this host that may not listen yet."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the last checks said."""

    serving: bool
    reason: str = ""
    """Why not, as the check in the registry will say it."""

    starting: bool = False
    """Whether it never served yet."""


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How often to ask, and how patient to be; all in seconds."""

    starting_seconds: float = 0.05
    interval_seconds: float = 1.0
    timeout_seconds: float = 1.0
    strikes: int = 2
    """Timeouts in a row that count as failure: one alone may be a busy machine."""


_log = logging.getLogger(__name__)

_FRAME_HEADER_BYTES, _FRAME_TYPE, _SETTINGS = 9, 3, 4
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, _SETTINGS, 0, 0, 0, 0, 0))
"""What a client of HTTP/2 says first: https://www.rfc-editor.org/rfc/rfc9113#section-3.4."""

STARTING = Verdict(serving=False, reason="starting", starting=True)


class Health:
    """Follows the health of one local process until cancelled."""

    def __init__(self, address: str, port: int, *, protocol: str = "grpc", pace: Pace | None = None) -> None:
        self.verdict = Latest(STARTING)
        self._address, self._port = address, port
        self._grpc = protocol == "grpc"
        self._pace = pace or Pace()
        self._due = asyncio.Event()
        self._timeouts = 0
        self._noted = False

    async def follow(self, proof: Proof | None = None) -> None:
        """Check until cancelled; `verdict` has the outcome. With a proof, over TLS."""
        async with dial(f"{self._address}:{self._port}", proof, CHANNEL_OPTIONS) as channel, Scope() as scope:
            stub = HealthStub(channel)
            if self._grpc:
                scope.start(self._watch(stub))
            while True:
                self._conclude(await self._check(stub))
                await self._pause()

    async def _watch(self, stub: HealthStub) -> None:
        """Have a check made at once whenever the process says that its health changed."""
        while self._grpc:
            try:
                async for _ in stub.Watch(HealthCheckRequest(), wait_for_ready=True):
                    self._due.set()
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                    return
            await sleep(self._pace.interval_seconds)

    async def _check(self, stub: HealthStub) -> Verdict | None:
        """One check; None when it timed out, which may say more about the machine than about the process."""
        if not self._grpc:
            return await self._connect()
        try:
            answer = await stub.Check(HealthCheckRequest(), timeout=self._pace.timeout_seconds)
        except grpc.aio.AioRpcError as error:
            return await self._judge(error)
        status = HealthCheckResponse.ServingStatus.Name(answer.status).lower().replace("_", " ")
        serving = answer.status == HealthCheckResponse.SERVING
        return Verdict(serving=serving, reason="" if serving else status)

    async def _judge(self, error: grpc.aio.AioRpcError) -> Verdict | None:
        if error.code() is grpc.StatusCode.UNIMPLEMENTED:
            self._grpc = False
            return await self._connect()
        if error.code() is grpc.StatusCode.NOT_FOUND:
            self._note_unknown()
            return await self._connect()
        if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            return None
        if error.code() is grpc.StatusCode.UNAVAILABLE and (found := await self._connect()):
            if not found.serving:
                return found
            if self.verdict.value.starting and await self._speaks_no_http2():
                return Verdict(
                    serving=False, reason=f"it speaks no gRPC on port {self._port}: is it `--protocol http`?"
                )
        return Verdict(serving=False, reason=self._words(error.details() or ""))

    def _words(self, details: str) -> str:
        """gRPC tells of its last attempt, also when somebody listens by now."""
        return self._no_listener if "Connection refused" in details else f"health check: {details}"

    @property
    def _no_listener(self) -> str:
        return f"nothing listens on port {self._port}"

    def _note_unknown(self) -> None:
        """Say once that its port counts; it is asked again all the same, as the status may come later."""
        if not self._noted:
            self._noted = True
            _log.warning(
                "the health service at %s:%d knows no overall status (the one of the empty name): its port counts "
                "until it does", self._address, self._port,
            )  # fmt: skip

    async def _connect(self) -> Verdict | None:
        try:
            async with asyncio.timeout(self._pace.timeout_seconds):
                _, writer = await asyncio.open_connection(self._address, self._port)
        except TimeoutError:
            return None
        except ConnectionRefusedError:
            return Verdict(serving=False, reason=self._no_listener)
        except OSError as error:
            return Verdict(serving=False, reason=f"cannot connect to port {self._port}: {error.strerror}")
        writer.close()
        return Verdict(serving=True)

    async def _speaks_no_http2(self) -> bool:
        """Whether the beginning of HTTP/2 is answered by anything but SETTINGS, as a server of HTTP/1 does."""
        with suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
            async with asyncio.timeout(self._pace.timeout_seconds):
                reader, writer = await asyncio.open_connection(self._address, self._port)
                try:
                    writer.write(_PREFACE)
                    return (await reader.readexactly(_FRAME_HEADER_BYTES))[_FRAME_TYPE] != _SETTINGS
                finally:
                    writer.close()
        return False

    def _conclude(self, verdict: Verdict | None) -> None:
        self._timeouts = 0 if verdict else self._timeouts + 1
        if verdict is None and self._timeouts >= self._pace.strikes:
            verdict = Verdict(serving=False, reason=f"does not answer within {self._pace.timeout_seconds:g} s")
        if verdict:
            starting = self.verdict.value.starting and not verdict.serving
            self.verdict.set(replace(verdict, starting=starting))

    async def _pause(self) -> None:
        """Until the next check: soon while the process starts or after a timeout, else the interval or a change."""
        soon = self.verdict.value.starting or self._timeouts
        seconds = self._pace.starting_seconds if soon else self._pace.interval_seconds
        try:
            async with asyncio.timeout(seconds):
                await self._due.wait()
        except TimeoutError:
            return
        self._due.clear()
