"""The control process of the edge: tells Envoy by ADS what to do, and answers reflection for the whole mesh.

It carries no call, and Envoy goes on without it. It is not Envoy's parent.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
from envoy.service.discovery.v3.ads_pb2_grpc import add_AggregatedDiscoveryServiceServicer_to_server

from gateway import denials, ending, reach
from gateway.pages import serve_pages
from gateway.security import EDGE, secrets
from gateway.settings import EdgeSettings
from gateway.source import EdgeSource
from mesh.bootstrap import write
from mesh.catalog import Catalog
from mesh.catalog_file import keep, load
from mesh.catalog_watcher import CatalogWatcher
from mesh.checking import add_check, each, published
from mesh.findings import bad, good
from mesh.findings.clients import subscriptions
from mesh.findings.policies import contracts, edge_objections, policies
from mesh.identity import Identities
from mesh.intentions import Intentions
from mesh.intentions_watcher import IntentionsWatcher
from mesh.latest import Latest
from mesh.policy_in_force import PoliciesInForce
from mesh.reflection import add_reflection
from mesh.registry import MESH_TAG, RegistrySettings, connect
from mesh.scope import Scope
from mesh.sockets import taking_over
from mesh.xds.listing import ListingServicer
from mesh.xds.resources import unproven
from mesh.xds.server import AdsServicer
from meshwright.sidecar.v1.sidecar_service_pb2_grpc import add_SidecarServiceServicer_to_server

if TYPE_CHECKING:
    from mesh.checking import Look
    from mesh.registry import Registry
    from meshwright.check.v1.check_service_pb2 import Finding

DRAIN_SECONDS = 2.0
"""How long calls to the reflection service may go on when this process is to end."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ControlSettings:
    """Where the control process listens and whom it asks."""

    ads_socket: Path
    """Unix socket for Envoy, at most 107 bytes."""

    catalog: Path
    """Where to keep a copy of the catalog: what was published since may be invalid when this process starts again."""

    edge: EdgeSettings
    registry: RegistrySettings
    identities: Path | None = None
    """Where to keep the certificate of the edge; None for plaintext."""

    @property
    def intentions(self) -> Path:
        """Where to keep a copy of the intentions."""
        return self.catalog.with_name(f"intentions-{self.catalog.name}")

    admin_socket: Path | None = None
    """Where Envoy says how it fares with its upstreams; None where nobody is to ask it."""


@asynccontextmanager
async def control(settings: ControlSettings) -> AsyncIterator[EdgeSource]:
    """Serves for as long as the context is open.

    An unreachable registry is waited for, never an error. The sockets are taken, from a process before this one if
    there is one, when there is a whole catalog, and intentions unless they do not come soon: until then an Envoy that
    runs already keeps what it has.
    """
    last_known = load(settings.catalog)
    in_force = PoliciesInForce(last_known.said)
    async with (
        connect(settings.registry) as registry,
        CatalogWatcher(registry, last_known=last_known.catalog) as catalog,
        Scope() as scope,
    ):
        known_as = Identities(registry, settings.identities, scope, EDGE) if settings.identities else None
        source = EdgeSource(settings.edge, policies=in_force, spiffe_id=known_as.spiffe_id if known_as else unproven)
        scope.start(keep(settings.catalog, catalog, last_known.catalog, in_force), name="copy of the catalog")
        intentions = IntentionsWatcher(registry, settings.intentions)
        if known_as:
            scope.start(catalog.renew_with(known_as.datacenter), name="authority")
            intentions.start(scope)
            scope.start(_keep_to(intentions, source), name="intentions of the edge")
            if settings.admin_socket:
                scope.start(denials.tell(settings.admin_socket, lambda: source.denies), name="denials")
        scope.start(_follow(registry, catalog, source, known_as, intentions), name="catalog")
        scope.start(_serve(settings, source, catalog), name="sockets")
        yield source


async def _follow(
    registry: Registry,
    catalog: CatalogWatcher,
    source: EdgeSource,
    identities: Identities | None,
    intentions: IntentionsWatcher,
) -> None:
    """As `follow`, once Envoy can prove itself, and it is known what it may call: until then all would be denied."""
    if identities:
        await identities.ready(EDGE)
        _lead_to(identities.folder(EDGE))
        if known := await intentions.ready():
            source.intend(known)
    await follow(registry, catalog, source)


def _lead_to(folder: Path) -> None:
    """Write the files that lead Envoy to the identity of the edge; the same is left, as Envoy would read it again."""
    for name, text in secrets(folder).items():
        path = folder / name
        if not path.exists() or path.read_text() != text:
            write(path, text)


async def _keep_to(intentions: IntentionsWatcher, source: EdgeSource) -> None:
    async for current in intentions.current.changes():
        if current:
            source.intend(current)


