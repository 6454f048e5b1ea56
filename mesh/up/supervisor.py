"""Keeps the parts of a stack running: starts each when what it needs is ready, stops them in order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence

from mesh.recovery import Backoff, Failures, now
from mesh.scope import Scope, first_error
from mesh.up.unit import EARLY_DEATHS, READY_SECONDS, Part, Stage, Unit, failure

PATIENCE = Backoff(first_seconds=5.0, limit_seconds=10.0, jitter=0)
"""How long a start may be silent."""

_log = logging.getLogger(__name__)


class Supervisor:
    """All parts of a stack."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self.units = {part.name: Unit(part) for part in parts}

    async def run(self) -> None:
        """Keep all parts running until `stop`. Cancellation kills them."""
        async with asyncio.TaskGroup() as group:
            for unit in self.units.values():
                needs = [self.units[name] for name in unit.part.needs if name in self.units]
                group.create_task(unit.run(needs), name=unit.part.name)

    async def ready(self, waiting: Callable[[str], None] = _log.info) -> None:
        """Wait until every part was ready once; `waiting` is told now and then which ones that takes so long.

        Raises `Error` (FAILED_PRECONDITION) that names the first part that keeps dying or is late, and its log.
        """
        began = now()
        _log.info("starting %d processes", len(self.units))
        try:
            async with Scope() as scope:
                scope.start(self._tell(waiting))
                async with asyncio.timeout(READY_SECONDS), asyncio.TaskGroup() as group:
                    for unit in self.units.values():
                        group.create_task(_ready(unit, began))
        except TimeoutError:
            late = next(self._late())
            raise failure(late, late.outcome, late.log_start) from None
        except ExceptionGroup as failed:
            raise first_error(failed) from None

    async def stop(self) -> None:
        """Stop all parts, stage by stage; returns when all are gone."""
        for stage in sorted(Stage, reverse=True):
            async with asyncio.TaskGroup() as group:
                for unit in self.units.values():
                    if unit.part.stage is stage:
                        group.create_task(unit.stop())

    async def _tell(self, waiting: Callable[[str], None]) -> None:
        began, silences = now(), Failures()
        while True:
            await silences.wait(PATIENCE)
            names = ", ".join(map(_plight, self._late()))
            waiting(f"waiting for {names}, {now() - began:.0f} s so far; `mesh logs NAME` shows more")

    def _late(self) -> Iterator[Unit]:
        """Parts that keep the stack from being ready, but those that only wait for others."""
        for unit in self.units.values():
            needs = [self.units[name] for name in unit.part.needs if name in self.units]
            if not unit.was_ready.is_set() and all(need.was_ready.is_set() for need in needs):
                yield unit


def _plight(unit: Unit) -> str:
    why = unit.outcome or unit.waits_for
    return f"{unit.part.name} ({why})" if why else unit.part.name


async def _ready(unit: Unit, began: float) -> None:
    async with Scope() as scope:
        ready = scope.start(unit.was_ready.wait())
        doomed = scope.start(_dies_early(unit))
        await asyncio.wait((ready, doomed), return_when=asyncio.FIRST_COMPLETED)
    if not unit.was_ready.is_set():
        raise failure(unit, unit.outcome, unit.log_start)
    _log.info("%s is ready after %.2f s", unit.part.name, now() - began)


async def _dies_early(unit: Unit) -> None:
    async for deaths in unit.early_deaths.changes():
        if deaths >= EARLY_DEATHS:
            return
