"""Regular expressions and names of headers: only what every client takes is let in. Pure.

A client that is sent one that it does not take refuses all routes with it. So regular expressions are asked of RE2
itself (https://github.com/google/re2/wiki/Syntax), which gRPC and Envoy match with, and names are tokens of RFC 9110.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, Final

import re2

_OURS: Final = re2.Options()
_OURS.log_errors = False

_NOT_IN_GO: Final = re.compile(r"(?<!\\)(?:\\\\)*(?:\\C|\(\?<)")
"""What RE2 knows but gRPC-Go's `regexp` does not, or only lately."""

_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""https://www.rfc-editor.org/rfc/rfc9110.html#name-tokens"""


def fault_of_regex(text: str) -> str:
    """What is wrong with a regular expression; empty for none."""
    try:
        _compiled(text)
    except re2.error as error:
        return f"{text!r} is not a regular expression of RE2: {_words(error)}"
    return f"{text!r} has what RE2 in Go does not have" if _NOT_IN_GO.search(text) else ""


def fault_of_header(name: str) -> str:
    """What is wrong with the name of a header that calls are to be told apart by; empty for nothing."""
    if not name:
        return "is missing"
    if not _TOKEN.fullmatch(name):
        return f"{name!r} is no name of a header"
    return f"{name!r}: binary metadata cannot be matched" if name.lower().endswith("-bin") else ""


def is_whole(regex: str, text: str) -> bool:
    """Whether a good regular expression matches all of a text."""
    return bool(_compiled(regex).fullmatch(text))


@lru_cache(maxsize=1024)
def _compiled(regex: str) -> Any:
    return re2.compile(regex, _OURS)


def _words(error: Exception) -> str:
    said = error.args[0] if error.args else ""
    return said.decode(errors="replace") if isinstance(said, bytes) else str(said)
