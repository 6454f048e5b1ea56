"""Who may call a server: Consul's intentions, followed live from the local sidecar, and kept to at each call.

The caller is who its certificate proves it to be. What was told last holds while the sidecar is away; before it has
told anything, nobody is let in.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

import grpc

from mesh.commands import words
from mesh.errors import Code, Error
from mesh.intentions import Decision, Intentions, service_of
from mesh.intentions_wire import from_message
from mesh.metrics import Decisions
from mesh.recovery import now
from mesh.told import Told
from meshwright.sidecar.v1 import sidecar_service_pb2

if TYPE_CHECKING:
    Context = grpc.aio.ServicerContext[Any, Any]

log = logging.getLogger("mesh.server")

AGAIN_SECONDS = 60.0
"""How long the same refusal is not logged again."""

MOST_TOLD = 1000
"""Refusals of different callers and methods that are remembered as told."""

_RETRY_AFTER_SECONDS = 1.0

SILENT_SECONDS = 5.0
"""For how long nothing is said of a sidecar that does not tell who may call."""

INSIST_SECONDS = 1.0
"""After which a stream that was cancelled and goes on, as its handler caught that, is cancelled again."""


@dataclass(eq=False)
class Open:
    """A stream that was let in."""

    caller: str
    path: str
    headers: dict[str, str] = field(repr=False)
    task: asyncio.Task[Any]
    refusal: Error | None = None
    """Why it is ended, once it may be no more."""

    _again: asyncio.TimerHandle | None = None

    def end(self, refusal: Error) -> None:
        """Cancel its task, again and again until the stream is closed."""
        self.refusal = refusal
        self.task.cancel()
        self._again = self.task.get_loop().call_later(INSIST_SECONDS, self.end, refusal)

    def close(self) -> None:
        """It is over."""
        if self._again:
            self._again.cancel()


class Access:
    """Decides for one service. `follow` brings what holds."""

    def __init__(
        self, service: str, sidecar: str, known: Callable[[], None], *, silent_seconds: float = SILENT_SECONDS
    ) -> None:
        """`sidecar` is its address in gRPC's syntax; `known` is called when it has told first."""
        self._silent_seconds = silent_seconds
        self._service, self._told, self._known = service, Told(sidecar), known
        self._intentions: Intentions | None = None
        self._decided: dict[tuple[str, str], Decision] = {}
        self._open: set[Open] = set()
        self._decisions = Decisions()
        self._logged: dict[tuple[str, str, str], float] = {}

    async def wait(self) -> None:
        """Until the sidecar has told, but not for long. That it does not is said later: often both are starting."""
        await self._told.soon()

    async def follow(self) -> None:
        """Follow the sidecar until cancelled, and say once when it is silent for long."""
        request = sidecar_service_pb2.WatchIntentionsRequest(service=self._service)
        silent = asyncio.get_running_loop().call_later(self._silent_seconds, self._say_unless_told)
        try:
            await self._told.follow(
                lambda stub: stub.WatchIntentions(request, wait_for_ready=True),
                lambda answer: self.take(from_message(answer.intentions)),
            )
        finally:
            silent.cancel()

    def _say_unless_told(self) -> None:
        if not self._told:
            log.warning(
                "the sidecar at %s does not tell who may call %s: nobody may until it does; `mesh check` says more",
                self._told.sidecar, self._service,
            )  # fmt: skip

    def take(self, intentions: Intentions) -> None:
        """What holds from now on, for streams that are open as well."""
        if intentions == self._intentions:
            return
        is_first, self._intentions = self._intentions is None, intentions
        self._decided.clear()
        if is_first:
            self._known()
        for one in tuple(self._open):
            if one.refusal:
                continue
            if refusal := self._refusal(one.caller, one.path, self._decision(one.caller, one.path, one.headers)):
                one.end(refusal)

    def admit(self, path: str, context: Context) -> None:
        """Let a call go on, or raise Error: PERMISSION_DENIED, or UNAVAILABLE where nobody knows."""
        caller = _caller(context)
        known = self._decided.get((caller, path))
        if known and known.allowed:
            self._decisions.count(caller, allowed=True)
        else:
            self._enter(caller, path, known or self._decision(caller, path, _headers(context)))

    def admit_stream(self, path: str, context: Context, task: asyncio.Task[Any]) -> Open:
        """As `admit`, for a call that is ended by cancelling its task once it may be no more, until it is closed."""
        opened = Open(_caller(context), path, _headers(context), task)
        self._enter(opened.caller, path, self._decision(opened.caller, path, opened.headers))
        self._open.add(opened)
        return opened

    def close(self, opened: Open) -> None:
        """The stream is over."""
        self._open.discard(opened)
        opened.close()

    def _enter(self, caller: str, path: str, decision: Decision | None) -> None:
        self._decisions.count(caller, decision.allowed if decision else None)
        if refusal := self._refusal(caller, path, decision):
            raise refusal

    def _decision(self, caller: str, path: str, headers: dict[str, str]) -> Decision | None:
        """None as long as nobody knows."""
        if self._intentions is None:
            return None
        if not caller:
            return Decision(allowed=False, reason="denied, as who calls has no certificate of a service")
        made = self._intentions.decide(caller, self._service, path, headers)
        if not (made.intention and made.intention.looks_at_headers):
            self._decided[caller, path] = made
        return made

    def _log(self, caller: str, path: str, decision: Decision) -> None:
        """Who is let in, and why, once after each change; who is not, now and then."""
        key, at = (caller, "" if decision.allowed else path, decision.reason), now()
        if len(self._logged) > MOST_TOLD:
            self._logged.clear()
        if at < self._logged.get(key, 0.0):
            return
        self._logged[key] = float("inf") if decision.allowed else at + AGAIN_SECONDS
        level = logging.INFO if decision.allowed else logging.WARNING
        log.log(level, "a call of %s to %s is %s", caller or "a stranger", path, decision.reason)

    def _refusal(self, caller: str, path: str, decision: Decision | None) -> Error | None:
        if decision is None:
            return self._unknown()
        self._log(caller, path, decision)
        if decision.allowed:
            return None
        message = f"{caller or 'who calls'} may not call {self._service}{path}: {decision.reason}"
        metadata = {"source": caller, "destination": self._service}
        if decision.intention:
            metadata |= {"intention": str(decision.intention), "precedence": str(decision.intention.precedence)}
        hint = _remedy(caller, self._service, decision) if caller else ""
        return Error(Code.PERMISSION_DENIED, f"{message}{hint}", reason="INTENTION_DENIES", metadata=metadata)

    def _unknown(self) -> Error:
        return Error(
            Code.UNAVAILABLE,
            f"{self._service} does not know yet who may call it, as its sidecar has read no intentions: `mesh check` on"
            " its host says why",
            reason="INTENTIONS_UNKNOWN",
            retry_after_seconds=_RETRY_AFTER_SECONDS,
        )


def _remedy(caller: str, service: str, decision: Decision) -> str:
    found = decision.intention
    if found and (found.permissions or found.fault):
        return f"; change that intention, or the permissions in service-intentions/{found.destination}"
    replace = "-replace " if found and (found.source, found.destination) == (caller, service) else ""
    ends = words((caller, service))
    create = f"consul intention create {replace}-allow {ends}"
    return f"; `{create}` lets it; without that command, do what `mesh explain --from {ends}` says"


def _caller(context: Context) -> str:
    """The service that the peer proved to be; empty for none."""
    found: Iterable[bytes] = (context.auth_context() or {}).get("peer_spiffe_id", ())
    ids = [one.decode(errors="replace") for one in found]
    return _service_of(ids[0]) if len(ids) == 1 else ""


_service_of = cache(service_of)
"""As many as the registry's authority has signed."""


def _headers(context: Context) -> dict[str, str]:
    """By name, what is there more than once joined as HTTP has it."""
    made: dict[str, str] = {}
    for key, value in context.invocation_metadata() or ():
        if isinstance(value, str):
            made[key] = f"{made[key]},{value}" if key in made else value
    return made
