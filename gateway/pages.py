"""What the control process serves over HTTP, through Envoy: the OpenAPI document and the page that shows it.

Nothing of it comes from elsewhere: the page works where there is no internet.
"""

from __future__ import annotations

import importlib.util
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from aiohttp import ETag, web

from gateway.openapi import openapi
from mesh.errors import Code, Error
from mesh.sockets import taking_over
from mesh.status import to_json
from mesh.xds.snapshot import digest

if TYPE_CHECKING:
    from gateway.descriptors import Merged

_log = logging.getLogger(__name__)

Current = Callable[[], "Merged | None"]
"""The contracts in force; None while they are not known yet."""

_TYPES: Final = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".json": "application/json",
    ".png": "image/png",
}
_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    # Kept by the browser, and asked for again with its ETag each time: an answer is never an old one.
    "Cache-Control": "no-cache",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True, kw_only=True)
class Page:
    """One thing to serve."""

    body: bytes
    content_type: str
    etag: str

    @classmethod
    def of(cls, body: bytes, suffix: str) -> Page:
        """A page whose type is that of files with this suffix."""
        return cls(body=body, content_type=_TYPES[suffix], etag=digest([body]))


@asynccontextmanager
async def serve_pages(socket: Path, current: Current) -> AsyncIterator[None]:
    """Serve on a Unix socket for as long as the context is open."""
    runner = web.AppRunner(pages_app(current), access_log=None, handle_signals=False)
    await runner.setup()
    try:
        with taking_over(socket) as draft:
            await web.UnixSite(runner, str(draft)).start()
        yield
    finally:
        await runner.cleanup()


def pages_app(current: Current) -> web.Application:
    """GET and HEAD of /openapi.json, /docs and what that page needs."""
    app = web.Application(middlewares=[_answer_errors])
    app.router.add_get("/openapi.json", _Description(current).answer)
    app.router.add_get("/docs", _file(_own, "docs.html"))
    app.router.add_get("/docs/", _to_docs)
    for name in ("docs.css", "docs.js"):
        app.router.add_get(f"/docs/{name}", _file(_own, name))
    for name in ("favicon-32x32.png", "swagger-ui.css", "swagger-ui-bundle.js"):
        app.router.add_get(f"/docs/{name}", _file(_swagger_ui, name))
    return app


def _own() -> Path:
    return Path(__file__).parent / "static"


def _swagger_ui() -> Path:
    """Folder of Swagger UI, of whatever version is installed. Error (NOT_FOUND) when none is."""
    package = importlib.util.find_spec("swagger_ui_bundle")
    folders = Path(package.origin).parent.glob("vendor/swagger-ui-*") if package and package.origin else ()
    found = max(folders, default=None)
    if found is None:
        raise Error(Code.NOT_FOUND, "Swagger UI is not installed: pip install swagger-ui-bundle-v2")
    return found


_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class _Description:
    """The OpenAPI document, made when somebody asks and kept until the contracts change."""

    def __init__(self, current: Current) -> None:
        self._current = current
        self._held: tuple[Merged, Page] | None = None

    async def answer(self, request: web.Request) -> web.StreamResponse:
        merged = self._current()
        if merged is None:
            raise Error(Code.UNAVAILABLE, "the registry has not been heard yet; try again", retry_after_seconds=1)
        if self._held is None or self._held[0] is not merged:
            text = json.dumps(openapi(merged), ensure_ascii=False, indent=1)
            self._held = merged, Page.of(text.encode(), ".json")
        return _answer(request, self._held[1])


def _file(folder: Callable[[], Path], name: str) -> _Handler:
    @lru_cache(maxsize=1)
    def read() -> Page:
        path = folder() / name
        return Page.of(path.read_bytes(), path.suffix)

    async def answer(request: web.Request) -> web.StreamResponse:
        return _answer(request, read())

    return answer


def _answer(request: web.Request, page: Page) -> web.StreamResponse:
    """The page, or 304 for one who has it."""
    known = request.if_none_match or ()
    if any(tag.value in (page.etag, "*") for tag in known):
        made = web.Response(status=304, headers=_HEADERS)
    else:
        made = web.Response(body=page.body, content_type=page.content_type, headers=_HEADERS)
        if page.content_type.startswith("text/"):
            made.charset = "utf-8"
        if page.content_type != "image/png":
            made.enable_compression()
    # Weak, because the compressed one and the plain one share it (RFC 9110, 8.8.1).
    made.etag = ETag(page.etag, is_weak=True)
    made.headers["Vary"] = "Accept-Encoding"
    return made


async def _to_docs(_request: web.Request) -> web.StreamResponse:
    raise web.HTTPTemporaryRedirect("/docs")


@web.middleware
async def _answer_errors(request: web.Request, handler: _Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except Error as error:
        return _failure(error, error.code.http_status)
    except web.HTTPRedirection:
        raise
    except web.HTTPException as error:
        message = f"{request.method} {request.path} is not served here; try GET /docs or /openapi.json"
        answer = _failure(Error(Code.from_http_status(error.status), message), error.status)
        if "Allow" in error.headers:
            answer.headers["Allow"] = error.headers["Allow"]
        return answer
    except Exception:
        _log.exception("%s could not be served", request.path)
        return _failure(Error(Code.INTERNAL, "the gateway's control process failed; its log says why"), 500)


def _failure(error: Error, status: int) -> web.Response:
    body, headers = json.dumps(to_json(error)).encode(), {"Cache-Control": "no-store"}
    return web.Response(status=status, body=body, content_type="application/json", headers=headers)
