"""The console's pages: one document for every address that is a page, and the modules that fill it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_STATIC = Path(__file__).parent / "static"
_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
_PAGES = ("", "traces", "traces/{id}", "services", "events", "mesh")
# Everything comes from this process, and nothing that a span says can run.
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-cache",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def routes(doubt: Callable[[str], Awaitable[str]]) -> list[web.RouteDef]:
    """Every page, and /console/static/ with what it is made of.

    `doubt` says why there is no service of a name, whose page has status 404 then; its modules say so within it.
    """
    document = _file(_STATIC / "index.html")

    async def service(request: web.Request) -> web.Response:
        page = await document(request)
        page.set_status(404 if await doubt(request.match_info["name"]) else 200)
        return page

    files = sorted(path for path in _STATIC.iterdir() if path.suffix in _TYPES and path.suffix != ".html")
    return [
        web.get("/", _to_console),
        web.get("/console", _to_console),
        *(web.get(f"/console/{page}", document) for page in _PAGES),
        web.get("/console/services/{name}", service),
        *(web.get(f"/console/static/{path.name}", _file(path)) for path in files),
    ]


def _file(path: Path) -> Callable[[web.Request], Awaitable[web.Response]]:
    body, kind = path.read_bytes(), _TYPES[path.suffix]

    async def answer(_request: web.Request) -> web.Response:
        return web.Response(body=body, content_type=kind, charset="utf-8", headers=_HEADERS)

    return answer


async def _to_console(_request: web.Request) -> web.Response:
    raise web.HTTPTemporaryRedirect("/console/")
