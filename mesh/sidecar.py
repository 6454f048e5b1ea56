"""The sidecar: puts local processes on the mesh, and tells local clients where the others are.

One for each host or pod. It serves `envoy.service.discovery.v3` (xDS) and `meshwright.sidecar.v1` on a Unix
socket that only its user can reach. Losing it breaks no call: clients keep what they were told.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
from envoy.service.discovery.v3.ads_pb2_grpc import add_AggregatedDiscoveryServiceServicer_to_server

from mesh import intentions_watcher, intentions_wire, targets
from mesh.announced import announce
from mesh.bootstrap import bootstrap, write
from mesh.calls import abort
from mesh.catalog_file import LastKnown, keep, load
from mesh.catalog_watcher import CatalogWatcher
from mesh.checking import add_check, each, of_registry, published
from mesh.errors import Code, Error
from mesh.explaining import explained
from mesh.findings.clients import TOLD, programs, subscriptions
from mesh.findings.identity import identities
from mesh.findings.intentions import intentions
from mesh.findings.policies import contracts, policies
from mesh.identity import OWN, Identities, Proof
from mesh.identity_files import folder_of
from mesh.latest import Latest
from mesh.lock_file import claimed
from mesh.metrics_page import ANY, NOWHERE, Place, listed
from mesh.paths import Paths
from mesh.policy import MethodPolicy, Policy
from mesh.policy_in_force import PoliciesInForce
from mesh.recovery import time_of_day
from mesh.registry import Registry, RegistrySettings, connect
from mesh.scope import Scope, first_error
from mesh.signals import stopping
from mesh.targets import Target
from mesh.workload import Attachment, Workload
from mesh.xds.listing import ListingServicer
from mesh.xds.proxyless import ProxylessSource
from mesh.xds.resources import unproven
from mesh.xds.server import AdsServicer
from meshwright.check.v1.check_service_pb2 import Finding
from meshwright.sidecar.v1 import sidecar_service_pb2 as pb
from meshwright.sidecar.v1.explanation_pb2 import Explanation
from meshwright.sidecar.v1.sidecar_service_pb2_grpc import add_SidecarServiceServicer_to_server

_log = logging.getLogger(__name__)

CLAIM_SECONDS = 5.0
"""How long to wait for another sidecar on the same socket to end: a `mesh run` that was one gives way."""

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, kw_only=True)
class SidecarSettings:
    """Where a sidecar listens and whom it asks."""

    socket: Path
    """Unix socket, at most 107 bytes."""

    bootstrap: Path
    """Where to write the bootstrap file for clients on this host."""

    registry: RegistrySettings
    catalog: Path | None = None
    """Where to keep a copy of the catalog; None for nowhere."""

    zone: str = ""
    """Zone of the clients on this host."""

    identities: Path | None = None
    """Where to keep certificates and keys of the services on this host; None for none: then nobody speaks TLS."""

    metrics: Place = NOWHERE
    """Where to serve its own metrics."""

    @property
    def intentions(self) -> Path | None:
        """Where to keep a copy of the intentions."""
        return self.catalog and self.catalog.with_name("intentions.json")

    @property
    def lock(self) -> Path:
        """Held by whoever serves on the socket."""
        return self.socket.with_name("sidecar.lock")

    @classmethod
    def at(
        cls, paths: Paths, registry: RegistrySettings, zone: str = "", metrics: Place = ANY,
        *, plaintext: bool = True,
    ) -> Self:
        """The sidecar of a stack."""
        return cls(
            socket=paths.sidecar_socket, bootstrap=paths.bootstrap, catalog=paths.catalog, registry=registry, zone=zone,
            metrics=metrics, identities=None if plaintext else paths.identities,
        )  # fmt: skip


class Sidecar:
    """Runs for as long as its context is open."""

    def __init__(self, settings: SidecarSettings) -> None:
        self._settings = settings
        self._closing = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            self._write_bootstrap()
            registry = await stack.enter_async_context(connect(self._settings.registry))
            last_known = load(self._settings.catalog) if self._settings.catalog else LastKnown()
            known = last_known.catalog
            catalog = await stack.enter_async_context(CatalogWatcher(registry, last_known=known))
            in_force = PoliciesInForce(last_known.said)
            scope = await stack.enter_async_context(Scope())
            if self._settings.catalog:
                scope.start(keep(self._settings.catalog, catalog, known, in_force))
            server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
            intended = intentions_watcher.IntentionsWatcher(registry, self._settings.intentions)
            if self._settings.identities:
                intended.start(scope)
            known_as = await self._identities(registry, scope)
            if known_as:
                scope.start(catalog.renew_with(known_as.datacenter), name="authority")
            source = ProxylessSource(catalog, in_force, known_as.spiffe_id if known_as else unproven)
            ads = AdsServicer(source)
            servicer = SidecarServicer(
                registry, self._settings.registry, catalog, source, ads, scope, known_as, intended
            )
            add_check(server, servicer.look)
            add_AggregatedDiscoveryServiceServicer_to_server(ads, server)
            add_SidecarServiceServicer_to_server(servicer, server)
            self._settings.socket.unlink(missing_ok=True)
            server.add_insecure_port(f"unix:{self._settings.socket}")
            self._settings.socket.chmod(0o600)
            await server.start()
            stack.push_async_callback(server.stop, None)
            stack.callback(servicer.close)
            run = self._settings.socket.parent
            stack.enter_context(listed(run, "sidecar", self._settings.metrics))
            scope.start(targets.keep(run, servicer.targets), name="targets of Prometheus")
            scope.start(announce(run, registry), name="own processes in the registry")
            self._closing = stack.pop_all()
        return self

    def _write_bootstrap(self) -> None:
        settings = self._settings
        own = folder_of(settings.identities, OWN) if settings.identities else None
        text = bootstrap(settings.socket, node_id=socket.gethostname(), zone=settings.zone, identity=own)
        write(settings.bootstrap, text)

    async def _identities(self, registry: Registry, scope: Scope) -> Identities | None:
        """Certificates for this host, once its own is there; None where nobody speaks TLS."""
        if self._settings.identities is None:
            return None
        made = Identities(registry, self._settings.identities, scope)
        await made.ready(OWN)
        return made

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._closing.__aexit__(kind, error, trace)


class SidecarServicer(ListingServicer):
    """`meshwright.sidecar.v1.SidecarService`."""

    def __init__(
        self,
        registry: Registry,
        settings: RegistrySettings,
        catalog: CatalogWatcher,
        source: ProxylessSource,
        ads: AdsServicer,
        scope: Scope,
        identities: Identities | None,
        intended: intentions_watcher.IntentionsWatcher,
    ) -> None:
        super().__init__(ads)
        self._identities, self._intentions = identities, intended
        self._registry, self._catalog, self._source, self._scope = registry, catalog, source, scope
        self._settings = settings
        self._attached: dict[str, Attachment] = {}
        self._closed = False

    def close(self) -> None:
        """From now on a stream that ends means that the sidecar stops, not that its workload exited."""
        self._closed = True

    def targets(self) -> list[Target]:
        """Where the attached programs serve metrics."""
        return [found for attached in self._attached.values() if (found := attached.target)]

    async def look(self) -> AsyncIterator[Finding]:
        """Everything that a sidecar can see of the mesh: what is well, and what is not."""
        seen, known = published(self._catalog, self._settings), await self._intentions.known()
        names = {attached.service for attached in self._attached.values()}
        async for finding in of_registry(
            self._registry, self._settings, seen.rules, known, names, secured=bool(self._identities)
        ):
            yield finding
        places = ((a.id, a.address, *a.state.value) for a in self._attached.values())
        ends = self._identities.ends() if self._identities else {}
        for finding in each(
            identities(ends, time_of_day()),
            intentions(known, self._intentions.problem, self._settings.address, secured=self._intentions.is_kept),
            programs(places), subscriptions(self._ads.streams, "sidecar"),
            policies(seen), contracts(seen),
        ):
            yield finding

    async def Attach(  # type: ignore[override] # a coroutine that writes, which grpc.aio takes as well
        self, request_iterator: AsyncIterator[pb.AttachRequest], context: Context
    ) -> None:
        """Keep one workload on the mesh for as long as its stream is open."""
        try:
            workload = Workload.of((await anext(request_iterator)).workload)
            proof = self._proof(workload)
            remark = partial(self._remark, workload)
            attachment = Attachment(workload, self._registry, self._catalog.published, proof, remark)
            await self._keep(attachment, request_iterator, context)
        except Error as error:
            await abort(context, error)

    def _proof(self, workload: Workload) -> Latest[Proof | None] | None:
        """What to reach it with; None for one that takes whoever comes. Raises Error where it cannot be had."""
        if not workload.is_secured:
            return None
        if self._identities is None:
            message = (
                "this program demands mutual TLS, and its sidecar runs in plaintext: start the program with --plaintext"
                " too, or the sidecar without"
            )
            raise Error(Code.FAILED_PRECONDITION, message, reason="NO_IDENTITY")
        service = workload.registration.service
        self._identities.want(service)
        return self._identities.proof(service)

    def _remark(self, workload: Workload, serves: bool) -> str:
        """What is to be said of a program that speaks no TLS where others do, or cannot know who may call it."""
        service = workload.registration.service
        if not serves:
            known = not workload.is_secured or self._intentions.current.value
            return "" if known else f"intentions were never read, so nobody may call {service}: `mesh check` says more"
        if workload.is_secured or not self._identities or self._catalog.rules.permissive(service):
            return ""
        return f"it speaks no TLS, and {service} is not permissive, so nobody calls it: {TOLD}"

    async def _keep(
        self, attachment: Attachment, requests: AsyncIterator[pb.AttachRequest], context: Context
    ) -> None:
        self._attached[attachment.id] = attachment
        reason, leaving = "exited", None
        try:
            reason = await self._follow(attachment, requests, context)
        except ExceptionGroup as group:
            raise first_error(group) from group
        finally:
            if not self._closed:
                leaving = self._scope.start(self._take_out(attachment, reason))
        if leaving:
            await asyncio.shield(leaving)
            await context.write(pb.AttachResponse(state=pb.AttachResponse.STATE_LEFT, reason=reason))

    async def _follow(
        self, attachment: Attachment, requests: AsyncIterator[pb.AttachRequest], context: Context
    ) -> str:
        """Tell the states of a workload until it is to be taken out; the reason for that."""
        async with Scope() as scope:
            scope.start(attachment.keep())
            scope.start(_tell(attachment, context))
            async for request in requests:
                if request.HasField("leave"):
                    return request.leave.reason or "leaving"
        return "exited"

    async def _take_out(self, attachment: Attachment, reason: str) -> None:
        """Take a workload out, unless it attached again meanwhile. Goes on when its stream is gone."""

        def is_newest() -> bool:
            return self._attached.get(attachment.id) is attachment

        await attachment.take_out(reason, is_newest)
        if is_newest():
            del self._attached[attachment.id]

    async def WatchPolicy(
        self, request: pb.WatchPolicyRequest, context: Context
    ) -> AsyncIterator[pb.WatchPolicyResponse]:
        """Stream the policy of one service, as soon as the registry has told of it."""
        who, told = object(), None
        self._catalog.want(who, [request.service])
        try:
            async for catalog in self._catalog.changes():
                service = catalog.services.get(request.service)
                policy = service and self._source.policy(service)
                if policy and policy != told:
                    told = policy
                    yield _policy_message(policy)
        finally:
            self._catalog.want(who, ())

    async def WatchIntentions(
        self, request: pb.WatchIntentionsRequest, context: Context
    ) -> AsyncIterator[pb.WatchIntentionsResponse]:
        """Stream who may call one service, as soon as the registry has ever told."""
        if self._identities is None:
            message = "intentions are not followed here: without mutual TLS there is nobody to decide on"
            await abort(context, Error(Code.FAILED_PRECONDITION, message, reason="NO_IDENTITY"))
        async for found in self._intentions.to(request.service):
            yield pb.WatchIntentionsResponse(intentions=intentions_wire.to_message(found))

    async def ExplainService(self, request: pb.ExplainServiceRequest, context: Context) -> Explanation:
        """Why the calls of a service do what they do."""
        try:
            return await explained(
                request, self._registry, self._catalog, self._source, self._intentions, self._settings.address
            )
        except Error as error:
            await abort(context, error)
            raise


async def serve(settings: SidecarSettings) -> None:
    """Run a sidecar until SIGTERM or SIGINT. FAILED_PRECONDITION when there is another one on the socket."""
    with stopping() as stop:
        async with claimed(settings.lock, patience_seconds=CLAIM_SECONDS) as is_ours, Scope() as scope:
            if not is_ours:
                raise Error(
                    Code.FAILED_PRECONDITION,
                    f"another process is the sidecar on {settings.socket}: stop it, or name another folder with --dir",
                    reason="ALREADY_UP",
                )
            scope.start(_serve(settings), name="sidecar")
            await stop.wait()


async def _serve(settings: SidecarSettings) -> None:
    """Until cancelled, which may be while it waits for its certificate."""
    async with Sidecar(settings):
        _log.info("serving on %s, registry %s", settings.socket, settings.registry.address)
        await asyncio.Event().wait()


async def _tell(attachment: Attachment, context: Context) -> None:
    async for state, reason in attachment.state.changes():
        await context.write(pb.AttachResponse(state=state, reason=reason))


def _policy_message(policy: Policy) -> pb.WatchPolicyResponse:
    methods = [_method_message(path, method) for path, method in policy.methods.items()]
    return pb.WatchPolicyResponse(
        methods=methods,
        fallback=_method_message("", policy.fallback),
        fallback_streams=_method_message("", policy.fallback_streams),
    )


def _method_message(path: str, policy: MethodPolicy) -> pb.MethodPolicy:
    message = pb.MethodPolicy(path=path)
    if policy.timeout_seconds is not None:
        message.timeout.FromTimedelta(timedelta(seconds=policy.timeout_seconds))
    return message
