"""How both HTTP sides of the console answer what fails: every error once, in the form that its reader expects."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from aiohttp import web

from console import decode
from mesh.errors import Code, Error

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp.typedefs import Handler, Middleware

log = logging.getLogger(__name__)


def answering(failure: Callable[[web.Request, int, Error], web.Response], *, offers: str, name: str) -> Middleware:
    """A middleware that has `failure` render every error with its HTTP status.

    `offers` tells who asks for something else what is served; `name` is the part whose log says more.
    """

    @web.middleware
    async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except Error as error:
            return failure(request, _status(error), error)
        except web.HTTPRequestEntityTooLarge:
            return failure(request, 413, decode.too_large(request.client_max_size))
        except web.HTTPRedirection:
            raise
        except web.HTTPException as error:
            message = f"{request.method} {request.path} is not served here{offers}"
            refusal = failure(request, error.status, Error(Code.from_http_status(error.status), message))
            if "Allow" in error.headers:
                refusal.headers["Allow"] = error.headers["Allow"]
            return refusal
        except Exception:
            log.exception("%s failed at %s %s", name, request.method, request.path)
            return failure(request, 500, Error(Code.INTERNAL, f"{name} failed; its log says why"))

    return answer


def _status(error: Error) -> int:
    return 413 if error.code is Code.RESOURCE_EXHAUSTED else error.code.http_status
