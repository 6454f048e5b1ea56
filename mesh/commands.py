"""Commands for people to paste. A name in one may be anybody's choice, so to the shell it is one word, always. Pure."""

from __future__ import annotations

import shlex
from urllib.parse import quote, urlencode

word = shlex.quote
"""A text as one word; in a comment too, as not every shell knows those where people type."""

words = shlex.join
"""Several texts, each as one word."""


def curl(registry: str, *path: str, method: str = "", body: str = "", **query: str) -> str:
    """Asks a registry at an address, or with a `method` changes something there; fails where that is refused."""
    place = "/".join(quote(part, errors="replace") for part in path)
    asked = "?" + urlencode(query, errors="replace", quote_via=quote) if query else ""
    data = f" -d {word(body)}" if body else ""
    return f"curl {f'-fsS -X {method}' if method else '-s'} {word(f'{registry}/v1/{place}{asked}')}{data}"
