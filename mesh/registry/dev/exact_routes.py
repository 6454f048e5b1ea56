"""`/v1/connect/intentions/exact`: one intention by its two services, as of Consul 1.9.

It is kept as a source of the `service-intentions` entry of its destination, as that Consul keeps all.
https://developer.hashicorp.com/consul/api-docs/connect/intentions
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from mesh.registry.dev import connect_shapes as shapes
from mesh.registry.dev.core import Core, reply
from mesh.registry.dev.intentions import INTENTIONS, KIND, check_entry
from mesh.registry.dev.parse_connect import Ends, ends, source_of
from mesh.registry.dev.rejected import Rejected

_PATH = "/v1/connect/intentions/exact"


class ExactRoutes:
    """Handlers of intentions that have no id."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def routes(self) -> list[web.RouteDef]:
        """Paths and their handlers; before those with an id, as this path looks like one."""
        return [web.get(_PATH, self.get), web.put(_PATH, self.put), web.delete(_PATH, self.delete)]

    async def get(self, request: web.Request) -> web.Response:
        """What is said of two services."""
        wanted = ends(request.query)
        return await self._core.query(request, INTENTIONS, lambda: self._told(wanted))

    def _told(self, wanted: Ends) -> tuple[int, web.Response]:
        found = self._core.intentions.between(*wanted)
        if found is None:
            raise Rejected(404, "Intention not found")
        return self._core.index.of(INTENTIONS), reply(shapes.intention(found))

    async def put(self, request: web.Request) -> web.Response:
        """Say something of two services, in place of what was said of them."""
        wanted = ends(request.query)
        said = source_of(await request.read(), wanted)
        entry = {**self._entry(wanted), "Sources": [*self._others(wanted), said]}
        check_entry(entry, ())
        await self._keep(wanted, entry)
        return reply(True)

    async def delete(self, request: web.Request) -> web.Response:
        """Say nothing of two services any more."""
        wanted = ends(request.query)
        await self._keep(wanted, {**self._entry(wanted), "Sources": self._others(wanted)})
        return reply(True)

    def _entry(self, wanted: Ends) -> Mapping[str, Any]:
        return self._core.entries.get(KIND, wanted.destination) or {"Kind": KIND, "Name": wanted.destination}

    def _others(self, wanted: Ends) -> list[Any]:
        """What the entry says of other sources."""
        return [one for one in self._entry(wanted).get("Sources") or () if one["Name"] != wanted.source]

    async def _keep(self, wanted: Ends, entry: Mapping[str, Any]) -> None:
        """In place of the entry that there is, and of an intention with an id."""
        held = self._core.intentions.between(*wanted)
        if held and held.id:
            self._core.intentions.delete(held.id)
        if entry["Sources"]:
            self._core.entries.put(entry)
        else:
            self._core.entries.delete(KIND, wanted.destination)
        if held and held.id:
            await self._core.keep_intention(held.id)
        await self._core.keep_entry(KIND, wanted.destination)
