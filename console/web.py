"""The console's HTTP side: Jaeger's query API under /api/, and everything else put together."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from aiohttp import web

from console import jaeger, pages, search, topology
from console.access import guarding
from console.body import answer, packed
from console.errors import answering
from mesh.errors import Code, Error
from mesh.status import to_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from console.data import Data
    from console.digest import Digest
    from console.settings import Settings
    from console.store import Store, Trace

_HOUR = 3_600_000


def web_app(store: Store, digest: Digest, data: Data, settings: Settings) -> web.Application:
    """GET only; errors under /api/ in Jaeger's shape, elsewhere in the mesh's."""
    api = _Api(store, digest)
    app = web.Application(middlewares=[_ANSWERING, guarding(settings.names, settings.token)])
    app.router.add_get("/api/services", api.services)
    app.router.add_get("/api/services/{service}/operations", api.operation_names)
    app.router.add_get("/api/operations", api.operations)
    app.router.add_get("/api/traces", api.search)
    app.router.add_get("/api/traces/{trace_id}", api.trace)
    app.router.add_get("/api/dependencies", api.dependencies)
    app.router.add_routes([*pages.routes(data.doubt), *data.routes()])
    return app


class _Api:
    """Jaeger's query API over one store.

    The store is read on the event loop; decoding and rendering run in a thread, so that a trace of 10,000 spans
    does not hold up the exports.
    """

    def __init__(self, store: Store, digest: Digest) -> None:
        self._store = store
        self._digest = digest

    async def services(self, _request: web.Request) -> web.Response:
        names = self._store.services()
        return _json(jaeger.answer(names, total=len(names)))

    async def operation_names(self, request: web.Request) -> web.Response:
        service = request.match_info["service"]
        pairs = await asyncio.to_thread(search.operations, service, self._store.traces_of(service))
        names = sorted({name for name, _ in pairs})
        return _json(jaeger.answer(names, total=len(names)))

    async def operations(self, request: web.Request) -> web.Response:
        service = request.query.get("service", "")
        if not service:
            raise Error(Code.INVALID_ARGUMENT, "parameter 'service' is required; /api/services lists them")
        kind = request.query.get("spanKind", "")
        pairs = await asyncio.to_thread(search.operations, service, self._store.traces_of(service), kind)
        data = [{"name": name, "spanKind": kind} for name, kind in pairs]
        return _json(jaeger.answer(data, total=len(data)))

    async def trace(self, request: web.Request) -> web.Response:
        found = self._store.trace(search.trace_id(request.match_info["trace_id"]))
        if found is None:
            raise Error(Code.NOT_FOUND, "trace not found")
        return await _traces([found])

    async def dependencies(self, request: web.Request) -> web.Response:
        """Calls between services within `lookback` before `endTs`, both in milliseconds; of the last hour at most."""
        now = time.time_ns()
        until = _milliseconds(request.query, "endTs", now // 1_000_000)
        lookback = _milliseconds(request.query, "lookback", _HOUR)
        found = topology.dependencies(self._digest, (until - lookback) * 1_000_000, until * 1_000_000, now)
        return _json(jaeger.answer(found, total=len(found)))

    async def search(self, request: web.Request) -> web.Response:
        parameters = {name: request.query.getall(name) for name in request.query}
        if parameters.get("traceID"):
            return await self._by_ids(parameters["traceID"])
        query = search.parse(parameters)
        found = await asyncio.to_thread(search.run, query, self._store.traces_of(query.service))
        return await _traces(found)

    async def _by_ids(self, texts: Sequence[str]) -> web.Response:
        ids = dict.fromkeys(search.trace_id(text) for text in texts)
        found = {one: self._store.trace(one) for one in ids}
        missing = [{"msg": "trace not found", "traceID": one.hex()} for one, value in found.items() if not value]
        return await _traces([one for one in found.values() if one], missing or None)


async def _traces(found: Sequence[Trace], errors: list[dict[str, Any]] | None = None) -> web.Response:
    def render() -> bytes:
        return packed(jaeger.answer([jaeger.trace(one) for one in found], errors=errors))

    return answer(await asyncio.to_thread(render))


def _json(tree: dict[str, Any], status: int = 200) -> web.Response:
    return answer(packed(tree), status)



def _milliseconds(parameters: Mapping[str, str], name: str, default: int) -> int:
    text = parameters.get(name) or str(default)
    if not (text.isascii() and text.isdecimal() and len(text) <= 16):
        message = f"'{name}' must be whole milliseconds, got {text[:80]!r}"
        raise Error(Code.INVALID_ARGUMENT, message, reason="INVALID_QUERY")
    return int(text)


def _failure(request: web.Request, status: int, error: Error) -> web.Response:
    if request.path == "/api" or request.path.startswith("/api/"):
        return _json(jaeger.failure(status, error.message), status)
    return _json(to_json(error), status)


_ANSWERING = answering(_failure, offers="; try GET /api/services or /console/", name="the console")
