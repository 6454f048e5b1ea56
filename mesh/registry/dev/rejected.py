"""A request that the built-in registry does not fulfil."""

from __future__ import annotations


class Rejected(Exception):
    """Answer with this HTTP status and text."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
