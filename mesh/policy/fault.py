"""Faults on purpose: what an operator lets go wrong for a while, each at a key of its own in the KV store. Pure.

`mesh/fault/<service>` is for every call of a service, `mesh/fault/<service>/<grpc.Service>/<Method>` for one method,
which then has nothing from the other. The value says what happens, and when that ends. Described in docs/policy.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from mesh.errors import Code
from mesh.policy.model import Match
from mesh.policy.reading import Fields, plain, refuse

PREFIX: Final = "mesh/fault/"
"""Where faults are kept in the registry's KV store."""

LONGEST_SECONDS: Final = 3600.0
"""How long a fault may last, so that none is forgotten, and how long it may hold a call up."""

_CLOCKS: Final = timedelta(minutes=1)
"""How far the clocks of whoever writes a fault and of whoever reads it may differ."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What happens to calls: an abort, a delay or both, or whatever the headers of each call ask for."""

    service: str
    """By which name it is called."""

    path: str = ""
    """`/<grpc.Service>/<Method>`; empty for every call of the service."""

    abort: Code | None = None
    delay_seconds: float | None = None
    percent: float = 100.0
    """Of the calls are aborted, and so many delayed, each by its own chance."""

    by_header: bool = False
    until: datetime
    """When it ends, in UTC."""

    @property
    def key(self) -> str:
        """Where it is kept."""
        return PREFIX + self.service + self.path

    @property
    def name(self) -> str:
        """What people call it: `order`, or `order/GetOrder`."""
        return f"{self.service}/{self.path.rpartition('/')[2]}" if self.path else self.service

    @property
    def text(self) -> str:
        """What happens, in words."""
        if self.by_header:
            return "aborted or delayed by header"
        share = "" if self.percent == 100 else f"{plain(self.percent)} % "
        delay = f"{share}delayed by {_seconds(self.delay_seconds)}" if self.delay_seconds else ""
        abort = f"{share}aborted with {self.abort.name}" if self.abort else ""
        return ", ".join(filter(None, (delay, abort)))

    def serialize(self) -> bytes:
        """Its value in the registry."""
        said: dict[str, Any] = {"until": self.until.isoformat().replace("+00:00", "Z")}
        if self.by_header:
            return json.dumps({"byHeader": True, **said}).encode()
        if self.abort:
            said["abort"] = self.abort.name
        if self.delay_seconds:
            said["delay"] = f"{self.delay_seconds:.9f}".rstrip("0").rstrip(".") + "s"
        return json.dumps({"percent": self.percent, **said}).encode()


def parse(name: str, value: bytes, now: datetime) -> Fault:
    """The fault at a key, its prefix aside. InvalidConfig, with the path of every fault of the text, for a bad one.

    One that has ended is none of these. One that would end too late is.
    """
    faults: list[str] = []
    service, slash, method = name.partition("/")
    if not service or (slash and not all(method.partition("/"))) or method.count("/") > 1:
        faults.append("the key names neither a service nor <service>/<grpc.Service>/<Method>")
    made = _parse(value, service, slash + method, now, faults)
    refuse(faults)
    return made


def _parse(value: bytes, service: str, path: str, now: datetime, faults: list[str]) -> Fault:
    given = Fields.read(value, faults, "abort delay percent byHeader until")
    if given is None:
        return Fault(service=service, until=now)
    made = Fault(
        service=service,
        path=path,
        abort=_abort(given),
        delay_seconds=_delay(given),
        percent=given.number("percent", 100, least=0.0001, most=100),
        by_header=given.flag("byHeader"),
        until=_until(given, now),
    )
    if made.by_header and any(map(given.has, ("abort", "delay", "percent"))):
        given.fault("byHeader", "the headers say what happens: no abort, delay or percent beside it")
    elif not (made.by_header or given.has("abort") or given.has("delay")):
        faults.append("one of abort, delay and byHeader is missing")
    return made


def _abort(given: Fields) -> Code | None:
    name = given.text("abort")
    found = Code.__members__.get(name)
    if given.has("abort") and not found:
        given.fault("abort", f"{name!r} is not one of {CODES}")
    return found or None


CODES: Final = ", ".join(code.name for code in Code if code)
"""What a call may be aborted with."""


def _delay(given: Fields) -> float | None:
    seconds = given.duration("delay")
    if seconds and seconds > LONGEST_SECONDS:
        given.fault("delay", f"{plain(seconds)} s is more than {plain(LONGEST_SECONDS)} s")
    return seconds


def _until(given: Fields, now: datetime) -> datetime:
    text = given.text("until")
    try:
        found: datetime | None = datetime.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        given.fault("until", f'{text!r} is not a time such as "2030-01-31T12:00:00Z"')
        return now
    if found > now + timedelta(seconds=LONGEST_SECONDS) + _CLOCKS:
        given.fault("until", f"{text} is more than {plain(LONGEST_SECONDS)} s away")
        return now
    return found.astimezone(UTC)


def fault_on(match: Match, faults: Iterable[Fault]) -> Fault | None:
    """What happens on purpose to the calls that a route takes: their method's fault, else that of the service."""
    by_path = {fault.path: fault for fault in faults}
    return by_path.get(match.path) or by_path.get("")


def _seconds(seconds: float) -> str:
    return f"{plain(seconds)} s" if seconds >= 1 else f"{plain(seconds * 1000)} ms"
