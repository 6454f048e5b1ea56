"""What is well with the mesh and what is not, each failure with the command that mends it. Pure."""

from __future__ import annotations

from typing import Final

from meshwright.check.v1.check_service_pb2 import Finding

GROUPS: Final = (
    "registry", "sidecar", "identity", "gateway", "subscriptions", "policies", "descriptors", "processes", "instances",
    "clock",
)  # fmt: skip
"""In the order in which they are told."""


def good(group: str, text: str) -> Finding:
    """Something that is as it should be."""
    return Finding(group=group, passed=True, text=text)


def warn(group: str, text: str, remedy: str) -> Finding:
    """Something that somebody chose, and that nobody should overlook; with the command that ends it."""
    return Finding(group=group, passed=True, text=text, remedy=remedy)


def bad(group: str, text: str, remedy: str, address: str = "") -> Finding:
    """Something that is not."""
    return Finding(group=group, text=" ".join(text.split()), remedy=remedy, address=address)


def count(number: int, noun: str, nouns: str = "") -> str:
    """How many of a thing there are, as one says it."""
    return f"{number} {noun if number == 1 else nouns or noun + 's'}"
