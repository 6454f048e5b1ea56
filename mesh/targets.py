"""Files that tell a Prometheus without Consul discovery whom to ask: `file_sd_configs` of `.mesh/run/targets*.json`.

https://prometheus.io/docs/prometheus/latest/configuration/configuration/#file_sd_config
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from mesh.bootstrap import drop_stale, held, write
from mesh.recovery import sleep

LOOK_SECONDS = 1.0
"""How late Prometheus may be told of a program."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """One process that serves `/metrics`."""

    address: str
    """Host and port."""

    labels: Mapping[str, str]
    """`job` among them: the service, or the part of the mesh."""


def text(targets: Iterable[Target]) -> str:
    """The content of a file. Pure."""
    groups = [{"targets": [one.address], "labels": dict(one.labels)} for one in targets]
    return json.dumps(groups, indent=2) + "\n"


@contextmanager
def listed(run: Path, target: Target) -> Iterator[None]:
    """Have a file for one process of the mesh itself while the context is open; `keep` removes it for a killed one."""
    with held(run / f"targets-{target.labels['job']}-{os.getpid()}.json", text([target])):
        yield


def parts(run: Path) -> dict[str, str]:
    """Addresses of the mesh's own processes by what they are; of two that take turns, the later one's.

    A file that is none of `listed` is passed over.
    """
    found: dict[str, str] = {}
    for file in sorted(run.glob("targets-*.json"), key=_age):
        with suppress(OSError, ValueError, LookupError, TypeError):
            (one,) = json.loads(file.read_text("utf-8"))
            job, address = one["labels"]["job"], one["targets"][0]
            if address.rpartition(":")[2].isdecimal():
                found[job] = address
    return found


def _age(file: Path) -> float:
    with suppress(OSError):
        return file.stat().st_mtime
    return 0.0


async def keep(run: Path, programs: Callable[[], Iterable[Target]]) -> None:
    """Keep `targets.json` true to the programs on the mesh, and the folder free of dead processes, until cancelled."""
    file, told = run / "targets.json", ""
    while True:
        if (found := text(programs())) != told:
            write(file, found)
            told = found
        await asyncio.to_thread(_tidy, run)
        await sleep(LOOK_SECONDS)


def _tidy(run: Path) -> None:
    drop_stale(run.glob("targets-*.json"))
