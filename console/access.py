"""Who may read the console: Host and Origin against pages of others, a token where others can reach it at all.

A page of a stranger can have a browser ask here by a name of the stranger's that leads here (DNS rebinding), but not by
an IP address, nor by localhost; so these are let in, and names that were given.
"""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode, urlsplit

from aiohttp import web

from mesh.errors import Code, Error
from mesh.registry.model import is_ip

if TYPE_CHECKING:
    from collections.abc import Collection

    from aiohttp.typedefs import Handler, Middleware

COOKIE = "meshwright_console"
PARAMETER = "token"


def is_ours(host: str, names: Collection[str] = ()) -> bool:
    """Whether a Host header, with a port or without, names this console and nobody else's name for it."""
    try:
        name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return False
    return name == "localhost" or name.endswith(".localhost") or is_ip(name) or name in names


def is_same_origin(origin: str, host: str) -> bool:
    """Whether an Origin header names the host that was asked; an opaque one (`null`) never does."""
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and parts.netloc.lower() == host.lower()


def guarding(names: Collection[str], token: str) -> Middleware:
    """A middleware for what names this console, comes from its own pages, and has the token if there is one."""

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        _check_names(request, names)
        if token and not _has(request, token):
            if hmac.compare_digest(request.query.get(PARAMETER, "").encode(), token.encode()):
                return _let_in(request, token)
            message = "a token is needed: open the URL that was shown at the start, or send it as Authorization: Bearer"
            raise Error(Code.UNAUTHENTICATED, message, reason="TOKEN_NEEDED")
        return await handler(request)

    return guard


def _check_names(request: web.Request, names: Collection[str]) -> None:
    host = request.headers.get("Host", "")
    if not is_ours(host, names):
        message = f"the console is not served as {host[:100]!r}: ask by IP address, or name it in MESH_CONSOLE_HOSTS"
        raise Error(Code.PERMISSION_DENIED, message, reason="WRONG_HOST")
    origin = request.headers.get("Origin")
    if origin is not None and not is_same_origin(origin, host):
        message = f"pages of {origin[:100]!r} may not read the console"
        raise Error(Code.PERMISSION_DENIED, message, reason="WRONG_ORIGIN")


def _has(request: web.Request, token: str) -> bool:
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    sent = given.strip() if scheme.lower() == "bearer" else request.cookies.get(COOKIE, "")
    return hmac.compare_digest(sent.encode(), token.encode())


def _let_in(request: web.Request, token: str) -> web.StreamResponse:
    """The same page again without the token in its address, which people share."""
    rest = [(key, value) for key, value in request.query.items() if key != PARAMETER]
    path = "/" + request.path.lstrip("/")
    answer = web.Response(status=303, headers={"Location": quote(path) + (f"?{urlencode(rest)}" if rest else "")})
    answer.headers["Cache-Control"] = "no-store"
    answer.set_cookie(COOKIE, token, httponly=True, samesite="Lax", max_age=30 * 24 * 3600, path="/")
    return answer