async def follow(registry: Registry, catalog: CatalogWatcher, source: EdgeSource) -> None:
    """Keep the source in step with every service on the mesh, until cancelled.

    It starts with a whole catalog: after a restart of this process, a part would take the rest from Envoy.
    """
    following = _Following(catalog, source)
    async with Scope() as scope:
        scope.start(following.changes(), name="changes")
        async for services in registry.watch_services():
            following.expect(_on_the_mesh(services))


class _Following:
    """What the registry lists, beside what is known of it."""

    def __init__(self, catalog: CatalogWatcher, source: EdgeSource) -> None:
        self._catalog = catalog
        self._source = source
        self._expected: frozenset[str] | None = None

    def expect(self, names: frozenset[str]) -> None:
        """The registry lists these services."""
        self._expected = names
        self._catalog.want(self, names)
        self._step(self._catalog.current)

    async def changes(self) -> None:
        """Pass on every change of the catalog."""
        async for current in self._catalog.changes():
            self._step(current)

    def _step(self, current: Catalog) -> None:
        if self._expected is not None and complete(current, self._reach()):
            self._source.update(current)

    def _reach(self) -> frozenset[str]:
        """What is listed, and where config entries lead to from there."""
        return frozenset[str]().union(*map(self._catalog.reach, self._expected or ()))


def complete(catalog: Catalog, expected: Iterable[str] | None) -> bool:
    """Whether the registry has been heard, and each service that it lists has been answered."""
    return expected is not None and catalog.services.keys() >= set(expected)


def _on_the_mesh(services: Mapping[str, tuple[str, ...]]) -> frozenset[str]:
    return frozenset(name for name, tags in services.items() if MESH_TAG in tags)


async def _serve(settings: ControlSettings, source: EdgeSource, catalog: CatalogWatcher) -> None:
    """Serve as soon as there is something to serve, until cancelled. ADS is last, as it shows that all is there."""
    async for snapshot in source.changes():
        if snapshot.resources:
            break
    edge, ads = settings.edge, AdsServicer(source)
    look = partial(_look, settings, source, catalog, ads)
    async with (
        _reflection_server(edge.reflection_socket, source, look, ads),
        serve_pages(edge.http_socket, lambda: source.described),
        _ads_server(settings.ads_socket, ads),
    ):
        _log.info("serving Envoy on %s", settings.ads_socket)
        await asyncio.Event().wait()


async def _look(
    settings: ControlSettings, source: EdgeSource, catalog: CatalogWatcher, ads: AdsServicer
) -> AsyncIterator[Finding]:
    """What this process can see: whether Envoy is there and takes what it is sent, and what it is not sent, and why."""
    if ads.streams:
        yield good("gateway", "its control process answers, and Envoy is connected to it")
    else:
        yield bad("gateway", "Envoy is not connected to its control process", "mesh restart envoy")
    for one in await asyncio.to_thread(reach.ask, settings.admin_socket) if settings.admin_socket else ():
        yield one.finding()
    seen = published(catalog, settings.registry)
    refused = subscriptions(ads.streams, "gateway")
    for finding in each(refused, policies(seen), contracts(seen), edge_objections(source.objections)):
        yield finding


@asynccontextmanager
async def _ads_server(socket: Path, ads: AdsServicer) -> AsyncIterator[None]:
    server = grpc.aio.server()
    add_AggregatedDiscoveryServiceServicer_to_server(ads, server)
    listing = ListingServicer(ads)  # type: ignore[abstract] # what it lacks is answered with UNIMPLEMENTED
    add_SidecarServiceServicer_to_server(listing, server)
    async with _listening(server, socket, drain_seconds=None):
        yield


@asynccontextmanager
async def _reflection_server(socket: Path, source: EdgeSource, look: Look, ads: AdsServicer) -> AsyncIterator[None]:
    """Reflection, for everybody by way of Envoy; and for those on this host what is well here, and what is not."""
    server = grpc.aio.server()
    add_reflection(server, source.reflected)
    add_check(server, look)
    kept: Latest[Intentions | None] = Latest(None)
    ending.add_ending(server, kept)
    async with Scope() as scope, _listening(server, socket, drain_seconds=DRAIN_SECONDS):
        scope.start(ending.follow(source.intended, ads, kept), name="intentions that Envoy keeps to")
        yield


@asynccontextmanager
async def _listening(server: grpc.aio.Server, socket: Path, *, drain_seconds: float | None) -> AsyncIterator[None]:
    with taking_over(socket) as draft:
        server.add_insecure_port(f"unix:{draft}")
        await server.start()
    try:
        yield
    finally:
        await server.stop(drain_seconds)
