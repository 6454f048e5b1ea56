"""The deadlines in force for one service, followed live from the local sidecar."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from mesh.policy import DEFAULT_TIMEOUT_SECONDS
from mesh.told import Told
from meshwright.sidecar.v1 import sidecar_service_pb2

log = logging.getLogger("mesh.client")


@dataclass(frozen=True, kw_only=True)
class Deadlines:
    """What the sidecar said: seconds by path, and for every other method; None for no deadline."""

    by_path: Mapping[str, float | None] = field(default_factory=dict)
    fallback: float | None = DEFAULT_TIMEOUT_SECONDS
    streams: float | None = None
    """For every other method that streams."""

    @classmethod
    def of(cls, policy: sidecar_service_pb2.WatchPolicyResponse) -> Self:
        """From the wire. A policy without a fallback leaves the default one in force."""
        fallback = _seconds(policy.fallback) if policy.HasField("fallback") else DEFAULT_TIMEOUT_SECONDS
        by_path = {method.path: _seconds(method) for method in policy.methods}
        return cls(by_path=by_path, fallback=fallback, streams=_seconds(policy.fallback_streams))


class Policies:
    """The newest deadlines of one service; the last ones that were known hold while the sidecar is away."""

    def __init__(self, service: str, sidecar: str) -> None:
        self._service = service
        self._told = Told(sidecar)
        self.current = Deadlines()
        """What holds now."""

    def timeout(self, path: str, *, streams: bool) -> float | None:
        """Seconds for a call of a method. Methods that stream have one only where somebody set it."""
        known = self.current
        if path in known.by_path:
            return known.by_path[path]
        return known.streams if streams else known.fallback

    async def wait(self) -> None:
        """Until the sidecar has told the policy, but not for long; what goes on without it is said in the log."""
        if not await self._told.soon():
            log.warning(
                "the sidecar at %s does not tell the policy of %s: default deadlines hold until it does",
                self._told.sidecar, self._service,
            )  # fmt: skip

    async def follow(self) -> None:
        """Follow the sidecar until cancelled; without one, do nothing."""
        if self._told.sidecar:
            request = sidecar_service_pb2.WatchPolicyRequest(service=self._service)
            await self._told.follow(lambda stub: stub.WatchPolicy(request, wait_for_ready=True), self._take)

    def _take(self, policy: sidecar_service_pb2.WatchPolicyResponse) -> None:
        self.current = Deadlines.of(policy)


def _seconds(method: sidecar_service_pb2.MethodPolicy) -> float | None:
    return method.timeout.ToNanoseconds() / 1e9 if method.HasField("timeout") else None
