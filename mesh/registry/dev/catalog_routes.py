"""`/v1/catalog`, `/v1/health` and `/v1/status`: what clients find instances with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from aiohttp import web

from mesh.registry.dev import shapes
from mesh.registry.dev.core import Core, reply
from mesh.registry.dev.parse import flag
from mesh.registry.dev.rejected import Rejected
from mesh.registry.dev.state import CHECKS, PASSING, SERVICES, Check, Service, service_scope

NODES = "nodes"


class CatalogRoutes:
    """Handlers that read the catalog."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def routes(self) -> list[web.RouteDef]:
        """Paths and their handlers."""
        return [
            web.get("/v1/catalog/services", self.services),
            web.get("/v1/catalog/service/{name:.*}", self.service),
            web.get("/v1/catalog/nodes", self.nodes),
            web.get("/v1/catalog/node/{name:.*}", self.node),
            web.get("/v1/catalog/datacenters", self.datacenters),
            web.get("/v1/health/service/{name:.*}", self.health),
            web.get("/v1/health/checks/{name:.*}", self.checks),
            web.get("/v1/health/node/{name:.*}", self.node_health),
            web.get("/v1/health/state/{state:.*}", self.state),
            web.get("/v1/status/leader", self.leader),
            web.get("/v1/status/peers", self.peers),
        ]

    async def services(self, request: web.Request) -> web.Response:
        """Names with their tags."""
        return await self._query(request, SERVICES, lambda: self._core.catalog.tags())

    async def service(self, request: web.Request) -> web.Response:
        """Instances of a service, without health."""
        name = _name(request)
        tags = request.query.getall("tag", [])
        return await self._query(
            request,
            service_scope(name),
            lambda: [shapes.catalog_service(found, self._core.node) for found in self._named(name, tags)],
        )

    async def health(self, request: web.Request) -> web.Response:
        """Instances of a service with their checks."""
        name = _name(request)
        tags, passing = request.query.getall("tag", []), flag(request.query, "passing")
        return await self._query(request, service_scope(name), lambda: list(self._health(name, tags, passing)))

    async def checks(self, request: web.Request) -> web.Response:
        """Checks of the instances of a service."""
        name = _name(request)
        return await self._query(request, service_scope(name), lambda: self._shaped(self._checks_of(name)))

    async def node_health(self, request: web.Request) -> web.Response:
        """All checks of a node."""
        here = request.match_info["name"] == self._core.node.name
        return await self._query(request, CHECKS, lambda: self._all_checks("any") if here else [])

    async def state(self, request: web.Request) -> web.Response:
        """All checks with a status, or `any`."""
        wanted = request.match_info["state"]
        if not wanted:
            raise Rejected(400, "Missing check state")
        return await self._query(request, CHECKS, lambda: self._all_checks(wanted))

    async def nodes(self, request: web.Request) -> web.Response:
        """The one node."""
        return await self._query(request, NODES, lambda: [shapes.node(self._core.node)])

    async def node(self, request: web.Request) -> web.Response:
        """A node with its services."""
        here = request.match_info["name"] == self._core.node.name
        return await self._query(request, SERVICES, lambda: self._node_services() if here else None)

    async def datacenters(self, request: web.Request) -> web.Response:
        """The one datacenter."""
        return reply([shapes.DATACENTER])

    async def leader(self, request: web.Request) -> web.Response:
        """This registry."""
        return reply(self._core.node.leader)

    async def peers(self, request: web.Request) -> web.Response:
        """This registry alone."""
        return reply([self._core.node.leader])

    async def _query(self, request: web.Request, scope: str, content: Any) -> web.Response:
        return await self._core.query(request, scope, lambda: (self._core.index.of(scope), reply(content())))

    def _named(self, name: str, tags: list[str]) -> list[Service]:
        return [found for found in self._core.catalog.named(name) if set(tags) <= set(found.tags)]

    def _health(self, name: str, tags: list[str], passing: bool) -> Iterator[dict[str, Any]]:
        node, always = shapes.node(self._core.node), shapes.node_check(self._core.node)
        for service in self._named(name, tags):
            checks = self._core.catalog.checks_of(service.id)
            if not passing or all(check.status == PASSING for check in checks):
                yield {
                    "Node": node,
                    "Service": shapes.health_service(service),
                    "Checks": [always, *self._shaped(checks)],
                }

    def _checks_of(self, name: str) -> list[Check]:
        catalog = self._core.catalog
        return [check for service in catalog.named(name) for check in catalog.checks_of(service.id)]

    def _all_checks(self, wanted: str) -> list[dict[str, Any]]:
        found = self._shaped([check for _, check in sorted(self._core.catalog.checks.items())])
        every = [shapes.node_check(self._core.node), *found]
        return [check for check in every if wanted in ("any", check["Status"])]

    def _shaped(self, checks: list[Check]) -> list[dict[str, Any]]:
        return [shapes.check(check, self._core.node) for check in checks]

    def _node_services(self) -> dict[str, Any]:
        services = {found.id: shapes.health_service(found) for found in self._core.catalog.services.values()}
        return {"Node": shapes.node(self._core.node), "Services": services}


def _name(request: web.Request) -> str:
    name = request.match_info["name"]
    if not name:
        raise Rejected(400, "Missing service name")
    return name
