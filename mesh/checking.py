"""`meshwright.check.v1.CheckService`: what a process of the mesh knows to be well or wrong."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any

import grpc

from mesh.catalog_watcher import CatalogWatcher
from mesh.errors import Error
from mesh.findings import bad
from mesh.findings.identity import plaintext_mesh, unproven
from mesh.findings.names import misnamed
from mesh.findings.policies import Published
from mesh.findings.registry import answering, clock, instances, silent
from mesh.findings.targets import deserted, unmatched
from mesh.intentions import Intentions
from mesh.recovery import time_of_day
from mesh.registry import MESH_TAG, Instance, Registry, RegistrySettings
from mesh.rules import Rules
from meshwright.check.v1 import check_service_pb2 as pb
from meshwright.check.v1.check_service_pb2 import Finding
from meshwright.check.v1.check_service_pb2_grpc import CheckServiceServicer, add_CheckServiceServicer_to_server

Look = Callable[[], AsyncIterator[Finding]]
"""Looks at everything once."""

_log = logging.getLogger(__name__)
_AT_ONCE = 8
"""How many services the registry is asked about at a time."""


def add_check(server: grpc.aio.Server, look: Look) -> None:
    """Register the service with a server that has not started."""
    add_CheckServiceServicer_to_server(_CheckServicer(look), server)


class _CheckServicer(CheckServiceServicer):
    def __init__(self, look: Look) -> None:
        self._look = look

    async def ListFindings(
        self, request: pb.ListFindingsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.ListFindingsResponse:
        """Look, and tell."""
        return pb.ListFindingsResponse(findings=[finding async for finding in self._look()])


def published(catalog: CatalogWatcher, settings: RegistrySettings) -> Published:
    """What the registry says of all services."""
    return Published(
        rules=catalog.rules, problems=catalog.problems, unread=catalog.unread, registry=settings.address
    )


async def of_registry(
    registry: Registry, settings: RegistrySettings, rules: Rules, intentions: Intentions | None, here: Iterable[str],
    *, secured: bool,
) -> AsyncIterator[Finding]:
    """The registry itself, the instances that it has and those that policies lack, names that it has not, its clock.

    `here` are the services of the programs on this host, also of those that wait to join. `secured`: whether
    those who call from here do so over TLS.
    """
    try:
        listed = await registry.services()
        names = [name for name, tags in listed.items() if MESH_TAG in tags]
        before = time_of_day()
        told = await registry.date()
        after = time_of_day()
        found = await _instances(names, registry)
    except Error as error:
        for finding in silent(settings.address, error):
            yield finding
        return
    yield answering(settings.address, names)
    yield clock(before, told, after)
    lost = misnamed(rules, intentions if secured else None, {*listed, *here}, settings.address)
    for finding in each(instances(found, settings.address), deserted(rules, found), lost):
        yield finding
    if secured:
        for finding in each(unmatched(rules, found), unproven(found, rules.permissive, settings.address)):
            yield finding
    else:
        yield plaintext_mesh()


def each(*parts: Iterable[Finding]) -> Iterator[Finding]:
    """All that several parts find. What nobody thought of in one, whoever wrote it, is a finding and hides no other."""
    for part in parts:
        try:
            yield from part
        except Exception as error:  # of our own code, for what it met
            what = getattr(part, "__name__", "a part")
            _log.exception("%s cannot be told", what)
            text = f"{what} cannot be told, as what it met is not understood ({type(error).__name__}: {error})"
            yield bad("registry", text, "mesh logs sidecar; mesh logs gateway  # one of them says where")


async def _instances(names: list[str], registry: Registry) -> dict[str, tuple[Instance, ...]]:
    turns = asyncio.Semaphore(_AT_ONCE)

    async def one(name: str) -> tuple[Instance, ...]:
        async with turns:
            return await registry.instances(name)

    return dict(zip(names, await asyncio.gather(*map(one, names)), strict=True))
