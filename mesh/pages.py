"""Pages of metrics that programs of this host show."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse
from pathlib import Path

from mesh.recovery import now

ANSWER_SECONDS = 1.0
"""How long a page may take: who does not answer is told of elsewhere."""

MOST_BYTES = 1 << 23
"""How long a page may be: that of a service has some 100 kB."""

_AT_ONCE = 8
_PART_BYTES = 1 << 16


def of_programs(run: Path) -> list[str]:
    """Those of the programs that a run folder lists and that answer. Blocks for as long as they may take."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(_page, _addresses(run)))


def _addresses(run: Path) -> list[str]:
    with suppress(OSError, ValueError, LookupError, TypeError):
        return [one for group in json.loads((run / "targets.json").read_text("utf-8")) for one in group["targets"]]
    return []


def _page(address: str) -> str:
    """Empty where nobody answers, or with what is no page."""
    try:
        with closing(HTTPConnection(address, timeout=ANSWER_SECONDS)) as connection:
            connection.request("GET", "/metrics")
            return str(_all(connection.getresponse(), now() + ANSWER_SECONDS), "utf-8")
    except (OSError, ValueError, HTTPException):
        return ""


def _all(answer: HTTPResponse, until: float) -> bytes:
    """Raises ValueError for what is too long, or takes too long."""
    page = bytearray()
    while part := answer.read1(_PART_BYTES):
        page += part
        if len(page) > MOST_BYTES or now() > until:
            raise ValueError("no page of metrics is like that")
    return bytes(page)
