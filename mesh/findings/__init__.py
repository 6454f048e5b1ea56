"""What is well with the mesh and what is not, each failure with the command that mends it. Pure."""

from __future__ import annotations

import re
from typing import Final

from meshwright.check.v1.check_service_pb2 import Finding

GROUPS: Final = (
    "registry", "sidecar", "identity", "gateway", "subscriptions", "policies", "descriptors", "processes", "instances",
    "clock",
)  # fmt: skip
"""In the order in which they are told."""

_UNSEEN: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")
"""What no line has: whoever named a thing so writes neither a second command nor into somebody's terminal."""


def good(group: str, text: str) -> Finding:
    """Something that is as it should be."""
    return Finding(group=group, passed=True, text=_line(text))


def warn(group: str, text: str, remedy: str) -> Finding:
    """Something that somebody chose, and that nobody should overlook; with the command that ends it."""
    return Finding(group=group, passed=True, text=_line(text), remedy=_UNSEEN.sub(" ", remedy))


def bad(group: str, text: str, remedy: str, address: str = "") -> Finding:
    """Something that is not."""
    return Finding(group=group, text=_line(text), remedy=_UNSEEN.sub(" ", remedy), address=address)


def _line(text: str) -> str:
    return " ".join(_UNSEEN.sub(" ", text).split())


def count(number: int, noun: str, nouns: str = "") -> str:
    """How many of a thing there are, as one says it."""
    return f"{number} {noun if number == 1 else nouns or noun + 's'}"
