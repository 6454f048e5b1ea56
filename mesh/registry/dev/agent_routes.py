"""`/v1/agent`: where instances are registered and report their health."""

from __future__ import annotations

from aiohttp import web

from mesh.recovery import now
from mesh.registry.dev import shapes
from mesh.registry.dev.core import Core, done, reply
from mesh.registry.dev.parse import check_registration, check_update, flag, registration, unsupported
from mesh.registry.dev.rejected import Rejected

_STATUS = {"pass": "passing", "warn": "warning", "fail": "critical"}


class AgentRoutes:
    """Handlers of the local agent."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def routes(self) -> list[web.RouteDef]:
        """Paths and their handlers."""
        return [
            web.put("/v1/agent/service/register", self.register),
            web.put("/v1/agent/service/deregister/{id:.*}", self.deregister),
            web.get("/v1/agent/services", self.services),
            web.get("/v1/agent/service/{id:(?!register$|deregister/).*}", self.service),
            web.get("/v1/agent/checks", self.checks),
            web.put("/v1/agent/check/register", self.register_check),
            web.put("/v1/agent/check/update/{id:.*}", self.update),
            web.put("/v1/agent/check/deregister/{id:.*}", self.drop_check),
            web.put("/v1/agent/check/{verb:pass|warn|fail}/{id:.*}", self.report),
            web.get("/v1/agent/self", self.self),
            web.get("/v1/agent/members", self.members),
            web.get("/v1/operator/raft/configuration", self.raft),
        ]

    async def register(self, request: web.Request) -> web.Response:
        """Add or change an instance with its TTL checks."""
        service, checks = registration(await request.read())
        replace = flag(request.query, "replace-existing-checks")
        self._core.catalog.register(service, checks, now(), replace_checks=replace)
        return done()

    async def deregister(self, request: web.Request) -> web.Response:
        """Remove an instance."""
        self._core.catalog.deregister(request.match_info["id"])
        return done()

    async def services(self, request: web.Request) -> web.Response:
        """All instances by id."""
        _no_filter(request)
        found = sorted(self._core.catalog.services.items())
        return reply({service_id: shapes.agent_service(service) for service_id, service in found})

    async def service(self, request: web.Request) -> web.Response:
        """One instance."""
        if request.query.get("hash"):
            raise unsupported("hash-based blocking is")
        service = self._core.catalog.services.get(request.match_info["id"])
        if service is None:
            raise Rejected(404, f"unknown service ID: {request.match_info['id']}")
        return reply(shapes.agent_service(service))

    async def checks(self, request: web.Request) -> web.Response:
        """All checks by id, with what each said last."""
        _no_filter(request)
        found = sorted(self._core.catalog.checks.items())
        return reply({check_id: shapes.check(check, self._core.node, local=True) for check_id, check in found})

    async def register_check(self, request: web.Request) -> web.Response:
        """Add or change a TTL check of an instance."""
        check = check_registration(await request.read(), self._core.catalog.services)
        self._core.catalog.put_check(check, now())
        return done()

    async def update(self, request: web.Request) -> web.Response:
        """Renew a check with status and output."""
        status, output = check_update(await request.read())
        return self._report(request.match_info["id"], status, output)

    async def report(self, request: web.Request) -> web.Response:
        """Renew a check by the verb in the path."""
        status = _STATUS[request.match_info["verb"]]
        return self._report(request.match_info["id"], status, request.query.get("note", ""))

    def _report(self, check_id: str, status: str, output: str) -> web.Response:
        if not self._core.catalog.report(check_id, status, output, now()):
            raise Rejected(500, f'CheckID "{check_id}" does not have associated TTL')
        return done()

    async def drop_check(self, request: web.Request) -> web.Response:
        """Remove a check."""
        self._core.catalog.drop_check(request.match_info["id"])
        return done()

    async def self(self, request: web.Request) -> web.Response:
        """Who this agent is."""
        catalog = self._core.catalog
        return reply(shapes.agent_self(self._core.node, services=len(catalog.services), checks=len(catalog.checks)))

    async def members(self, request: web.Request) -> web.Response:
        """The one member."""
        return reply([shapes.member(self._core.node)])

    async def raft(self, request: web.Request) -> web.Response:
        """The one server, which leads itself."""
        return reply(shapes.raft(self._core.node))


def _no_filter(request: web.Request) -> None:
    if "filter" in request.query:
        raise unsupported("filter expressions are")
