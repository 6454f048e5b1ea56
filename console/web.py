"""The console's HTTP side: Jaeger's query API under /api/, a static page under /console/."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiohttp import web

from console import jaeger, search
from console.errors import answering
from mesh.errors import Code, Error
from mesh.status import to_json

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from console.store import Store, Trace

_STATIC = Path(__file__).parent / "static"
_STATIC_TYPES = {
    "index.html": "text/html",
    "console.js": "text/javascript",
    "console.css": "text/css",
}
# Everything comes from this process, and nothing that a span says can run.
_PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-cache",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_API_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


def web_app(store: Store) -> web.Application:
    """GET only; errors under /api/ in Jaeger's shape, elsewhere in the mesh's."""
    api = _Api(store)
    app = web.Application(middlewares=[_ANSWERING])
    app.router.add_get("/api/services", api.services)
    app.router.add_get("/api/services/{service}/operations", api.operation_names)
    app.router.add_get("/api/operations", api.operations)
    app.router.add_get("/api/traces", api.search)
    app.router.add_get("/api/traces/{trace_id}", api.trace)
    app.router.add_get("/", _to_console)
    app.router.add_get("/console", _to_console)
    app.router.add_get("/console/", _page("index.html"))
    app.router.add_get("/console/store.json", api.usage)
    for name in ("console.js", "console.css"):
        app.router.add_get(f"/console/{name}", _page(name))
    return app


class _Api:
    """Jaeger's query API over one store.

    The store is read on the event loop; decoding and rendering run in a thread, so that a trace of 10,000 spans
    does not hold up the exports.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    async def usage(self, _request: web.Request) -> web.Response:
        """How full the store is, and what became of all spans so far."""
        store = self._store
        now = {"spans": store.span_count, "traces": store.trace_count, "bytes": store.byte_count}
        return _json({"now": now, "limits": asdict(store.limits), "since_start": asdict(store.counts)})

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
        return _bytes(jaeger.answer([jaeger.trace(one) for one in found], errors=errors))

    return _body(await asyncio.to_thread(render))


def _json(tree: dict[str, Any], status: int = 200) -> web.Response:
    return _body(_bytes(tree), status)


def _bytes(tree: dict[str, Any]) -> bytes:
    return json.dumps(tree, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def _body(body: bytes, status: int = 200) -> web.Response:
    return web.Response(status=status, body=body, content_type="application/json", headers=_API_HEADERS)


def _page(name: str) -> Callable[[web.Request], Awaitable[web.Response]]:
    text = (_STATIC / name).read_text(encoding="utf-8")

    async def page(_request: web.Request) -> web.Response:
        return web.Response(text=text, content_type=_STATIC_TYPES[name], headers=_PAGE_HEADERS)

    return page


async def _to_console(_request: web.Request) -> web.Response:
    raise web.HTTPTemporaryRedirect("/console/")


def _failure(request: web.Request, status: int, error: Error) -> web.Response:
    if request.path == "/api" or request.path.startswith("/api/"):
        return _json(jaeger.failure(status, error.message), status)
    return _json(to_json(error), status)


_ANSWERING = answering(_failure, offers="; try GET /api/services or /console/", name="the console")
