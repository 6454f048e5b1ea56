"""What `mesh top` prints. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from mesh.tables import table

_HEADER = ("CALLS", "ERRORS", "P50", "P90", "P99")
_RED = "\x1b[31m"
_PLAIN = "\x1b[0m"
_FAILING = 0.01


def screen(state: Mapping[str, Any], *, colour: bool = False) -> list[str]:
    """Lines: methods and edges of the last minute, the busiest first; `state` is the console's topic `top`."""
    at = datetime.fromtimestamp(state["at"] / 1000).astimezone()
    methods = [(f"{row['service']}/{short(row['method'])}", row) for row in state["methods"]]
    edges = [(f"{row['from']} > {row['to']}", row) for row in state["edges"]]
    head = f"{at:%H:%M:%S}  calls of the last {state['window_seconds']} s"
    if not (methods or edges):
        return [head, "", "No calls."]
    return [head, "", *_rows("METHOD", methods, colour), "", *_rows("CALLER > CALLEE", edges, colour)]


def fitted(lines: Sequence[str], width: int, height: int) -> list[str]:
    """As much of it as a terminal has room for; the last line tells that there is more."""
    cut = [_cut(line, width) for line in lines[:height]]
    return [*cut[:-1], f"... {len(lines) - height + 1} more lines"] if len(lines) > height else cut


def short(method: str) -> str:
    """The last part of a full name of a method; anything else as it is."""
    service, slash, name = method.rpartition("/")
    return name if slash and "." in service and " " not in method else method


def inert(text: str) -> str:
    """What a span says can move no cursor."""
    return "".join(one if one.isprintable() else "?" for one in text)


def rate(per_second: float) -> str:
    """Calls in a second, or in a minute when they are few."""
    return f"{_three(per_second)}/s" if per_second >= 0.1 or not per_second else f"{_three(per_second * 60)}/min"


def share(value: float) -> str:
    """A part of 1 as a percentage."""
    return f"{_three(value * 100)} %"


def duration(milliseconds: float | None) -> str:
    """A duration for people."""
    if milliseconds is None:
        return "-"
    if milliseconds < 1:
        return f"{round(milliseconds * 1000)} us"
    return f"{_three(milliseconds)} ms" if milliseconds < 1000 else f"{_three(milliseconds / 1000)} s"


def _three(value: float) -> str:
    """Three digits that count."""
    digits = 0 if value >= 99.95 else 1 if value >= 9.995 else 2
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".") if digits else text


def _rows(title: str, named: Iterable[tuple[str, Mapping[str, Any]]], colour: bool) -> list[str]:
    found = list(named)
    figures = [_HEADER, *((rate(r["rate"]), share(r["error_rate"]), *map(duration, _quantiles(r))) for _, r in found)]
    widths = [max(map(len, column)) for column in zip(*figures, strict=True)]
    right = [[cell.rjust(width) for cell, width in zip(row, widths, strict=True)] for row in figures]
    names = [title, *(inert(name) for name, _ in found)]
    head, *lines = table([(name, *row) for name, row in zip(names, right, strict=True)]).splitlines()
    failing = [colour and row["error_rate"] >= _FAILING for _, row in found]
    return [head, *(f"{_RED}{line}{_PLAIN}" if bad else line for line, bad in zip(lines, failing, strict=True))]


def _quantiles(row: Mapping[str, Any]) -> tuple[float | None, ...]:
    return row["p50"], row["p90"], row["p99"]


def _cut(line: str, width: int) -> str:
    if not line.startswith(_RED):
        return line[:width]
    return _RED + line.removeprefix(_RED).removesuffix(_PLAIN)[:width] + _PLAIN
