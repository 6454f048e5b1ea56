"""What `mesh tap` prints: a line for each call. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from mesh.policy.reading import go_seconds
from mesh.top import duration, inert, short

_RED = "\x1b[31m"
_PLAIN = "\x1b[0m"
_WIDTHS = (12, 10, 24, 18, 18, 8, 5, 32)
_HEADER = ("TIME", "CALLER", "METHOD", "INSTANCE", "STATUS", "DURATION", "TRIES", "TRACE")
_RIGHT = ("DURATION", "TRIES")


def question(target: tuple[str, str], *, errors: bool, min_duration: str | None) -> tuple[dict[str, str], list[str]]:
    """What to ask the console, and what is wrong with that."""
    service, method = target
    asked = {"topic": "tap", "service": service, "method": method, "error": "true" if errors else ""}
    problems = []
    if min_duration is not None:
        seconds = go_seconds(min_duration)
        if seconds is None:
            problems.append(f'--min-duration must be a time such as "200ms", got {min_duration[:80]!r}')
        asked["minDuration"] = f"{(seconds or 0) * 1000:.3f}ms"
    return {name: value for name, value in asked.items() if value}, problems


def header() -> str:
    """Above the lines."""
    return _line(_HEADER)


def line(call: Mapping[str, Any], *, colour: bool = False) -> str:
    """One call of the console's topic `tap`."""
    at = datetime.fromtimestamp(call["at"] / 1000).astimezone()
    time, method = f"{at:%H:%M:%S}.{at.microsecond // 1000:03}", f"{call['service']}/{short(call['method'])}"
    text = _line((
        time, call["caller"] or "-", method, call["instance"] or "-", call["status"], duration(call["duration"]),
        str(call["attempts"]), call["trace_id"],
    ))  # fmt: skip
    return f"{_RED}{text}{_PLAIN}" if colour and call["failed"] else text


def _line(cells: tuple[str, ...]) -> str:
    padded = (
        cell.rjust(width) if name in _RIGHT else cell.ljust(width)
        for name, cell, width in zip(_HEADER, map(inert, cells), _WIDTHS, strict=True)
    )
    return "  ".join(padded).rstrip()
