"""JSON for the console's own pages, below /console/data/: durations in milliseconds, times in those since 1970."""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from aiohttp import web

from console import search, topology
from console.body import answer, packed
from console.live import Topic
from console.summary import summary
from mesh.errors import Code, Error
from mesh.methods import NO_SERVICE
from mesh.recovery import sleep

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from console.digest import Digest
    from console.mesh_view import MeshView
    from console.store import Store
    from console.tap import Tap

MAX_MINUTES = 60
_SETTLE_SECONDS = 1.0
_MESH_SECONDS = 5.0
"""How often the mesh is looked through for those who follow it: each time, everybody is asked everything."""


class Data:
    """What the pages ask for, about one store, its digest, and the mesh around it (None for a console by itself)."""

    def __init__(self, store: Store, digest: Digest, tap: Tap, view: MeshView | None) -> None:
        self._store = store
        self._digest = digest
        self._tap = tap
        self._view = view
        self.topics = {"map": Topic(self._map), "top": Topic(self._top), "mesh": Topic(self._mesh, _MESH_SECONDS)}

    def routes(self) -> list[web.RouteDef]:
        """All of them."""
        return [
            web.get("/console/data/map", self.map),
            web.get("/console/data/live", self.live),
            web.get("/console/data/services/{name}", self.service),
            web.get("/console/data/traces", self.traces),
            web.get("/console/data/mesh", self.mesh),
            web.get("/console/data/store", self.usage),
        ]

    def end(self) -> None:
        """Let all browsers go that follow something."""
        for topic in self.topics.values():
            topic.end()
        self._tap.end()

    def work(self) -> list[Coroutine[Any, Any, None]]:
        """What is to run as long as the process."""
        return [self.settle(), self._tap.run(), *(topic.run() for topic in self.topics.values())]

    async def settle(self) -> None:
        """Let the digest count what stays half a call; never ends."""
        while True:
            self._digest.settle(time.time_ns())
            await sleep(_SETTLE_SECONDS)

    async def map(self, _request: web.Request) -> web.Response:
        """The service map as it is now."""
        return answer(await self._map())

    async def mesh(self, _request: web.Request) -> web.Response:
        """Subscriptions, findings, faults and processes as they are now."""
        return answer(await self._mesh())

    async def live(self, request: web.Request) -> web.StreamResponse:
        """Server-sent events of one topic, each the whole state; of `tap`, the calls that have ended meanwhile."""
        if (name := request.query.get("topic", "")) == "tap":
            return await self._tap.follow(request, search.wish(request.query))
        topic = self.topics.get(name)
        if topic is None:
            message = f"parameter 'topic' must be one of {', '.join((*self.topics, 'tap'))}"
            raise Error(Code.INVALID_ARGUMENT, message, reason="INVALID_QUERY")
        return await topic.follow(request)

    async def service(self, request: web.Request) -> web.Response:
        """Methods with figures over time, newest mistakes, instances, and the policy in force."""
        name, minutes = request.match_info["name"], _minutes(request.query.get("minutes", "15"))
        if doubt := await self.doubt(name):
            raise Error(Code.NOT_FOUND, doubt, reason=NO_SERVICE)
        page = topology.service_page(self._digest, name, minutes, time.time_ns())
        return answer(packed({**page, **await self._around(name)}))

    async def doubt(self, name: str) -> str:
        """Why there is no such service; empty where there is one, or a span of it, or nobody can say."""
        if self._view is None or name in self._store.services():
            return ""
        return await self._view.doubt(name)

    async def _around(self, name: str) -> dict[str, Any]:
        if self._view is None:
            return {"instances": [], "explain": None}
        explanation, places = await asyncio.gather(self._view.explanation(name), self._view.places())
        return {"instances": topology.instances_of(name, *places), "explain": explanation}

    async def traces(self, request: web.Request) -> web.Response:
        """The newest traces that match, a line for each; parameters as for /api/traces, `service` may be missing."""
        query = search.parse({name: request.query.getall(name) for name in request.query}, any_service=True)
        held = self._store.traces_of(query.service) if query.service else self._store.traces()

        def render() -> bytes:
            return packed({"traces": [summary(one) for one in search.run(query, held)], "limit": query.limit})

        return answer(await asyncio.to_thread(render))

    async def usage(self, _request: web.Request) -> web.Response:
        """How full the store is, and what became of all spans so far."""
        store = self._store
        now = {"spans": store.span_count, "traces": store.trace_count, "bytes": store.byte_count}
        return answer(packed({"now": now, "limits": asdict(store.limits), "since_start": asdict(store.counts)}))

    async def _map(self) -> bytes:
        services, processes = await self._view.places() if self._view else ({}, {})
        return packed(topology.service_map(self._digest, services, processes, time.time_ns()))

    async def _top(self) -> bytes:
        _, processes = await self._view.places() if self._view else ({}, {})
        return packed(topology.busiest(self._digest, processes, time.time_ns()))

    async def _mesh(self) -> bytes:
        return packed(await self._view.state() if self._view else {})


def _minutes(text: str) -> int:
    if not (text.isdecimal() and len(text) <= 4 and 1 <= int(text) <= MAX_MINUTES):
        message = f"'minutes' must be a whole number from 1 to {MAX_MINUTES}, got {text[:80]!r}"
        raise Error(Code.INVALID_ARGUMENT, message, reason="INVALID_QUERY")
    return int(text)

