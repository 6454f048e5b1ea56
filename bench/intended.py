"""How soon a change of an intention is felt: by new calls of a server that keeps to it, by a stream that is open there,
and at the gateway, which keeps to those about a service in plaintext itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc

from bench import echo
from bench.noticing import Floor, Named, Noticed
from mesh.recovery import now

LIST = "/v1/connect/intentions?"
OK, DENIED = grpc.StatusCode.OK, grpc.StatusCode.PERMISSION_DENIED


@dataclass
class Intended:
    """Who calls: the sidecar's own service, straight, and the gateway, to the service `plain`."""

    floor: Floor
    channel: Any
    edge: Any

    async def samples(self) -> AsyncIterator[Named]:
        """Calls are refused, and let in again; then a stream is ended; then the same at the gateway."""
        denies, allows = (_first(self.channel, echo.SERVICE, code) for code in (DENIED, OK))
        yield "an intention denies", await self._deny("mesh", "bench", denies)
        yield "an intention allows again", await self._allow("mesh", "bench", allows)
        stream = self.channel.unary_stream(echo.path("Open3000"))(b"x")
        await stream.read()
        yield "an intention ends a stream", await self._deny("mesh", "bench", _ended(stream))
        await self._allow("mesh", "bench", allows)
        denies, allows = (_first(self.edge, echo.PLAIN, code) for code in (DENIED, OK))
        yield "an intention denies, at Envoy", await self._deny("gateway", "plain", denies)
        yield "an intention allows again, at Envoy", await self._allow("gateway", "plain", allows)

    async def _deny(self, source: str, destination: str, noticed: Noticed) -> tuple[float, float]:
        body = {"SourceName": source, "DestinationName": destination, "SourceType": "consul", "Action": "deny"}

        async def deny() -> None:
            await self.floor.ask("POST", LIST.rstrip("?"), body)

        return await self.floor.measure(deny, noticed, LIST, lambda found: bool(_id_of(found, source, destination)))

    async def _allow(self, source: str, destination: str, noticed: Noticed) -> tuple[float, float]:
        """By taking the intention back."""
        known = _id_of(await self.floor.ask("GET", LIST), source, destination)

        async def allow() -> None:
            await self.floor.ask("DELETE", f"{LIST.rstrip('?')}/{known}")

        return await self.floor.measure(allow, noticed, LIST, lambda found: not _id_of(found, source, destination))


def _id_of(found: Any, source: str, destination: str) -> str:
    """Of the intention from the one to the other, in a list of all; empty for none."""
    held = (one["ID"] for one in found or () if (one["SourceName"], one["DestinationName"]) == (source, destination))
    return next(held, "")


def _first(channel: Any, service: str, code: grpc.StatusCode) -> Noticed:
    """The first call that ends with a code."""
    async def noticed() -> float:
        while await _code(channel, service) is not code:
            pass
        return now()

    return noticed


def _ended(stream: Any) -> Noticed:
    """The end of a stream, which is refused then."""
    async def noticed() -> float:
        code = await stream.code()
        assert code is grpc.StatusCode.PERMISSION_DENIED, code
        return now()

    return noticed


async def _code(channel: Any, service: str) -> grpc.StatusCode:
    call = channel.unary_unary(echo.path("Unary", service))(b"x", timeout=20)
    code: grpc.StatusCode = await call.code()
    return code
