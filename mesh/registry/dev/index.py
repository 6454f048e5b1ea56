"""The numbers that blocking queries wait for (pure)."""

from __future__ import annotations

from dataclasses import dataclass, field

Scope = str
"""What a query reads, by name; it is touched when that may have changed."""


@dataclass
class Index:
    """One counter for the whole registry, and per scope the number of its last change."""

    first: int = 1
    value: int = field(init=False)
    scopes: dict[Scope, int] = field(default_factory=dict, init=False)
    _touched: set[Scope] = field(default_factory=set, init=False)

    def __post_init__(self) -> None:
        self.value = self.first

    def next(self, *touched: Scope) -> int:
        """Count one change and note it for the scopes that it touches."""
        self.value += 1
        self.scopes.update(dict.fromkeys(touched, self.value))
        self._touched.update(touched)
        return self.value

    def take_touched(self) -> set[Scope]:
        """Scopes touched since this was last asked."""
        touched, self._touched = self._touched, set()
        return touched

    def of(self, scope: Scope) -> int:
        """Number of the last change of a scope."""
        return self.scopes.get(scope, self.first)
