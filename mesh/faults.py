"""What `mesh fault` does: lists, sets and ends faults in the registry, for whoever follows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from mesh import contract as contracts
from mesh.contract import Contract
from mesh.errors import Code, Error, InvalidConfig
from mesh.methods import find, unknown_service
from mesh.policy import FAULTS, Fault, parse_fault
from mesh.recovery import time_of_day
from mesh.registry import MESH_TAG, Registry

DEFAULT_SECONDS: Final = 60.0


@dataclass(frozen=True, kw_only=True)
class Wish:
    """A fault as it was asked for on the command line, not yet held against what the registry knows."""

    service: str
    method: str = ""
    """As it was given: `GetOrder`, or `<grpc.Service>/GetOrder`; empty for the whole service."""

    abort: Code | None = None
    delay_seconds: float | None = None
    percent: float = 100.0
    by_header: bool = False
    seconds: float = DEFAULT_SECONDS

    def at(self, path: str, now: datetime) -> Fault:
        """The fault on a path from now on."""
        return Fault(
            service=self.service, path=path, abort=self.abort, delay_seconds=self.delay_seconds, percent=self.percent,
            by_header=self.by_header, until=now + timedelta(seconds=self.seconds),
        )  # fmt: skip


async def held(registry: Registry, target: str = "") -> tuple[tuple[Fault, ...], Mapping[str, str]]:
    """The faults in force on a target, sorted by key, and why others are not; those that have ended are deleted.

    A target is a service, or one of its methods, given with its gRPC service or without; an empty one is everything.
    """
    found, problems, now = list[Fault](), dict[str, str](), time_of_day()
    for key, value in sorted((await registry.values(FAULTS)).items()):
        name = key.removeprefix(FAULTS)
        try:
            fault = parse_fault(name, value, now)
        except InvalidConfig as error:
            if target.partition("/")[0] in ("", name.partition("/")[0]):
                problems[key] = error.message
            continue
        if fault.until <= now:
            await registry.delete(key)
        elif _meant(name, target):
            found.append(fault)
    return tuple(found), problems


def _meant(name: str, target: str) -> bool:
    """Whether a target covers what is at a key, given without its prefix."""
    service, _, path = name.partition("/")
    asked, _, method = target.partition("/")
    return not asked or (service == asked and (not method or f"/{path}".endswith((f"/{method}", f".{method}"))))


async def inject(registry: Registry, asked: Wish) -> Fault:
    """Put a fault in force, in place of the one at the same place. NOT_FOUND for a service or method that is not there.

    INVALID_ARGUMENT for a method that several gRPC services of the service have, and for a service without gRPC.
    """
    contract = await _contract(registry, asked.service)
    await held(registry)
    path = find(asked.service, asked.method, contract.methods) if asked.method else ""
    fault = asked.at(path, time_of_day())
    await registry.put(fault.key, fault.serialize())
    return fault


async def _contract(registry: Registry, service: str) -> Contract:
    """What a service on the mesh has published; an empty one when that is nothing."""
    names = [name for name, tags in (await registry.services()).items() if MESH_TAG in tags]
    if service not in names:
        raise unknown_service(service, names)
    if any(i.meta.get("protocol") == "http" for i in await registry.instances(service)):
        raise Error(Code.INVALID_ARGUMENT, f"{service} speaks plain HTTP: faults are for gRPC", reason="NO_GRPC")
    value = await registry.get(contracts.PREFIX + service)
    return Contract.parse(value) if value else Contract()


async def clear(registry: Registry, target: str) -> tuple[tuple[Fault, ...], tuple[str, ...]]:
    """End the faults on a target: those that were ended, and the keys of what was no fault and is removed with them.

    NOT_FOUND when there is neither.
    """
    found, problems = await held(registry, target)
    invalid = tuple(key for key in problems if _meant(key.removeprefix(FAULTS), target))
    if not (found or invalid):
        raise Error(Code.NOT_FOUND, f"no fault is in force{target and f' on {target}'}", reason="FAULT_NOT_FOUND")
    for key in (*(fault.key for fault in found), *invalid):
        await registry.delete(key)
    return found, invalid
