"""`/v1/connect` and `/v1/agent/connect`: certificates, and which service may call which."""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import TYPE_CHECKING

from aiohttp import web

from mesh.recovery import time_of_day
from mesh.registry.dev import connect_shapes as shapes
from mesh.registry.dev.authority import ROOTS, leaf_scope
from mesh.registry.dev.core import Core, done, reply
from mesh.registry.dev.intentions import DESTINATION, INTENTIONS, SOURCE
from mesh.registry.dev.parse_connect import authority_configuration, intention
from mesh.registry.dev.rejected import Rejected
from mesh.registry.dev.shapes import DATACENTER

if TYPE_CHECKING:
    from mesh.registry.dev.authority import Authority
    from mesh.registry.dev.intentions import Intention

_ID = "/v1/connect/intentions/{id}"


class ConnectRoutes:
    """Handlers of the certificate authority and of intentions."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def routes(self) -> list[web.RouteDef]:
        """Paths and their handlers."""
        return [
            web.get("/v1/agent/connect/ca/roots", self.roots),
            web.get("/v1/connect/ca/roots", self.roots),
            web.get("/v1/agent/connect/ca/leaf/{service:.*}", self.leaf),
            web.get("/v1/connect/ca/configuration", self.configuration),
            web.put("/v1/connect/ca/configuration", self.configure),
            web.get("/v1/connect/intentions", self.intentions),
            web.post("/v1/connect/intentions", self.create),
            web.get("/v1/connect/intentions/match", self.match),
            web.get("/v1/connect/intentions/check", self.check),
            web.get(_ID, self.intention),
            web.put(_ID, self.update),
            web.delete(_ID, self.delete),
        ]

    async def roots(self, request: web.Request) -> web.Response:
        """Whom to trust."""
        authority = await self._authority()
        return await self._core.query(
            request, ROOTS, lambda: (self._core.index.of(ROOTS), reply(shapes.roots(authority)))
        )

    async def leaf(self, request: web.Request) -> web.Response:
        """Certificate and key of a service; held until it is time for another one."""
        await self._authority()
        service = request.match_info["service"]
        if not service:
            raise Rejected(500, "URI must be either service or agent")
        return await self._core.query(request, leaf_scope(service), lambda: self._leaf(service))

    def _leaf(self, service: str) -> tuple[int, web.Response]:
        try:
            found = self._core.authority.leaf(service, DATACENTER, time_of_day())
        except ValueError as error:
            raise Rejected(500, str(error)) from error
        return found.index, reply(shapes.leaf(found))

    async def configuration(self, request: web.Request) -> web.Response:
        """How certificates are made."""
        return reply(shapes.configuration(await self._authority()))

    async def configure(self, request: web.Request) -> web.Response:
        """Change how long leaves live, or the root, which is signed by the one before as well."""
        authority = await self._authority()
        seconds, key = authority_configuration(await request.read())
        try:
            authority.configure(time_of_day(), leaf_seconds=seconds, key=key)
        except ValueError as error:
            raise Rejected(500, f"error generating CA root certificate: {error}") from error
        await self._core.keep_authority()
        return done()

    async def intentions(self, request: web.Request) -> web.Response:
        """All intentions, the most precise first."""
        return await self._core.query(request, INTENTIONS, lambda: (self._core.index.of(INTENTIONS), self._all()))

    def _all(self) -> web.Response:
        return reply([shapes.intention(found) for found in self._core.intentions.all()])

    async def intention(self, request: web.Request) -> web.Response:
        """One intention."""
        found = self._core.intentions.get(_id(request, 400, "Bad request: "))
        if found is None:
            raise Rejected(404, "Intention not found")
        return await self._core.query(
            request, INTENTIONS, lambda: (found.modify_index, reply(shapes.intention(found)))
        )

    async def create(self, request: web.Request) -> web.Response:
        """Add an intention."""
        return await self._put(intention(await request.read(), str(uuid.uuid4()), _moment(), is_new=True))

    async def update(self, request: web.Request) -> web.Response:
        """Replace an intention."""
        known_id = _id(request, 500, "Intention lookup failed: ")
        known = self._core.intentions.get(known_id)
        if known is None:
            raise Rejected(500, f"Cannot modify non-existent intention: '{known_id}'")
        changed = intention(await request.read(), known_id, _moment(), is_new=False)
        return await self._put(replace(changed, created_at=known.created_at))

    async def _put(self, wanted: Intention) -> web.Response:
        if other := self._core.intentions.like(wanted):
            ends = f"{other.action.upper()} default/{other.source} => default/{other.destination}"
            text = f"duplicate intention found: {ends} (ID: {other.id}, Precedence: {other.precedence})"
            raise Rejected(500, text)
        self._core.intentions.put(wanted)
        await self._core.keep_intention(wanted.id)
        return reply({"ID": wanted.id})

    async def delete(self, request: web.Request) -> web.Response:
        """Remove an intention."""
        known_id = _id(request, 500, "Intention lookup failed: ")
        if not self._core.intentions.delete(known_id):
            raise Rejected(500, f"Cannot delete non-existent intention: '{known_id}'")
        await self._core.keep_intention(known_id)
        return reply(True)

    async def match(self, request: web.Request) -> web.Response:
        """What is said of services as source or destination, the most precise first."""
        end, names = _required(request, "by"), request.query.getall("name", [])
        if end not in (SOURCE, DESTINATION):
            raise Rejected(500, "'by' parameter must be one of 'source' or 'destination'")
        if not names:
            raise Rejected(500, "required query parameter 'name' not set")
        return reply({name: self._matching(end, name) for name in names})

    def _matching(self, end: str, name: str) -> list[object] | None:
        return [shapes.intention(found) for found in self._core.intentions.match(end, name)] or None

    async def check(self, request: web.Request) -> web.Response:
        """Whether one service may call another."""
        source, destination = _required(request, "source"), _required(request, "destination")
        return reply({"Allowed": self._core.intentions.allowed(source, destination)})

    async def _authority(self) -> Authority:
        """The authority; made, and kept on disk, when it is first needed."""
        authority = self._core.authority
        if authority.begin(time_of_day()):
            await self._core.keep_authority()
        return authority


def _moment() -> str:
    return time_of_day().isoformat().replace("+00:00", "Z")


def _required(request: web.Request, name: str) -> str:
    if name not in request.query:
        raise Rejected(500, f"required query parameter '{name}' not set")
    return request.query[name]


def _id(request: web.Request, status: int, begin: str) -> str:
    text = request.match_info["id"]
    if len(text) != 36:
        raise Rejected(status, f"{begin}failed intention lookup: index error: UUID must be 36 characters")
    return text
