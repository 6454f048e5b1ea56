"""Answers in JSON, which no browser keeps or takes for something else."""

from __future__ import annotations

import json
from typing import Any, Final

from aiohttp import web

HEADERS: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


def packed(tree: dict[str, Any]) -> bytes:
    """As JSON; texts of spans may be no Unicode."""
    return json.dumps(tree, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode(errors="replace")


def answer(body: bytes, status: int = 200) -> web.Response:
    """One that is packed already."""
    return web.Response(status=status, body=body, content_type="application/json", headers=HEADERS)
