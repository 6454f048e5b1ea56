"""Gathers what an explanation is made of: follows the service for the question, and asks the registry."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping

from mesh.catalog_watcher import CatalogWatcher
from mesh.errors import Code, Error
from mesh.explain import explain
from mesh.explain.intentions import EDGE, denied_failover, permissibility
from mesh.intentions_watcher import IntentionsWatcher
from mesh.methods import unknown_service
from mesh.policy import FAULTS, KINDS, NOTHING, not_in_force
from mesh.registry import MESH_TAG, Instance, Registry
from mesh.xds.proxyless import ProxylessSource
from mesh.xds.resources import Peer, Peers
from meshwright.sidecar.v1.explanation_pb2 import Explanation
from meshwright.sidecar.v1.sidecar_service_pb2 import ExplainServiceRequest

ANSWER_SECONDS = 6.0
"""How long the registry may take to tell of a service that nobody asked for before."""


async def explained(
    request: ExplainServiceRequest,
    registry: Registry,
    catalog: CatalogWatcher,
    source: ProxylessSource,
    intentions: IntentionsWatcher,
    address: str,
) -> Explanation:
    """The explanation that was asked for. NOT_FOUND for an unknown service or method; UNAVAILABLE when the registry
    has not told of the service in time. `address` is the registry's.
    """
    name, who = request.service, object()
    catalog.want(who, [name])
    try:
        peers = await _peers(name, catalog, source)
        if _is_unknown(peers[name], catalog):
            raise unknown_service(name, await _on_the_mesh(registry))
        observed, problems = await _observed(peers, registry)
        made = explain(name, request.method, peers, observed, [*problems, *_problems(peers, catalog, source)])
        if request.caller:
            methods = (f"/{made.method}",) if made.method else tuple(peers[name].policy.methods)
            known = await intentions.known()
            made.intentions.CopyFrom(permissibility(
                request.caller, name, methods or ("/",), known,
                peers[name].callable(observed[name]), secured=intentions.is_kept, registry=address,
                names=await _on_the_mesh(registry),
            ))  # fmt: skip
            if request.caller == EDGE and intentions.is_kept:
                made.notes.extend(denied_failover(name, peers, known))
        return made
    finally:
        catalog.want(who, ())


async def _peers(name: str, catalog: CatalogWatcher, source: ProxylessSource) -> Peers:
    """All services that the calls may meet, as soon as the registry has told of each."""
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            async for _ in catalog.changes():
                if (peers := source.peers(name)) is not None:
                    return peers
    except TimeoutError:
        pass
    message = f"the registry has not told the sidecar of {name}: `mesh check` says what is wrong with it"
    raise Error(Code.UNAVAILABLE, message, reason="REGISTRY_SILENT")


def _is_unknown(peer: Peer, catalog: CatalogWatcher) -> bool:
    service, entries = peer.service, catalog.current.entries.held
    is_configured = service.config != NOTHING or any((kind, service.name) in entries for kind in KINDS)
    return not (service.registered or service.instances or service.contract.services or is_configured)


def _problems(peers: Peers, catalog: CatalogWatcher, source: ProxylessSource) -> Iterator[str]:
    """What is published for these services and is not in force.

    What cannot be read is told alone: what holds in its place and contradicts the rest is published no more.
    """
    for place, text in catalog.problems.items():
        if place.removeprefix(FAULTS).partition("/")[0] in peers or place.rpartition("/")[2] in peers:
            yield not_in_force(place, text)
    for name in peers:
        for place, text in source.problems.get(name, ()):
            if place not in catalog.problems:
                yield not_in_force(place, text)


async def _on_the_mesh(registry: Registry) -> list[str]:
    try:
        return [name for name, tags in (await registry.services()).items() if MESH_TAG in tags]
    except Error:
        return []


async def _observed(peers: Peers, registry: Registry) -> tuple[Mapping[str, tuple[Instance, ...]], list[str]]:
    """The instances as the registry has them now; while it is away those that callers are told of, and that it is."""
    try:
        return {name: await registry.instances(name) for name in peers}, []
    except Error as error:
        known = {name: peer.service.instances for name, peer in peers.items()}
        return known, [f"instances are those that callers are told of, with the health of then: {error.message}"]
