"""What `mesh fault` is told and tells. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final

from mesh.commands import word
from mesh.errors import Code, InvalidConfig
from mesh.faults import DEFAULT_SECONDS, Wish
from mesh.policy import Fault
from mesh.policy.fault import CODES, LONGEST_SECONDS
from mesh.policy.reading import SHORTEST_SECONDS, go_seconds
from mesh.tables import table as columns

NOT_AGAIN: Final = (
    "Aborted calls are not sent again: gRPC clients inject faults above their retries, and so does the gateway."
)
"""What surprises people."""


def wish(target: str, options: Mapping[str, Any]) -> Wish:
    """What the options ask for; those that were not given are None. InvalidConfig, with every problem, for what cannot
    be.
    """
    problems: list[str] = []
    service, slash, method = target.partition("/")
    if not service or (slash and not method):
        problems.append("name what is to go wrong, as in: mesh fault order/GetOrder --abort UNAVAILABLE")
    made = Wish(
        service=service,
        method=method,
        abort=_abort(options["abort"], problems),
        delay_seconds=_duration(options["delay"], "--delay", problems) if options["delay"] is not None else None,
        percent=_percent(options["percent"], problems) if options["percent"] is not None else 100.0,
        by_header=options["by_header"],
        seconds=_duration(options["seconds"], "--for", problems) if options["seconds"] is not None else DEFAULT_SECONDS,
    )
    happens = [name for name in ("abort", "delay") if options[name] is not None]
    if made.by_header and (happens or options["percent"] is not None):
        problems.append("--by-header leaves it to the headers of each call: no --abort, --delay or --percent beside it")
    elif not (made.by_header or happens):
        problems.append("say what is to happen: --abort CODE, --delay TIME or --by-header; or --clear")
    if problems:
        raise InvalidConfig.of(problems)
    return made


def is_wish(options: Mapping[str, Any]) -> bool:
    """Whether any of the options was given, be it with an empty text."""
    return any(value is not None and value is not False for value in options.values())


def _abort(name: str | None, problems: list[str]) -> Code | None:
    if name is None:
        return None
    found = Code.__members__.get(name.upper())
    if not found:
        problems.append(f"--abort {_shown(name)} is not one of {CODES}")
    return found or None


def _duration(text: str, option: str, problems: list[str]) -> float:
    seconds = go_seconds(text)
    if not seconds or not SHORTEST_SECONDS <= seconds <= LONGEST_SECONDS:
        problems.append(f'{option} {_shown(text)} is not a time from 1ms to 1h, such as "200ms", "60s" or "1m30s"')
    return seconds or 0


def _percent(text: str, problems: list[str]) -> float:
    try:
        percent = float(text)
    except ValueError:
        percent = 0
    if not 0.0001 <= percent <= 100:
        problems.append(f"--percent {_shown(text)} is not a number above 0 and up to 100")
    return percent


def _shown(text: str) -> str:
    return text or '""'


def announced(fault: Fault, now: datetime) -> str:
    """What people are told of a fault that has begun."""
    left = f"{(fault.until - now).total_seconds():.0f} s"
    calls = f"calls of {fault.name}" if fault.path else f"every call of {fault.name}"
    lines = [f"{calls}: {fault.text}, until {_time(fault)} (in {left})"]
    lines.append("For gRPC clients on the mesh and at the gateway, within a second; it ends by itself.")
    if fault.by_header:
        lines.append("A call asks by x-envoy-fault-abort-grpc-request: 14, x-envoy-fault-delay-request: 200 (in ms).")
    if fault.abort or fault.by_header:
        lines.append(NOT_AGAIN)
    lines.append(f"To end it now: mesh fault {word(fault.service + fault.path)} --clear")
    return "\n".join(lines)


def ended(faults: Iterable[Fault], invalid: Iterable[str]) -> str:
    """What people are told of faults that they ended, and of keys that were removed as what was there was none."""
    over = [f"{fault.name}: no longer {fault.text}" for fault in faults]
    return "\n".join([*over, *(f"{key}: removed; it was not valid, and not in force" for key in invalid)])


def table(faults: Iterable[Fault], now: datetime) -> str:
    """The faults in force, for people."""
    rows = [("SERVICE", "METHOD", "FAULT", "UNTIL", "LEFT")]
    for fault in faults:
        left = f"{(fault.until - now).total_seconds():.0f} s"
        rows.append((fault.service, fault.path.removeprefix("/") or "*", fault.text, _time(fault), left))
    if len(rows) == 1:
        return "No fault is in force."
    return columns(rows)


def as_json(faults: Iterable[Fault]) -> str:
    """The faults in force, for programs."""
    return json.dumps([_row(fault) for fault in faults], indent=2)


def _row(fault: Fault) -> dict[str, Any]:
    return {
        "service": fault.service,
        "method": fault.path.removeprefix("/"),
        "abort": fault.abort.name if fault.abort else "",
        "delay_seconds": fault.delay_seconds or 0,
        "percent": fault.percent,
        "by_header": fault.by_header,
        "until": fault.until.isoformat(),
    }


def _time(fault: Fault) -> str:
    return f"{fault.until:%H:%M:%S} UTC"
