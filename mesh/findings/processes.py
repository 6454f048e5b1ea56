"""The processes of one host: whether each goes on. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from mesh.commands import word
from mesh.findings import bad, count, good
from meshwright.check.v1.check_service_pb2 import Finding


@dataclass(frozen=True, kw_only=True)
class Process:
    """One that runs."""

    name: str
    pid: int
    is_stopped: bool = False
    """By a signal or a debugger."""

    held_up: str = ""
    """For how long its event loop is held up, and by what; empty while it goes on."""

    is_ours: bool = True
    """Whether `mesh stack` takes its name for this one: several programs beside a stack may share theirs."""


def processes(found: Iterable[Process]) -> Iterator[Finding]:
    """What goes on, and what does not."""
    every = tuple(found)
    hung = [one for one in every if one.is_stopped or one.held_up]
    if len(every) > len(hung):
        yield good("processes", f"{count(len(every) - len(hung), 'process', 'processes')}, neither stopped nor held up")
    for one in hung:
        yield _hung(one)


def _hung(one: Process) -> Finding:
    who = f"{one.name} (pid {one.pid})"
    if one.is_stopped:
        return bad("processes", f"{who} is stopped by a signal", f"kill -CONT {one.pid}")
    named = one.name if one.is_ours else str(one.pid)
    return bad("processes", f"{who} is {one.held_up}", f"mesh stack {word(named)}  # what it is doing")
