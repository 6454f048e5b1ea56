"""Pages of metrics that programs of this host show."""

from __future__ import annotations

import json
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path

ANSWER_SECONDS = 1.0
"""How long a page may take: who does not answer is told of elsewhere."""

_AT_ONCE = 8


def of_programs(run: Path) -> list[str]:
    """Those of the programs that a run folder lists and that answer. Blocks for as long as they may take."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(_page, _addresses(run)))


def _addresses(run: Path) -> list[str]:
    with suppress(OSError, ValueError, LookupError, TypeError):
        return [one for group in json.loads((run / "targets.json").read_text("utf-8")) for one in group["targets"]]
    return []


def _page(address: str) -> str:
    """Empty where nobody answers."""
    try:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=ANSWER_SECONDS) as answer:
            return str(answer.read(), "utf-8")
    except (OSError, ValueError, HTTPException):
        return ""
